//! Which segments there are: listings, hints, footers, wrong clocks, foreign objects.

use std::time::Duration;

use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_store::remote::{BreakerState, Clock, ObjectErrorKind};

use crate::common::{LATEST, Machine, SEGMENTS, bucket, unknown};

#[test]
fn rows_of_one_machine_are_hits_of_another() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..100, 300);
    assert_eq!(
        reader.count(0..100),
        0,
        "nothing is known without a refresh"
    );
    assert_eq!(
        reader.objects.take_log().lists,
        0,
        "a call makes no listing"
    );
    reader.work(1);
    assert_eq!(reader.count(0..100), 100);
    assert_eq!(reader.count(100..200), 0);
    let log = reader.objects.take_log();
    assert_eq!(
        (log.lists, log.gets),
        (1, 3),
        "the hint, a footer and the rows"
    );
    assert_eq!(writer.count(0..100), 100, "its own rows as well");
    let stats = reader.stats();
    assert_eq!(
        (stats.hits, stats.segments, stats.indexed_rows),
        (100, 1, 100)
    );
}

#[test]
fn reopening_costs_one_listing() {
    let bucket = bucket();
    let (writer, mut reader) = (Machine::new(&bucket), Machine::new(&bucket));
    for first in (0..100).step_by(10) {
        writer.put(first..first + 10, 300);
    }
    reader.work(1);
    assert_eq!(reader.objects.take_log().gets, 1 + 10);
    reader.restart();
    reader.work(1);
    let log = reader.objects.take_log();
    assert_eq!((log.lists, log.gets), (1, 1), "the hint only");
    assert_eq!(reader.count(0..100), 100);
}

#[test]
fn damaged_files_of_footers_are_read_again() {
    let bucket = bucket();
    let (writer, mut reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    reader.work(1);
    let files = reader.disk.files("/footers".as_ref());
    assert_eq!(files.len(), 1);
    reader.disk.damage(&files[0], |bytes| bytes[3] ^= 1);
    for gets in [2, 1] {
        reader.objects.take_log();
        reader.restart();
        reader.work(1);
        assert_eq!(reader.objects.take_log().gets, gets);
        assert_eq!(reader.count(0..10), 10);
    }
}

#[test]
fn nothing_is_asked_while_no_row_is_missing() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    reader.work(1);
    reader.objects.take_log();
    for _ in 0..60 {
        reader.work(60);
        assert_eq!(reader.located(0..10), 10);
    }
    assert_eq!(reader.objects.take_log(), Default::default());
}

#[test]
fn the_interval_doubles_while_no_missing_row_is_found() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    let mut refreshes = Vec::new();
    for second in 0..1500 {
        reader.remote.locate(&[unknown()]);
        reader.remote.work(&reader.rows);
        let log = reader.objects.take_log();
        assert!(log.lists <= 1);
        if log.gets > 0 {
            refreshes.push(second);
        }
        reader.clock.sleep(Duration::from_secs(1));
    }
    let intervals: Vec<i32> = refreshes.windows(2).map(|two| two[1] - two[0]).collect();
    let expected = [30, 60, 120, 240, 300, 300, 300];
    let is_near = |(got, expected): (&i32, i32)| (expected - 2..=expected).contains(got);
    assert!(intervals.iter().zip(expected).all(is_near), "{intervals:?}");
    assert_eq!(reader.located(10..20), 0);
    writer.put(10..20, 300);
    reader.work(300);
    assert_eq!(reader.count(0..20), 20);
    writer.put(20..30, 300);
    reader.remote.locate(&[unknown()]);
    reader.work(31);
    assert_eq!(
        reader.count(0..30),
        30,
        "after a missing row was found the interval is short again"
    );
    writer.put(30..40, 300);
    reader.remote.locate(&[unknown()]);
    reader.work(20);
    assert_eq!(reader.located(0..40), 30, "the others were not missing");
    reader.work(31);
    assert_eq!(reader.count(0..40), 40);
}

