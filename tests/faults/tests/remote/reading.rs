//! Fetching rows: which requests are made, deadlines, damaged bodies, objects that are gone.

use std::iter::once;
use std::ops::Range;
use std::time::Duration;

use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_faults::rows::{key, keys};
use torchcache_store::remote::{BreakerState, Clock, MAX_CONCURRENT_READS, ObjectErrorKind};

use crate::common::{Machine, PREFIX, SEGMENTS, TIMEOUT, bucket, unknown};

/// A bucket with these rows, each range in an object, and a machine that knows them.
fn filled(objects: impl IntoIterator<Item = Range<u64>>, len: usize) -> (Machine, Machine) {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    for rows in objects {
        writer.put(rows, len);
    }
    reader.work(1);
    reader.objects.take_log();
    (writer, reader)
}

#[test]
fn rows_in_any_order_and_twice_are_read_once() {
    let (_writer, reader) = filled([0..50, 50..100], 1000);
    let mut wanted = keys(0..100);
    fastrand::Rng::with_seed(7).shuffle(&mut wanted);
    wanted.extend(keys(20..30));
    wanted.insert(10, unknown());
    let got = reader.get(&wanted);
    assert_eq!(got.iter().filter(|got| **got).count(), 110);
    assert!(!got[10]);
    assert_eq!(reader.objects.take_log().ranges.len(), 2);
}

#[test]
fn rows_that_are_far_apart_are_requested_apart() {
    let (_writer, reader) = filled(once(0..100), 100_000);
    let some: Vec<_> = [3, 4, 6, 40, 41, 90].map(key).to_vec();
    assert!(reader.get(&some).iter().all(|got| *got));
    let mut ranges = reader.objects.take_log().ranges;
    ranges.sort_by_key(|range| range.start);
    assert_eq!(ranges.len(), 3);
    for (range, rows) in ranges.iter().zip([4, 2, 1]) {
        assert!(range.end - range.start <= rows * 100_008, "{range:?}");
    }
}

#[test]
fn rows_that_arrived_before_the_deadline_are_used() {
    let (_writer, reader) = filled((0..40).map(|n| n..n + 1), 1000);
    let mut requests = 0;
    reader.objects.set_faults(move |_| {
        requests += 1;
        (requests % 4 == 0).then_some(ObjectFault::Hangs)
    });
    let begun = reader.clock.now();
    assert_eq!(reader.count(0..40), 30);
    assert_eq!(reader.clock.now(), begun + TIMEOUT);
    assert_eq!(reader.stats().breaker, BreakerState::Closed);
    assert_eq!(reader.stats().unread, 10);
    reader.heal();
    assert_eq!(reader.count(0..40), 40, "the others are not forgotten");
    assert!(reader.clock.now() < begun + TIMEOUT + Duration::from_millis(100));
}

#[test]
fn many_requests_share_the_connections() {
    let (_writer, reader) = filled((0..64).map(|n| n..n + 1), 1000);
    let begun = reader.clock.now();
    assert_eq!(reader.count(0..64), 64);
    let rounds = 64 / MAX_CONCURRENT_READS as u32;
    let least = rounds * Duration::from_millis(20);
    let took = reader.clock.now() - begun;
    assert!((least..2 * least).contains(&took), "{took:?}");
}

