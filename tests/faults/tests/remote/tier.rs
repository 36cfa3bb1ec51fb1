//! The remote tier of a store: rows computed on one machine are found on another one, and nothing is uploaded twice or
//! lost in silence.

use std::sync::Arc;
use std::time::Duration;

use torchcache_faults::cases::eventually;
use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_faults::rows::{batch, key, keys};
use torchcache_faults::sim::Sim;
use torchcache_store::remote::{Clock, ObjectErrorKind, RemoteFlushError, RemoteMode};

use crate::common::{SEGMENTS, bucket};
use crate::host::Host;

const LEN: usize = 3000;

#[test]
fn rows_computed_here_are_found_there_and_not_uploaded_again() {
    let bucket = bucket();
    let (here, there) = (Host::new(&bucket), Host::new(&bucket));
    here.compute(0..100, LEN);
    here.flush().expect("it is uploaded");
    there.work(1);
    assert_eq!(there.get(0..120, LEN), 100);
    assert_eq!(there.local(0..120, LEN), 100);
    there.work(1000);
    there.flush().expect("nothing is left");
    let log = there.objects.take_log();
    assert_eq!((log.puts, there.stats().uploads.uploaded), (0, 0));
    assert_eq!(bucket.objects(SEGMENTS).len(), 1);
    // From the disk by now.
    assert_eq!((there.get(0..100, LEN), there.stats().hits), (0, 100));
}

#[test]
fn rows_are_uploaded_as_the_store_has_them_on_disk() {
    let bucket = bucket();
    let config = torchcache_store::Config::default()
        .with_compression(Some(torchcache_store::Compression::new(1, 1)));
    let here = Host::configured(&bucket, Sim::new(), RemoteMode::ReadWrite, 0, config);
    here.compute(0..100, LEN);
    here.flush().expect("it is uploaded");
    let [(_, bytes)] = &bucket.objects(SEGMENTS)[..] else {
        panic!("one object was put")
    };
    assert!(bytes.len() < 100 * LEN * 2 / 3, "{} bytes", bytes.len());
    let there = Host::new(&bucket);
    there.work(1);
    assert_eq!(there.get(0..100, LEN), 100);
}

#[test]
fn rows_of_a_killed_process_are_uploaded_once_by_the_next_one() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..100, LEN);
    here.flush().expect("it is uploaded");
    here.compute(100..200, LEN);
    here.work(1);
    let next = here.restart();
    assert_eq!(next.stats().uploads.pending_rows, 0, "it did not work yet");
    next.work(40);
    let uploads = next.stats().uploads;
    assert_eq!((uploads.uploaded, uploads.dropped), (100, 0));
    assert!(next.tier_files(".journal").is_empty());
    let after = next.restart();
    after.work(40);
    assert_eq!(after.stats().uploads.uploaded, 0);
    let there = Host::new(&bucket);
    there.work(1);
    assert_eq!(there.get(0..200, LEN), 200);
    assert_eq!(there.stats().indexed_rows, 200);
}

#[test]
fn the_thread_of_a_tier_without_users_gives_up_after_ten_minutes() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.objects
        .set_faults(|_| Some(ObjectFault::Error(ObjectErrorKind::Other)));
    here.compute(0..10, LEN);
    here.store.flush().expect("it is written");
    here.tier.start_thread();
    let Host {
        objects,
        clock,
        disk,
        tier,
        store: _store,
        ..
    } = here;
    let dropped = clock.now();
    drop(tier);
    // The tier has the other one.
    let has_ended = || {
        clock.sleep(Duration::from_secs(1));
        Arc::strong_count(&objects) == 1
    };
    assert!(eventually(Duration::from_secs(60), has_ended));
    assert!(clock.now() >= dropped + Duration::from_secs(600));
    assert!(objects.take_log().gets > 0, "it tried");
    let next = Host::with(&bucket, disk, RemoteMode::ReadWrite, 0);
    next.flush().expect("it is uploaded");
    assert_eq!(next.stats().uploads.uploaded, 10);
}

#[test]
fn a_flush_includes_rows_of_a_killed_process() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    let next = here.restart();
    next.flush().expect("it is uploaded");
    assert_eq!(next.stats().uploads.uploaded, 10);
}

#[test]
fn rows_that_a_killed_process_did_not_store_are_dropped_and_counted() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    here.store.clear();
    let next = here.restart();
    next.flush().expect("they are none of this process");
    let uploads = next.stats().uploads;
    assert_eq!((uploads.uploaded, uploads.dropped), (0, 10));
    assert!(next.tier_files(".journal").is_empty());
}

