//! Segments that are removed from the bucket: what machines that know them then put.

use std::sync::Arc;
use std::time::Duration;

use torchcache_faults::objects::{ObjectFault, Request, SimObjects};
use torchcache_store::admin::Keep;
use torchcache_store::remote::{Clock, ObjectErrorKind, RemoteFlushError};
use torchcache_store::remote_admin::{RemoteKeep, RemotePrunePlan, RemoteRoot};

use crate::common::{HASH, Machine, PREFIX, SEGMENTS, bucket};

const DAY: Duration = Duration::from_secs(86_400);

fn root(bucket: &SimObjects) -> RemoteRoot {
    let clock = bucket.clock().clone();
    let objects = bucket.with_faults(|_| None);
    RemoteRoot::new(Arc::new(objects), Arc::new(clock), PREFIX)
}

/// A machine that put rows 0..10 long ago, rows 10..20 just now, and knows both.
fn with_old_rows(bucket: &SimObjects) -> Machine {
    let writer = Machine::new(bucket);
    writer.put(0..10, 300);
    bucket.clock().sleep(9 * DAY);
    writer.put(10..20, 300);
    assert_eq!(writer.count(0..20), 20);
    writer
}

#[track_caller]
fn puts_rows_again(bucket: &SimObjects, writer: &Machine) {
    writer.put(0..10, 300);
    let reader = Machine::new(bucket);
    reader.work(1);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn pruned_rows_are_put_again_by_those_that_knew_them() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    let root = root(&bucket);
    let keep = RemoteKeep {
        keep: Keep::ReadWithin(DAY),
        grace: DAY,
    };
    let plan = RemotePrunePlan::new(&root, keep).expect("nothing fails");
    assert_eq!(plan.carry_out(&()).caches[0].segments.len(), 1);
    assert_eq!(bucket.objects(SEGMENTS).len(), 1);
    puts_rows_again(&bucket, &writer);
}

#[test]
fn rows_whose_segment_is_gone_are_put_whatever_the_hint_shows() {
    // Another machine adds a segment before the writer looks, and a removal may not have changed the hint yet.
    for is_added in [false, true] {
        let bucket = bucket();
        let writer = with_old_rows(&bucket);
        bucket.take(&bucket.objects(SEGMENTS)[0].0);
        if is_added {
            Machine::new(&bucket).put(100..110, 300);
        }
        puts_rows_again(&bucket, &writer);
    }
}

#[test]
fn what_makes_sure_that_rows_are_there_costs_a_request_for_each_segment() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    (0..100).for_each(|n| writer.put(n..n + 1, 300));
    let gone = bucket.objects(SEGMENTS)[70].0.clone();
    for (rows, gets, lists, uploaded) in [(0..50, 51, 0, 0), (0..100, 2, 1, 1)] {
        bucket.take(&gone);
        writer.objects.take_log();
        let before = writer.stats().uploads.uploaded;
        writer.put(rows, 300);
        let log = writer.objects.take_log();
        assert_eq!((log.gets, log.lists), (gets, lists));
        assert_eq!(writer.stats().uploads.uploaded - before, uploaded);
    }
}

#[test]
fn rows_are_put_where_it_cannot_be_seen_that_they_are_there() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    writer.fail(
        &[Request::Read],
        ObjectFault::Error(ObjectErrorKind::Denied),
    );
    let before = writer.stats().uploads.uploaded;
    writer.put(0..10, 300);
    assert_eq!(writer.stats().uploads.uploaded, before + 10);
    writer.fail(&[Request::Read], ObjectFault::Error(ObjectErrorKind::Other));
    writer.compute(0..10, 300);
    assert!(matches!(
        writer.flush(),
        Err(RemoteFlushError::Timeout { rows: 10, .. })
    ));
}

#[test]
fn an_upload_that_failed_looks_again_for_rows_that_were_there() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    writer.compute(0..10, 300);
    writer.compute(20..30, 300);
    writer.fail(
        &[Request::PutNew],
        ObjectFault::Error(ObjectErrorKind::Other),
    );
    writer.flush().expect_err("nothing can be put");
    bucket.take(&bucket.objects(SEGMENTS)[0].0);
    writer.heal();
    bucket.clock().sleep(DAY);
    writer.flush().expect("it is uploaded");
    let reader = Machine::new(&bucket);
    reader.work(1);
    assert_eq!(reader.count(0..30), 30);
}

#[test]
fn write_only_credentials_do_not_ask_for_rows_that_were_there() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    let denied = ObjectFault::Error(ObjectErrorKind::Denied);
    writer.fail(&[Request::List, Request::Get, Request::Read], denied);
    writer.objects.take_log();
    writer.put(0..10, 300);
    assert_eq!(writer.objects.take_log().ranges, []);
}

#[test]
fn cleared_rows_are_put_again_by_those_that_knew_them() {
    let bucket = bucket();
    let writer = with_old_rows(&bucket);
    let root = root(&bucket);
    let listed = root.list().expect("nothing fails").caches;
    assert_eq!(listed[0].name(), HASH);
    // Added after the listing, so the cache stays.
    writer.put(20..30, 300);
    assert!(!root.clear(&listed[0], false, &()).cache_removed);
    puts_rows_again(&bucket, &writer);
}
