//! Rows copied between directories and a bucket.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_faults::rows::{expect_all, opened};
use torchcache_faults::sim::Sim;
use torchcache_store::admin::Root;
use torchcache_store::fs::FileSystem;
use torchcache_store::remote::ObjectErrorKind;
use torchcache_store::remote_admin::{PullReport, TransferError};

use crate::common::{
    CACHE, HASH, HOUR, LEN, SEGMENTS, bucket, local, only, pass, put, put_again, readable, root,
    root_of, segment_count,
};

fn dir() -> std::path::PathBuf {
    Path::new("/caches").join(HASH)
}

fn pull(bucket: &torchcache_faults::objects::SimObjects, disk: &Sim) -> PullReport {
    let pulled = root(bucket).pull(&only(bucket), disk, &dir(), false, &());
    pulled.expect("nothing fails")
}

#[test]
fn rows_that_the_bucket_lacks_are_pushed() {
    let bucket = bucket();
    let (_disk, cache) = local([(0..100, LEN), (100..200, 7 * LEN)]);
    let dry = root(&bucket)
        .push(&cache, HASH, true, &())
        .expect("nothing fails");
    assert!(bucket.objects("").is_empty());
    let wet = root(&bucket)
        .push(&cache, HASH, false, &())
        .expect("nothing fails");
    assert_eq!((wet.rows, wet.objects, wet.present), (200, 1, 0));
    assert_eq!((dry.rows, dry.bytes), (wet.rows, wet.bytes));
    assert_eq!(bucket.objects(CACHE).len(), 3, "with manifest and hint");
    assert_eq!(readable(&bucket, 0..200), 200);
    let (_disk, more) = local([(150..250, 7 * LEN)]);
    let more = root(&bucket)
        .push(&more, HASH, false, &())
        .expect("nothing fails");
    assert_eq!((more.rows, more.present, more.objects), (50, 50, 1));
    assert_eq!(readable(&bucket, 0..250), 250);
    let (_disk, same) = local([(0..250, LEN)]);
    let same = root(&bucket)
        .push(&same, HASH, false, &())
        .expect("nothing fails");
    assert_eq!((same.rows, same.objects), (0, 0));
}

#[test]
fn what_was_pushed_before_a_failure_is_found() {
    let bucket = bucket();
    let (_disk, cache) = local([(0..70, 1 << 20)]);
    let puts = AtomicU32::new(0);
    let failing = root_of(bucket.with_faults(move |request| {
        // The manifest and the first object are put.
        let fails = request == Request::PutNew && puts.fetch_add(1, Relaxed) >= 2;
        fails.then_some(ObjectFault::Error(ObjectErrorKind::Denied))
    }));
    let failed = failing.push(&cache, HASH, false, &());
    assert!(matches!(failed, Err(TransferError::Remote(_))));
    assert_eq!(segment_count(&bucket), 1);
    assert_eq!(bucket.objects(&format!("{CACHE}latest")).len(), 1);
}

#[test]
fn damaged_rows_are_not_pushed() {
    let bucket = bucket();
    let (disk, cache) = local([(0..100, LEN)]);
    let segment = disk
        .files(&dir())
        .into_iter()
        .find(|path| path.extension() == Some("tcs".as_ref()));
    disk.damage(&segment.expect("it has one"), |bytes| bytes[20] ^= 1);
    let pushed = root(&bucket)
        .push(&cache, HASH, false, &())
        .expect("nothing fails");
    assert_eq!((pushed.rows, pushed.corrupt), (99, 1));
    assert_eq!(readable(&bucket, 0..100), 99);
}

#[test]
fn rows_that_a_directory_lacks_are_pulled_and_survive_a_power_loss() {
    let bucket = bucket();
    for n in 0..5 {
        put(&bucket, 50 * n..50 * (n + 1));
    }
    put_again(&bucket, 0..60, LEN);
    let (disk, _) = local([(0..20, LEN)]);
    let dry = root(&bucket).pull(&only(&bucket), &disk, &dir(), true, &());
    let dry = dry.expect("nothing fails");
    let wet = pull(&bucket, &disk);
    assert_eq!((wet.rows, wet.segments, wet.present), (230, 1, 20 + 60));
    assert_eq!(
        (dry.rows, dry.bytes, dry.present),
        (wet.rows, wet.bytes, wet.present)
    );
    disk.cut_power(&mut fastrand::Rng::with_seed(1));
    expect_all(&opened(disk.clone(), dir()), 0..250, LEN);
    assert_eq!(pull(&bucket, &disk).rows, 0);

    let empty = Sim::new();
    empty
        .open_dir("/caches".as_ref(), true)
        .expect("it can be made");
    assert_eq!(pull(&bucket, &empty).rows, 250);
    empty.cut_power(&mut fastrand::Rng::with_seed(2));
    expect_all(&opened(empty.clone(), dir()), 0..250, LEN);
    let root = Root::open_on(std::sync::Arc::new(empty), Path::new("/caches"));
    let caches = root
        .and_then(|root| root.list())
        .expect("it can be listed")
        .caches;
    assert_eq!(
        caches[0].manifest().expect("it was pulled").module,
        "demo::Head"
    );
}

#[test]
fn another_copy_takes_the_place_of_a_damaged_row() {
    let bucket = bucket();
    put(&bucket, 0..20);
    pass(&bucket, 1);
    put_again(&bucket, 10..30, LEN);
    let (key, bytes) = bucket.objects(SEGMENTS).swap_remove(1);
    let mut bytes = bytes.to_vec();
    bytes[20] ^= 1;
    bytes[20 + 15 * (LEN + 8)] ^= 1;
    bucket.insert(&key, bytes);
    let disk = Sim::new();
    let pulled = pull(&bucket, &disk);
    assert_eq!((pulled.rows, pulled.corrupt), (29, 2));
}

#[test]
fn rows_that_a_compaction_moves_meanwhile_are_pulled() {
    let bucket = bucket();
    for n in 0..5 {
        put(&bucket, 50 * n..50 * (n + 1));
    }
    pass(&bucket, HOUR);
    let stale = only(&bucket);
    root(&bucket)
        .compact(HASH, false, &())
        .expect("nothing fails");
    pass(&bucket, HOUR + 1);
    root(&bucket)
        .compact(HASH, false, &())
        .expect("nothing fails");
    assert_eq!(segment_count(&bucket), 1);
    let disk = Sim::new();
    let pulled = root(&bucket).pull(&stale, &disk, &dir(), false, &());
    assert_eq!(pulled.expect("nothing fails").rows, 250);
    expect_all(&opened(disk, dir()), 0..250, LEN);
}

#[test]
fn denied_writes_and_full_disks_are_told_apart() {
    let bucket = bucket();
    let (disk, cache) = local([(0..100, LEN)]);
    let denied = root_of(bucket.with_faults(|request| {
        (request == Request::PutNew).then_some(ObjectFault::Error(ObjectErrorKind::Denied))
    }));
    let error = denied
        .push(&cache, HASH, false, &())
        .expect_err("it is denied");
    assert!(
        matches!(&error, TransferError::Remote(it) if it.kind == ObjectErrorKind::Denied),
        "{error:?}"
    );
    put(&bucket, 100..200);
    disk.set_capacity(Some(0));
    let full = root(&bucket).pull(&only(&bucket), &disk, &dir(), false, &());
    let error = full.expect_err("it is full");
    assert!(matches!(&error, TransferError::Local(_)), "{error:?}");
}
