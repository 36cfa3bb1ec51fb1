//! Compactions: what is joined, when sources go, and what two at once or one that is killed leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use torchcache_faults::cases::{seen, series};
use torchcache_faults::objects::{ObjectFault, Request, SimObjects};
use torchcache_store::remote::ObjectErrorKind;
use torchcache_store::remote_admin::CompactReport;

use crate::common::{
    CACHE, HASH, HOUR, LEN, MINUTE, RECORDS, Reader, SEGMENTS, bucket, object_keys, pass, put,
    put_again, put_len, readable, root, root_of, segment_count, stored_rows,
};

fn compact(bucket: &SimObjects) -> CompactReport {
    root(bucket)
        .compact(HASH, false, &())
        .expect("nothing fails")
}

/// Twenty rows in each of so many segments, which were put an hour ago.
fn segments(count: u64) -> SimObjects {
    let bucket = bucket();
    for n in 0..count {
        put(&bucket, 20 * n..20 * (n + 1));
    }
    pass(&bucket, HOUR);
    bucket
}

/// Compacts until nothing is left to do, and expects each of the first `rows` rows once.
#[track_caller]
fn settle(bucket: &SimObjects, rows: u64) {
    for _ in 0..4 {
        pass(bucket, HOUR + MINUTE);
        compact(bucket);
        assert_eq!(readable(bucket, 0..rows), rows as usize);
    }
    assert_eq!(object_keys(bucket, RECORDS), [""; 0]);
    assert_eq!(stored_rows(bucket), rows);
    assert!(segment_count(bucket) <= 2);
}

#[test]
fn small_segments_are_joined_and_removed_an_hour_later() {
    let bucket = segments(10);
    let stale = Reader::new(&bucket);
    let dry = root(&bucket)
        .compact(HASH, true, &())
        .expect("nothing fails");
    assert_eq!((dry.joined.len(), dry.joined[0].sources), (1, 10));
    assert_eq!(segment_count(&bucket), 10);
    let first = compact(&bucket);
    assert_eq!(
        (first.joined[0].sources, first.joined[0].rows),
        (10, Some(200))
    );
    assert_eq!(first.joined[0].source_bytes, dry.joined[0].source_bytes);
    assert_eq!(
        (segment_count(&bucket), readable(&bucket, 0..200)),
        (11, 200)
    );
    pass(&bucket, 50 * MINUTE);
    let second = compact(&bucket);
    assert_eq!((second.waiting_segments, second.removed_segments), (10, 0));
    assert!(second.joined.is_empty());
    assert_eq!(stale.count(0..200), 200, "it reads from the sources");
    pass(&bucket, 11 * MINUTE);
    let third = compact(&bucket);
    assert_eq!((third.removed_segments, segment_count(&bucket)), (10, 1));
    assert_eq!(object_keys(&bucket, RECORDS), [""; 0]);
    assert_eq!(readable(&bucket, 0..200), 200);
    // One that knew the sources only lists again.
    stale.get(0..200);
    stale.work(60);
    assert_eq!(stale.count(0..200), 200);
    assert!(compact(&bucket).joined.is_empty());
}

#[test]
fn the_same_sources_give_the_same_object() {
    let (one, two) = (segments(5), bucket());
    for (key, bytes) in one.objects(SEGMENTS) {
        two.insert(&key, bytes.to_vec());
    }
    pass(&two, HOUR);
    compact(&one);
    pass(&two, 77);
    compact(&two);
    assert_eq!(one.objects(SEGMENTS), two.objects(SEGMENTS));
    assert_eq!(one.objects(RECORDS), two.objects(RECORDS));
}

#[test]
fn the_newest_copy_of_a_row_is_kept() {
    let bucket = segments(2);
    pass(&bucket, 1);
    put_again(&bucket, 10..30, 2 * LEN);
    pass(&bucket, HOUR);
    let report = compact(&bucket);
    let joined = &report.joined[0];
    assert_eq!((joined.rows, joined.superseded), (Some(40), Some(20)));
    settle(&bucket, 40);
    let lens = Reader::new(&bucket).get(0..40);
    for (n, len) in lens.into_iter().enumerate() {
        let expected = if (10..30).contains(&n) { 2 * LEN } else { LEN };
        assert_eq!(len, Some(expected), "{n}");
    }
}

#[test]
fn a_long_segment_waits_for_as_many_bytes() {
    let bucket = bucket();
    put(&bucket, 0..1000);
    put(&bucket, 1000..1100);
    put(&bucket, 1100..1300);
    pass(&bucket, HOUR);
    assert!(compact(&bucket).joined.is_empty());
    for n in 0..8 {
        put(&bucket, 1300 + 100 * n..1400 + 100 * n);
    }
    pass(&bucket, HOUR);
    assert_eq!(compact(&bucket).joined[0].sources, 11);
    settle(&bucket, 2100);
}