#[test]
fn reads_that_were_not_made_open_no_breaker() {
    let (_writer, reader) = filled(once(0..10), 300);
    let gets = reader.stats().requests.gets;
    // Those of other threads take all connections.
    reader.objects.keep_busy(10 * TIMEOUT);
    for _ in 0..10 {
        assert_eq!(reader.count(0..10), 0);
    }
    let stats = reader.stats();
    assert_eq!(stats.requests.errors(ObjectErrorKind::NotMade), 10);
    assert_eq!(stats.breaker, BreakerState::Closed);
    assert_eq!((stats.requests.gets, stats.unread), (gets, 100));
    assert_eq!(reader.objects.take_log().gets, 0);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn a_store_that_does_not_answer_opens_the_breaker_whatever_had_to_wait() {
    let (_writer, reader) = filled((0..40).map(|n| n..n + 1), 1000);
    let gets = reader.stats().requests.gets;
    reader.fail(&[Request::Read], ObjectFault::Hangs);
    for _ in 0..3 {
        assert_eq!(reader.stats().breaker, BreakerState::Closed);
        assert_eq!(reader.count(0..40), 0);
    }
    let stats = reader.stats();
    assert_eq!(stats.breaker, BreakerState::Open);
    let made = 3 * MAX_CONCURRENT_READS as u64;
    assert_eq!(stats.requests.gets, gets + made);
    assert_eq!(
        stats.requests.errors(ObjectErrorKind::NotMade),
        3 * 40 - made
    );
}

#[test]
fn a_call_without_time_left_makes_no_request() {
    let (_writer, reader) = filled(once(0..10), 300);
    for _ in 0..10 {
        let got = reader.get_until(&keys(0..10), reader.clock.now());
        assert_eq!(got, [false; 10]);
    }
    assert_eq!(reader.stats().breaker, BreakerState::Closed);
    assert_eq!(reader.objects.take_log().gets, 0);
}

#[test]
fn damaged_bodies_are_misses_and_never_wrong_rows() {
    for fault in [
        ObjectFault::CutBody,
        ObjectFault::FlippedBit,
        ObjectFault::WrongRange,
        ObjectFault::WholeObject,
        ObjectFault::Error(ObjectErrorKind::Slow),
        ObjectFault::Error(ObjectErrorKind::Denied),
        ObjectFault::Hangs,
    ] {
        for rows in [1, 2, 30] {
            let (_writer, reader) = filled(once(0..100), 500);
            reader.fail(&[Request::Read], fault);
            let got = reader.count(0..rows);
            let most = match fault {
                ObjectFault::CutBody => rows as usize - 1,
                ObjectFault::FlippedBit => rows as usize,
                _ => 0,
            };
            assert!(got <= most, "{fault:?}: {got} of {rows}");
            reader.heal();
            assert_eq!(reader.count(50..100), 50, "{fault:?}");
        }
    }
}

#[test]
fn a_corrupt_row_is_forgotten_and_its_copy_is_read() {
    let bucket = bucket();
    // Both have computed the rows before they knew of each other.
    let (one, two) = (Machine::new(&bucket), Machine::new(&bucket));
    one.put(0..10, 300);
    let [(first, bytes)] = &bucket.objects(SEGMENTS)[..] else {
        panic!("one object was put")
    };
    bucket.take(first);
    two.put(0..10, 300);
    // Rows are read from the newer one.
    let newer = bucket.objects(SEGMENTS).remove(0);
    let mut bad = newer.1.to_vec();
    bad[16 + 20] ^= 1;
    bucket.insert(&newer.0, bad);
    bucket.insert(first, bytes.to_vec());
    let reader = Machine::new(&bucket);
    reader.work(1);
    assert_eq!(reader.stats().segments, 2);
    assert_eq!(reader.count(0..10), 9);
    assert_eq!(
        (reader.count(0..10), reader.located(0..10)),
        (9, 9),
        "it is asked for twice"
    );
    reader.work(31);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn an_object_that_is_gone_is_forgotten_and_everything_is_listed() {
    let (writer, reader) = filled([0..10, 10..20], 300);
    let objects = reader.objects.objects(SEGMENTS);
    reader.objects.take(&objects[0].0);
    assert_eq!(reader.count(0..20), 10);
    assert_eq!(reader.stats().segments, 1);
    reader.objects.take_log();
    assert_eq!(reader.count(0..20), 10);
    assert_eq!(
        reader.objects.take_log().gets,
        1,
        "it is not asked for again"
    );
    // As compaction by another machine does.
    let again = Machine::new(&reader.objects);
    again.put(0..10, 300);
    reader.work(31);
    assert_eq!(reader.count(0..20), 20);
    assert_eq!(reader.objects.take_log().lists, 1);
    assert_eq!(writer.count(10..20), 10);
}

#[test]
fn a_listing_that_lags_behind_does_not_bring_a_removed_object_back() {
    let (_writer, reader) = filled(once(0..10), 300);
    reader.fail(
        &[Request::Read],
        ObjectFault::Error(ObjectErrorKind::NotFound),
    );
    assert_eq!(reader.count(0..10), 0);
    for _ in 0..10 {
        reader.work(301);
        assert_eq!(reader.count(0..10), 0);
    }
    let log = reader.objects.take_log();
    assert!(log.lists <= 2 && log.gets <= 12, "{log:?}");
}

#[test]
fn objects_that_vanish_under_a_reader_are_misses() {
    let (_writer, reader) = filled((0..20).map(|n| n..n + 1), 300);
    let mut rng = fastrand::Rng::with_seed(3);
    reader.objects.set_faults(move |request| {
        (request == Request::Read && rng.bool()).then_some(ObjectFault::Removed)
    });
    let left = reader.count(0..20);
    assert_eq!(left, reader.objects.objects(SEGMENTS).len());
    assert!(left > 0 && left < 20);
    assert_eq!(reader.stats().segments as usize, left);
}

#[test]
fn a_removed_object_leaves_the_copies_of_its_rows() {
    let bucket = bucket();
    let (one, two) = (Machine::new(&bucket), Machine::new(&bucket));
    one.put(0..10, 300);
    let objects = bucket.objects(SEGMENTS);
    bucket.take(&objects[0].0);
    two.put(0..10, 300);
    bucket.insert(&objects[0].0, objects[0].1.to_vec());
    let reader = Machine::new(&bucket);
    for gone in bucket.objects(SEGMENTS).iter().take(1) {
        reader.work(1);
        bucket.take(&gone.0);
        assert!(reader.count(0..10) <= 10);
        reader.work(31);
        assert_eq!(reader.count(0..10), 10);
    }
}

#[test]
fn a_store_that_does_not_answer_costs_three_timeouts_and_then_nothing() {
    let (_writer, reader) = filled(once(0..10), 300);
    reader.fail(
        &[Request::Read, Request::Get, Request::List],
        ObjectFault::Hangs,
    );
    let begun = reader.clock.now();
    for _ in 0..1000 {
        assert_eq!(reader.count(0..10), 0);
    }
    assert_eq!(reader.clock.now(), begun + 3 * TIMEOUT);
    assert_eq!(reader.stats().breaker, BreakerState::Open);
    assert_eq!(reader.objects.take_log().gets, 3);
    // A call does not find out whether the store is back.
    reader.clock.sleep(Duration::from_secs(3600));
    let begun = reader.clock.now();
    assert_eq!(reader.count(0..10), 0);
    assert_eq!(reader.clock.now(), begun);
    // In the background, one request after 5, 10, 20 … 300 seconds.
    for _ in 0..3600 {
        reader.work(1);
        assert_eq!(reader.count(0..10), 0);
    }
    let gets = reader.objects.take_log().gets;
    assert!((12..=18).contains(&gets), "{gets}");
    reader.heal();
    reader.work(301);
    assert_eq!(reader.stats().breaker, BreakerState::Closed);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn a_store_that_does_not_answer_costs_a_process_three_timeouts() {
    let (_writer, one) = filled(once(0..10), 300);
    let (same, elsewhere) = (one.sibling(PREFIX), one.sibling("other/"));
    same.work(1);
    one.fail(
        &[Request::Read, Request::Get, Request::List],
        ObjectFault::Hangs,
    );
    let begun = one.clock.now();
    for _ in 0..10 {
        assert_eq!((one.count(0..10), same.count(0..10)), (0, 0));
    }
    assert_eq!(one.clock.now(), begun + 3 * TIMEOUT);
    assert_eq!(same.stats().breaker, BreakerState::Open);
    // What may be denied there is another matter.
    assert_eq!(elsewhere.stats().breaker, BreakerState::Closed);
    one.objects.take_log();
    for _ in 0..3600 {
        same.remote.work(&same.rows);
        one.work(1);
    }
    let gets = one.objects.take_log().gets;
    assert!((12..=18).contains(&gets), "{gets} by both");
    one.heal();
    one.work(301);
    assert_eq!(same.stats().breaker, BreakerState::Closed);
    assert_eq!((one.count(0..10), same.count(0..10)), (10, 10));
}

#[test]
fn slow_bodies_do_not_open_the_breaker() {
    let (_writer, reader) = filled(once(0..10), 300);
    reader.fail(&[Request::Read], ObjectFault::Error(ObjectErrorKind::Slow));
    for _ in 0..10 {
        assert_eq!(reader.count(0..10), 0);
    }
    assert_eq!(reader.stats().breaker, BreakerState::Closed);
    assert_eq!(reader.stats().requests.errors(ObjectErrorKind::Slow), 10);
}

#[test]
fn a_row_that_was_damaged_on_the_way_is_asked_for_again() {
    let (_writer, reader) = filled(once(0..100), 500);
    reader.fail(&[Request::Read], ObjectFault::WrongRange);
    assert_eq!(reader.count(0..100), 0);
    reader.heal();
    assert_eq!(reader.count(0..100), 100);
    assert_eq!(reader.stats().corrupt, 100);
}

#[test]
fn reads_that_are_denied_open_the_breaker_until_they_are_not() {
    let (_writer, reader) = filled(once(0..10), 300);
    let all = &[Request::Read, Request::Get, Request::List, Request::PutNew];
    reader.fail(all, ObjectFault::Error(ObjectErrorKind::Denied));
    for _ in 0..3600 {
        assert_eq!(reader.count(0..10), 0);
        reader.work(1);
    }
    let gets = reader.objects.take_log().gets;
    assert!(gets <= 20, "{gets}");
    reader.heal();
    reader.work(301);
    assert_eq!(reader.count(0..10), 10);
}