#[test]
fn a_first_catalog_without_an_answer_fails_after_thirty_seconds() {
    for answered in 0..4 {
        let bucket = bucket();
        bucket.set_page(1);
        let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
        (0..5).for_each(|n| writer.put(n..n + 1, 300));
        // Of the hint and the pages.
        let mut requests = 0;
        reader.objects.set_faults(move |_| {
            requests += 1;
            (requests > answered).then_some(ObjectFault::Hangs)
        });
        let begun = reader.clock.now();
        reader.remote.work(&reader.rows);
        let took = reader.clock.now() - begun;
        assert!(took < Duration::from_secs(31), "{took:?}");
        assert!(reader.remote.wait_for_catalog(reader.clock.now()));
        reader.work(300);
        assert_eq!(reader.stats().breaker, BreakerState::Open);
    }
}

#[test]
fn long_listings_have_pages() {
    let bucket = bucket();
    bucket.set_page(3);
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    for first in 0..10 {
        writer.put(first..first + 1, 300);
    }
    reader.work(1);
    assert_eq!(reader.count(0..10), 10);
    assert_eq!(reader.objects.take_log().lists, 4);
}

#[test]
fn segments_are_found_whichever_clock_is_wrong() {
    const HOUR: i64 = 3600;
    for writers in [[0, -HOUR], [0, HOUR], [HOUR, -HOUR]] {
        for reads in [0, HOUR, -HOUR] {
            let bucket = bucket();
            // Two listings for each change where a writer's clock is behind that of the reader.
            let most = if writers.iter().all(|ahead| reads <= *ahead) {
                11
            } else {
                21
            };
            let writers = writers.map(|ahead| Machine::with(&bucket, ahead, |_| {}));
            let reader = Machine::with(&bucket, reads, |_| {});
            for _ in 0..400 {
                writers[0].clock.sleep(Duration::from_secs(1));
            }
            let (mut rows, mut lists) = (0, 0);
            for _ in 0..5 {
                for writer in &writers {
                    writer.put(rows..rows + 10, 300);
                    rows += 10;
                    reader.remote.locate(&[unknown()]);
                    reader.work(301);
                    let got = reader.count(0..rows);
                    assert_eq!(got as u64, rows, "{reads}");
                    lists += reader.objects.take_log().lists;
                }
            }
            assert!(lists <= most, "{reads}: {lists} listings for 10 changes");
        }
    }
}

#[test]
fn a_late_name_is_found_within_an_hour() {
    let bucket = bucket();
    let (writer, slow) = (Machine::new(&bucket), Machine::with(&bucket, -3600, |_| {}));
    let reader = Machine::new(&bucket);
    writer.put(0..10, 300);
    reader.work(1);
    // Between two looks, both add segments: one listing shows a change.
    slow.put(10..20, 300);
    writer.put(20..30, 300);
    reader.remote.locate(&[unknown()]);
    reader.work(301);
    assert_eq!((reader.count(20..30), reader.count(10..20)), (10, 0));
    for _ in 0..13 {
        reader.remote.locate(&[unknown()]);
        reader.work(301);
    }
    assert_eq!(reader.count(0..30), 30);
}

#[test]
fn a_late_name_is_found_once_everything_may_be_listed() {
    let bucket = bucket();
    let (writer, slow) = (Machine::new(&bucket), Machine::with(&bucket, -3600, |_| {}));
    let reader = Machine::new(&bucket);
    writer.put(0..10, 300);
    reader.work(1);
    slow.put(10..20, 300);
    reader.remote.locate(&[unknown()]);
    reader.work(60);
    assert_eq!(reader.count(0..20), 10, "everything was listed just before");
    for _ in 0..2 {
        reader.remote.locate(&[unknown()]);
        reader.work(301);
    }
    assert_eq!(reader.count(0..20), 20);
}

#[test]
fn a_hint_that_is_set_twice_between_looks_hides_nothing() {
    let bucket = bucket();
    let (one, other) = (Machine::new(&bucket), Machine::new(&bucket));
    one.put(0..10, 300);
    other.put(10..20, 300);
    one.put(20..30, 300);
    for machine in [&one, &other] {
        machine.remote.locate(&[unknown()]);
        machine.work(301);
        assert_eq!(machine.count(0..30), 30);
    }
}