#[test]
fn rows_of_a_living_process_are_left_to_it() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    here.store.flush().expect("it is written");
    let other = Host::with(&bucket, here.disk.clone(), RemoteMode::ReadWrite, 0);
    other.work(1000);
    assert_eq!(other.stats().uploads.uploaded, 0);
    assert_eq!(here.tier_files(".journal").len(), 1);
    here.flush().expect("it is uploaded");
    assert_eq!(here.stats().uploads.uploaded, 10);
}

#[test]
fn journals_are_bounded_while_rows_come_and_go() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    for n in 0..200 {
        here.compute(n * 1000..n * 1000 + 1000, 10);
        assert!(here.tier_files(".journal").len() <= 2);
        if n % 50 == 49 {
            here.flush().expect("it is uploaded");
            // Rows are pending at all times.
            here.compute(1_000_000 + n..1_000_001 + n, 10);
        }
    }
    here.flush().expect("it is uploaded");
    here.work(1);
    assert!(here.tier_files(".journal").is_empty());
}

#[test]
fn rows_that_are_evicted_before_they_are_uploaded_are_reported() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    here.store.clear();
    here.compute(10..20, LEN);
    let flushed = here.flush();
    assert!(
        matches!(flushed, Err(RemoteFlushError::Lost { rows: 10, .. })),
        "{flushed:?}"
    );
    let uploads = here.stats().uploads;
    assert_eq!((uploads.uploaded, uploads.dropped), (10, 10));
    here.flush().expect("it was reported");
}

#[test]
fn a_tier_that_only_reads_puts_nothing() {
    let bucket = bucket();
    let writer = Host::new(&bucket);
    writer.compute(0..10, LEN);
    writer.flush().expect("it is uploaded");
    let disk = Sim::new();
    // Rows that another process did not upload.
    Host::with(&bucket, disk.clone(), RemoteMode::ReadWrite, 0).compute(50..60, LEN);
    let reader = Host::with(&bucket, disk, RemoteMode::ReadOnly, 0);
    reader.work(1);
    assert_eq!(reader.get(0..10, LEN), 10);
    reader.compute(20..30, LEN);
    for _ in 0..3 {
        reader.get(100..110, LEN);
        reader.work(40_000);
    }
    reader.flush().expect("nothing is to be uploaded");
    let log = reader.objects.take_log();
    assert_eq!((log.puts, log.sets), (0, 0));
    assert_eq!(reader.stats().uploads, Default::default());
}

#[test]
fn a_tier_that_only_writes_reads_what_tells_rows_that_are_there() {
    let bucket = bucket();
    let (here, other) = (
        Host::with(&bucket, Sim::new(), RemoteMode::WriteOnly, 0),
        Host::new(&bucket),
    );
    here.work(4000);
    assert_eq!(here.get(0..10, LEN), 0);
    here.work(4000);
    assert_eq!(here.objects.take_log(), Default::default(), "no request");
    other.compute(0..10, LEN);
    other.flush().expect("it is uploaded");
    here.compute(5..15, LEN);
    here.flush().expect("it is uploaded");
    let uploads = here.stats().uploads;
    assert_eq!((uploads.uploaded, uploads.present), (5, 5));
    assert_eq!(here.get(100..110, LEN), 0);
}

#[test]
fn a_tier_that_only_writes_comes_back_where_reading_is_denied() {
    let bucket = bucket();
    let here = Host::with(&bucket, Sim::new(), RemoteMode::WriteOnly, 0);
    here.fail(
        &[Request::PutNew, Request::Set, Request::List, Request::Get],
        ObjectFault::Hangs,
    );
    here.compute(0..10, LEN);
    here.work(100);
    here.fail(
        &[Request::List, Request::Get, Request::Read],
        ObjectFault::Error(ObjectErrorKind::Denied),
    );
    here.work(700);
    assert_eq!(here.stats().uploads.uploaded, 10);
}

#[test]
fn rows_that_were_removed_are_computed_and_uploaded_again() {
    let bucket = bucket();
    let (here, there, late) = (Host::new(&bucket), Host::new(&bucket), Host::new(&bucket));
    here.compute(0..10, LEN);
    here.flush().expect("it is uploaded");
    there.work(1);
    assert_eq!(there.tier.locate(&keys(0..10), there.deadline()).len(), 10);
    here.store.remove(&keys(0..4)).expect("they are removed");
    here.tier.supersede(&keys(0..4));
    assert_eq!(here.get(0..10, LEN), 0, "the copies are not used");
    here.compute(0..4, LEN + 1);
    here.flush().expect("it is uploaded");
    here.work(6);
    let uploads = here.stats().uploads;
    assert_eq!((uploads.uploaded, uploads.present), (14, 0));
    // One that knew the old copies, one that finds all at once, and the one that uploaded them.
    there.tier.locate(&[key(u64::MAX)], there.deadline());
    there.work(60);
    late.work(1);
    here.store.clear();
    for host in [&here, &there, &late] {
        assert_eq!(host.get(0..4, LEN + 1), 4);
        assert_eq!(host.get(4..10, LEN), 6);
    }
}