#[test]
fn segments_that_are_not_small_stay() {
    let bucket = bucket();
    put_len(&bucket, 0..30, 1 << 20);
    put_len(&bucket, 30..60, 1 << 20);
    pass(&bucket, HOUR);
    assert!(compact(&bucket).joined.is_empty());
}

#[test]
fn a_damaged_source_stays_as_it_is() {
    let bucket = segments(4);
    let (key, bytes) = bucket.objects(SEGMENTS).swap_remove(1);
    let mut bytes = bytes.to_vec();
    bytes[20] ^= 1;
    bucket.insert(&key, bytes);
    pass(&bucket, HOUR);
    let report = compact(&bucket);
    assert_eq!((report.failed.len(), report.joined[0].sources), (1, 2));
    assert_eq!(report.failed[0].0, key);
    pass(&bucket, HOUR + 1);
    compact(&bucket);
    assert_eq!((segment_count(&bucket), readable(&bucket, 0..80)), (3, 79));
}

#[test]
fn a_damaged_result_replaces_nothing() {
    let bucket = segments(4);
    let sources = object_keys(&bucket, SEGMENTS);
    compact(&bucket);
    let (key, bytes) = bucket
        .objects(SEGMENTS)
        .into_iter()
        .find(|(key, _)| !sources.contains(key))
        .expect("it was put");
    let mut bytes = bytes.to_vec();
    bytes[20] ^= 1;
    bucket.insert(&key, bytes);
    pass(&bucket, HOUR + 1);
    let report = compact(&bucket);
    assert_eq!((report.removed_segments, report.failed.len()), (0, 1));
    assert_eq!(segment_count(&bucket), 5);
    // The second time that a row is damaged, its copy in a source is read.
    let reader = Reader::new(&bucket);
    for _ in 0..3 {
        reader.count(0..80);
    }
    reader.work(310);
    assert_eq!(reader.count(0..80), 80);
}

#[test]
fn the_hour_is_that_of_the_store() {
    for ahead in [-7200, 7200] {
        let bucket = segments(4);
        let handle = bucket.with_faults(|_| None);
        let clock = bucket.clock().ahead_by(ahead);
        let root = torchcache_store::remote_admin::RemoteRoot::new(
            Arc::new(handle),
            Arc::new(clock),
            "team",
        );
        let compact = || root.compact(HASH, false, &()).expect("nothing fails");
        compact();
        pass(&bucket, 59 * MINUTE);
        assert_eq!(compact().removed_segments, 0, "{ahead}");
        pass(&bucket, 2 * MINUTE);
        assert_eq!(compact().removed_segments, 4, "{ahead}");
    }
}

#[test]
fn records_that_are_not_what_their_names_say_have_no_effect() {
    let bucket = segments(4);
    let sources = object_keys(&bucket, SEGMENTS);
    let name = |key: &String| key[SEGMENTS.len()..].to_owned();
    // It would have the first segment removed, since the last "joins" it.
    let forged = format!("{RECORDS}{}", name(&sources[3]));
    bucket.insert(&forged, format!("{}\n", name(&sources[0])).into_bytes());
    bucket.insert(&format!("{CACHE}c/notes"), vec![1]);
    pass(&bucket, 2 * HOUR);
    compact(&bucket);
    pass(&bucket, 2 * HOUR);
    compact(&bucket);
    assert_eq!(readable(&bucket, 0..80), 80);
}

/// A handle whose process is killed before its request of this number, and whether that came.
fn killed(bucket: &SimObjects, nth: u64) -> (SimObjects, Arc<AtomicU64>) {
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let handle = bucket.with_faults(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        (number >= nth).then_some(ObjectFault::Error(ObjectErrorKind::Denied))
    });
    (handle, requests)
}

#[test]
fn a_compaction_that_is_killed_loses_and_doubles_nothing() {
    for wait in [0, HOUR + MINUTE] {
        let times = series(format_args!("killed, then {wait} s"), |nth| {
            let bucket = segments(4);
            // The first run joins, the second one removes the sources.
            let (handle, requests) = killed(&bucket, nth);
            let root = root_of(handle);
            let _ = root.compact(HASH, false, &());
            pass(&bucket, HOUR + MINUTE);
            let _ = root.compact(HASH, false, &());
            assert_eq!(readable(&bucket, 0..80), 80);
            pass(&bucket, wait);
            settle(&bucket, 80);
            requests.load(Ordering::SeqCst) >= nth
        });
        seen("compaction of a bucket killed at any request", times);
    }
}