#[test]
fn objects_that_are_no_segments_are_left_alone() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    let [(key, bytes)] = &bucket.objects(SEGMENTS)[..] else {
        panic!("one object was put")
    };
    let named = |parts: &str| format!("{SEGMENTS}{parts}.tcs");
    let name = key.strip_prefix(SEGMENTS).expect("it is a segment's");
    let (unique, footer) = name.trim_end_matches(".tcs").rsplit_once('-').unwrap();
    let footer = u64::from_str_radix(footer, 16).unwrap();
    let other = |n: u64| unique.replace(&unique[unique.len() - 4..], &format!("{n:04x}"));
    for (n, lie) in [
        (1, footer - 1),
        (2, footer + 1),
        (3, 0),
        (4, 40),
        (5, 0xffff_ffff),
    ] {
        bucket.insert(&named(&format!("{}-{lie:x}", other(n))), bytes.to_vec());
    }
    // Cut, foreign, of a newer version, and in folders of their own.
    let mut newer = bytes.to_vec();
    let version = newer.len() - 24;
    newer[version] = 3;
    bucket.insert(
        &named(&format!("{}-{footer:x}", other(6))),
        bytes[1..].to_vec(),
    );
    bucket.insert(
        &named(&format!("{}-{footer:x}", other(7))),
        vec![7; bytes.len()],
    );
    bucket.insert(&named(&format!("{}-{footer:x}", other(8))), newer);
    bucket.insert(&named(&format!("{}-{footer:x}", other(9))), Vec::new());
    bucket.insert(&format!("{SEGMENTS}readme.txt"), vec![1]);
    bucket.insert(&format!("{SEGMENTS}x/{name}"), bytes.to_vec());
    bucket.take(key);
    let before = bucket.objects("");
    for _ in 0..10 {
        reader.remote.locate(&[unknown()]);
        reader.work(301);
        assert_eq!(reader.count(0..10), 0);
    }
    let log = reader.objects.take_log();
    assert!(
        log.gets <= 10 + 3 * 7,
        "each is read three times at most: {}",
        log.gets
    );
    assert_eq!(reader.stats().breaker, Default::default());
    assert_eq!(bucket.objects(""), before);
    bucket.insert(key, bytes.to_vec());
    reader.work(3601);
    reader.remote.locate(&[unknown()]);
    reader.work(301);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn a_footer_that_was_damaged_on_the_way_is_read_again() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    for fault in [
        ObjectFault::FlippedBit,
        ObjectFault::WrongRange,
        ObjectFault::CutBody,
        ObjectFault::WholeObject,
        ObjectFault::Error(ObjectErrorKind::Throttled),
    ] {
        let mut reader = Machine::new(&bucket);
        reader.fail(&[Request::Read], fault);
        reader.work(1);
        assert_eq!(reader.located(0..10), 0);
        reader.heal();
        reader.work(31);
        assert_eq!(reader.count(0..10), 10, "{fault:?}");
        reader.restart();
        reader.work(1);
        assert_eq!(reader.count(0..10), 10);
    }
    reader.fail(
        &[Request::List],
        ObjectFault::Error(ObjectErrorKind::Denied),
    );
    reader.work(1);
    assert!(
        reader.remote.wait_for_catalog(reader.clock.now()),
        "it has failed"
    );
}

#[test]
fn the_index_has_the_newest_segments_within_its_bound() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    let reader = Machine::with(&bucket, 0, |config| config.max_rows = 35);
    for first in (0..100).step_by(10) {
        writer.put(first..first + 10, 300);
        reader.remote.locate(&[unknown()]);
        reader.work(301);
        let stats = reader.stats();
        assert!(stats.indexed_rows <= 35, "{stats:?}");
    }
    assert_eq!(reader.count(0..100), 30);
    assert_eq!(reader.count(70..100), 30);
    let small = Machine::with(&bucket, 0, |config| config.max_rows = 35);
    small.work(1);
    assert_eq!(small.count(70..100), 30);
    assert_eq!(
        small.objects.take_log().gets,
        1 + 3 + 3,
        "other footers are not read"
    );
}

#[test]
fn the_hint_need_not_exist() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    bucket.take(LATEST);
    reader.work(1);
    assert_eq!(reader.count(0..10), 10);
}