#[test]
fn a_copy_of_a_removed_row_is_the_newest_whatever_the_clocks_show() {
    let bucket = bucket();
    let ahead = Host::with(&bucket, Sim::new(), RemoteMode::ReadWrite, 3600);
    let behind = Host::with(&bucket, Sim::new(), RemoteMode::ReadWrite, -3600);
    ahead.compute(0..10, LEN);
    ahead.flush().expect("it is uploaded");
    behind.work(1);
    behind.tier.supersede(&keys(0..10));
    behind.compute(0..10, LEN + 1);
    behind.flush().expect("it is uploaded");
    let there = Host::new(&bucket);
    there.work(1);
    assert_eq!(there.get(0..10, LEN + 1), 10);
}

#[test]
fn rows_that_were_computed_again_by_a_killed_process_replace_their_old_copies() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    here.flush().expect("it is uploaded");
    here.store.remove(&keys(0..4)).expect("they are removed");
    here.tier.supersede(&keys(0..4));
    here.compute(0..4, LEN + 1);
    here.store.flush().expect("it is written");
    // Killed twice before the upload.
    let next = here.restart();
    next.tier.work();
    let next = next.restart();
    next.flush().expect("it is uploaded");
    let uploads = next.stats().uploads;
    assert_eq!((uploads.uploaded, uploads.present), (4, 0));
    let there = Host::new(&bucket);
    there.work(1);
    assert_eq!(there.get(0..4, LEN + 1), 4);
    assert_eq!(there.get(4..10, LEN), 6);
}

#[test]
fn rows_that_are_removed_before_their_upload_are_no_loss() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    here.store.remove(&keys(0..4)).expect("they are removed");
    here.tier.supersede(&keys(0..4));
    here.flush().expect("nothing is lost");
    let uploads = here.stats().uploads;
    assert_eq!(
        (uploads.uploaded, uploads.removed, uploads.dropped),
        (6, 4, 0)
    );
    // Computed again and lost: that is one.
    here.compute(0..4, LEN);
    here.store.clear();
    assert!(matches!(
        here.flush(),
        Err(RemoteFlushError::Lost { rows: 4, .. })
    ));
}

#[test]
fn rows_that_are_removed_while_an_upload_looks_for_others_are_no_loss() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.compute(0..10, LEN);
    here.flush().expect("it is uploaded");
    // Whether the remote still has the first ten is asked before the others are uploaded.
    here.compute(0..20, LEN);
    let (store, tier) = (here.store.clone(), here.tier.clone());
    here.objects.set_faults(move |request| {
        if request == Request::Read {
            store.remove(&keys(10..14)).expect("they are removed");
            tier.supersede(&keys(10..14));
        }
        None
    });
    here.flush().expect("nothing is lost");
    here.heal();
    let uploads = here.stats().uploads;
    assert_eq!((uploads.present, uploads.removed), (10, 4));
}

#[test]
fn a_machine_that_is_offline_computes_and_uploads_later() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.objects.set_faults(|_| Some(ObjectFault::Hangs));
    here.work(1);
    assert_eq!(here.get(0..10, LEN), 0);
    here.compute(0..10, LEN);
    here.work(600);
    assert_eq!(here.stats().uploads.pending_rows, 10);
    assert!(matches!(
        here.flush(),
        Err(RemoteFlushError::Timeout { rows: 10, .. })
    ));
    here.heal();
    here.work(700);
    assert_eq!(here.stats().uploads.uploaded, 10);
    let there = Host::new(&bucket);
    there.work(1);
    assert_eq!(there.get(0..10, LEN), 10);
}

#[test]
fn rows_on_a_full_disk_are_uploaded_and_no_journal_is_needed() {
    let bucket = bucket();
    let here = Host::new(&bucket);
    here.disk.set_capacity(Some(0));
    here.compute(0..10, LEN);
    assert!(here.tier_files(".journal").len() <= 1);
    let _ = here.flush();
    let uploads = here.stats().uploads;
    // Those that the store could not write are lost to the remote as well.
    assert_eq!(uploads.uploaded + uploads.dropped, 10);
    here.disk.set_capacity(None);
    here.store.put(batch(100..101, LEN));
    here.compute(20..30, LEN);
    here.flush().expect("it is uploaded");
}