/// Runs a compaction, and at its request of this number something else. Returns whether that happened.
fn interrupted(
    bucket: &SimObjects,
    nth: u64,
    meanwhile: impl Fn(&SimObjects, Request) + Send + 'static,
) -> bool {
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let other = bucket.with_faults(|_| None);
    let root = root_of(bucket.with_faults(move |request| {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            meanwhile(&other, request);
        }
        None
    }));
    let _ = root.compact(HASH, false, &());
    requests.load(Ordering::SeqCst) >= nth
}

#[test]
fn two_compactions_at_once_lose_and_double_nothing() {
    for (name, wait) in [
        ("at once", 0),
        ("stopped for 40 minutes", 40 * MINUTE),
        ("stopped for 2 hours", 2 * HOUR),
    ] {
        let times = series(format_args!("{name}"), |nth| {
            let bucket = segments(4);
            let happened = interrupted(&bucket, nth, move |bucket, _| {
                put(bucket, 80..100);
                put(bucket, 100..120);
                compact(bucket);
                pass(bucket, wait);
                compact(bucket);
            });
            if happened {
                assert_eq!(readable(&bucket, 0..120), 120);
                settle(&bucket, 120);
            }
            happened
        });
        seen("another compaction of a bucket at any request", times);
    }
}

#[test]
fn two_compactions_of_other_sources_double_nothing() {
    for wait in [0, 40 * MINUTE, 2 * HOUR] {
        let times = series(format_args!("after {wait} s"), |nth| {
            let bucket = segments(4);
            let happened = interrupted(&bucket, nth, move |bucket, request| {
                bucket.take(&object_keys(bucket, SEGMENTS)[0]);
                compact(bucket);
                // A put ends at its deadline.
                let is_put = request == Request::PutNew;
                pass(bucket, if is_put { wait.min(10 * MINUTE) } else { wait });
                compact(bucket);
            });
            for _ in 0..4 {
                pass(&bucket, HOUR + MINUTE);
                compact(&bucket);
                assert_eq!(readable(&bucket, 20..80), 60);
            }
            let rows = readable(&bucket, 0..80) as u64;
            assert_eq!(
                (stored_rows(&bucket), object_keys(&bucket, RECORDS).len()),
                (rows, 0)
            );
            happened
        });
        seen(
            "another compaction of a bucket at any request, with other sources",
            times,
        );
    }
}

#[test]
fn two_that_remove_sources_at_once_lose_nothing() {
    let times = series(format_args!("removing"), |nth| {
        let bucket = segments(4);
        compact(&bucket);
        pass(&bucket, HOUR + MINUTE);
        let happened = interrupted(&bucket, nth, |bucket, _| drop(compact(bucket)));
        assert_eq!(readable(&bucket, 0..80), 80);
        settle(&bucket, 80);
        happened
    });
    seen(
        "another compaction of a bucket removes sources at any request",
        times,
    );
}

#[test]
fn rows_that_are_pruned_meanwhile_do_not_stop_it() {
    let times = series(format_args!("removed"), |nth| {
        let bucket = segments(4);
        let happened = interrupted(&bucket, nth, |bucket, _| {
            bucket.take(&object_keys(bucket, SEGMENTS)[1]);
        });
        for _ in 0..4 {
            pass(&bucket, HOUR + MINUTE);
            compact(&bucket);
            assert!(readable(&bucket, 0..80) >= 60);
        }
        let rows = readable(&bucket, 0..80) as u64;
        assert_eq!(stored_rows(&bucket), rows);
        happened
    });
    seen(
        "a source of a compaction of a bucket is removed at any request",
        times,
    );
}

#[test]
fn stores_that_ignore_conditions_make_no_difference() {
    let bucket = segments(4);
    bucket.ignore_conditions();
    compact(&bucket);
    settle(&bucket, 80);
}

#[test]
fn requests_are_few() {
    let bucket = segments(100);
    let handle = Arc::new(bucket.with_faults(|_| None));
    let clock = Arc::new(bucket.clock().clone());
    let root = torchcache_store::remote_admin::RemoteRoot::new(handle.clone(), clock, "team");
    root.compact(HASH, false, &()).expect("nothing fails");
    let log = handle.take_log();
    assert_eq!((log.lists, log.gets, log.puts, log.sets), (3, 200, 1, 3));
    pass(&bucket, HOUR + 1);
    root.compact(HASH, false, &()).expect("nothing fails");
    let log = handle.take_log();
    assert!(log.gets < 110 && log.lists == 2 && log.puts == 0, "{log:?}");
}
