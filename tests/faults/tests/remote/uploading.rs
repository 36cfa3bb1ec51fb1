//! Uploads: when they happen, what they contain, failures, lost replies, the backlog.

use std::time::Duration;

use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_faults::rows::key;
use torchcache_store::remote::{Clock, ObjectErrorKind, RemoteFlushError};
use torchcache_store::segment::SegmentReader;

use crate::common::{LATEST, Machine, SEGMENTS, bucket, unknown};

#[test]
fn objects_are_segments_as_on_disk() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.put(0..20, 300);
    let objects = bucket.objects("");
    let keys: Vec<_> = objects.iter().map(|(key, _)| key.as_str()).collect();
    assert!(
        keys.len() == 2 && keys[0] == LATEST && keys[1].starts_with(SEGMENTS),
        "{keys:?}"
    );
    assert_eq!(objects[0].1.len(), 16);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.tcs");
    std::fs::write(&path, &*objects[1].1).expect("it can be written");
    let segment = SegmentReader::open(&path, false).expect("it is sound");
    let rows: Vec<_> = segment
        .rows()
        .map(|row| row.expect("it is sound").key)
        .collect();
    assert_eq!(rows, torchcache_faults::rows::keys(0..20));
}

#[test]
fn rows_that_the_remote_has_are_not_put_again() {
    let bucket = bucket();
    let (one, two) = (Machine::new(&bucket), Machine::new(&bucket));
    one.put(0..20, 300);
    two.compute(10..30, 300);
    two.compute(25..30, 300);
    two.flush().expect("it is uploaded");
    two.put(0..30, 300);
    let counts = two.stats().uploads;
    assert_eq!(
        (counts.uploaded, counts.present, counts.objects),
        (10, 45, 1)
    );
    let reader = Machine::new(&bucket);
    reader.work(1);
    assert_eq!((reader.count(0..30), reader.stats().indexed_rows), (30, 30));
}

#[test]
fn rows_are_put_after_a_delay_and_many_at_once() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.compute(0..10, 300);
    writer.work(29);
    assert_eq!(writer.objects.take_log().puts, 0);
    writer.work(10);
    assert_eq!(writer.objects.take_log().puts, 1);
    // 70 MB: one object is full, the rest waits for the second delay.
    writer.compute(100..450, 200_001);
    writer.work(1);
    let log = writer.objects.take_log();
    assert_eq!((log.puts, log.sets), (1, 1));
    writer.work(28);
    assert_eq!(writer.objects.take_log().puts, 0);
    writer.work(4);
    assert_eq!(writer.objects.take_log().puts, 1);
    let sizes = bucket.objects(SEGMENTS);
    let longest = sizes.iter().map(|(_, bytes)| bytes.len()).max();
    assert!(
        longest < Some(65 << 20) && longest > Some(60 << 20),
        "{longest:?}"
    );
    let reader = Machine::new(&bucket);
    reader.work(1);
    assert_eq!(reader.located(100..450), 350);
}

#[test]
fn a_process_that_computes_few_rows_makes_few_objects() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    for n in 0..24 * 360 {
        writer.compute(n..n + 1, 300);
        writer.work(10);
    }
    let log = writer.objects.take_log();
    assert!(
        log.puts <= 100 && log.sets <= 100,
        "{} objects a day",
        log.puts
    );
    assert!(log.lists <= 24 + 5, "{}", log.lists);
    // After a pause the delay is short again.
    writer.work(5000);
    let before = writer.stats().uploads;
    assert_eq!((before.pending_rows, before.uploaded), (0, 24 * 360));
    writer.compute(90_000..90_001, 300);
    writer.work(31);
    assert_eq!(writer.stats().uploads.uploaded, before.uploaded + 1);
}

#[test]
fn a_process_that_computes_a_million_rows_of_2_kb_a_day_makes_few_objects() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    let per_second = 1_000_000.0 / 86_400.0;
    let mut first = 0;
    for second in 1..=6 * 3600 {
        let end = (f64::from(second) * per_second) as u64;
        writer.compute(first..end, 2001);
        first = end;
        writer.work(1);
    }
    let puts = writer.objects.take_log().puts;
    assert!(puts <= 100 / 4 + 5, "{puts} objects in a quarter of a day");
}

#[test]
fn the_hint_changes_at_most_every_five_seconds() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    let reader = Machine::new(&bucket);
    for n in 0..20 {
        writer.put(n..n + 1, 300);
    }
    assert_eq!(writer.objects.take_log().sets, 1);
    reader.work(1);
    writer.put(20..21, 300);
    writer.work(6);
    assert_eq!(
        writer.objects.take_log().sets,
        1,
        "the change that was due follows"
    );
    reader.remote.locate(&[unknown()]);
    reader.work(31);
    assert_eq!(reader.count(0..21), 21);
}

#[test]
fn a_hint_that_is_due_is_changed_at_the_end() {
    let finish = |writer: &Machine| {
        let finished = writer.remote.finish(&writer.rows, Duration::from_secs(10));
        finished.expect("nothing is left");
    };
    let drain = |writer: &Machine| writer.remote.drain(&writer.rows);
    for end in [&finish as &dyn Fn(&Machine), &drain] {
        let bucket = bucket();
        let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
        writer.put(0..10, 300);
        reader.work(1);
        writer.put(10..20, 300);
        assert_eq!(writer.objects.take_log().sets, 1);
        assert!(writer.remote.has_pending());
        end(&writer);
        assert!(!writer.remote.has_pending());
        assert_eq!(writer.objects.take_log().sets, 1);
        reader.remote.locate(&[unknown()]);
        reader.work(31);
        assert_eq!(reader.count(0..20), 20);
    }
}

#[test]
fn a_hint_that_cannot_be_changed_is_tried_once_at_the_end() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.fail(&[Request::Set], ObjectFault::Error(ObjectErrorKind::Denied));
    writer.put(0..10, 300);
    writer.objects.take_log();
    writer.remote.drain(&writer.rows);
    assert_eq!(writer.objects.take_log().sets, 1);
    assert!(!writer.remote.has_pending());
}

#[test]
fn an_upload_that_is_denied_is_not_expected_to_pass_soon() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.compute(0..10, 300);
    let kinds = [ObjectErrorKind::Throttled, ObjectErrorKind::Denied];
    for (kind, is_blocked) in kinds.into_iter().zip([false, true]) {
        writer.fail(&[Request::PutNew], ObjectFault::Error(kind));
        writer.clock.sleep(Duration::from_secs(300));
        writer.remote.drain(&writer.rows);
        assert_eq!(writer.remote.is_blocked(), is_blocked, "{kind:?}");
    }
    writer.heal();
    writer.flush().expect("it is uploaded");
    assert!(!writer.remote.is_blocked());
}

#[test]
fn a_put_that_hangs_is_made_again_in_a_long_flush() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.compute(0..10, 300);
    let mut puts = 0;
    writer.objects.set_faults(move |request| {
        puts += u32::from(request == Request::PutNew);
        (request == Request::PutNew && puts == 1).then_some(ObjectFault::Hangs)
    });
    let flushed = writer.flush_within(Duration::from_secs(300));
    flushed.expect("the second attempt succeeds");
    assert_eq!(writer.objects.take_log().puts, 2);
}

#[test]
fn a_put_whose_reply_was_lost_is_made_again_and_found() {
    for ignores_conditions in [false, true] {
        let bucket = bucket();
        if ignores_conditions {
            bucket.ignore_conditions();
        }
        let writer = Machine::new(&bucket);
        writer.compute(0..10, 300);
        writer.fail(&[Request::PutNew], ObjectFault::LostReply);
        writer.work(40);
        assert_eq!(bucket.objects(SEGMENTS).len(), 1);
        assert_eq!(writer.stats().uploads.pending_rows, 10);
        writer.heal();
        writer.flush().expect("it is uploaded");
        assert_eq!(bucket.objects(SEGMENTS).len(), 1);
        let counts = writer.stats().uploads;
        assert_eq!(
            (counts.uploaded, counts.pending_rows, counts.pending_bytes),
            (10, 0, 0)
        );
        assert_eq!(writer.count(0..10), 10);
    }
}

#[test]
fn an_object_that_could_not_be_put_for_long_gets_a_newer_name() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    Machine::new(&bucket).put(100..110, 300);
    writer.compute(0..10, 300);
    writer.fail(
        &[Request::PutNew],
        ObjectFault::Error(ObjectErrorKind::Other),
    );
    writer.work(7200);
    Machine::new(&bucket).put(110..120, 300);
    reader.work(1);
    let log = writer.objects.take_log();
    assert!(
        (20..40).contains(&log.puts),
        "{} attempts in two hours",
        log.puts
    );
    writer.heal();
    writer.work(301);
    assert_eq!(writer.stats().uploads.uploaded, 10);
    reader.objects.take_log();
    reader.remote.locate(&[unknown()]);
    reader.work(301);
    assert_eq!(
        (reader.count(0..10), reader.objects.take_log().lists),
        (10, 1)
    );
}

#[test]
fn a_machine_that_may_not_write_reads_all_the_same() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    reader.fail(
        &[Request::PutNew, Request::Set],
        ObjectFault::Error(ObjectErrorKind::Denied),
    );
    for n in 0..24 {
        writer.put(n..n + 1, 300);
        reader.compute(100 + n..101 + n, 300);
        reader.remote.locate(&[unknown()]);
        reader.work(300);
        assert_eq!(reader.count(0..n + 1) as u64, n + 1);
    }
    let puts = reader.objects.take_log().puts;
    assert!(puts <= 24, "{puts} attempts in two hours");
}

#[test]
fn a_flush_reports_what_is_not_uploaded() {
    let bucket = bucket();
    let writer = Machine::with(&bucket, 0, |config| config.max_pending_rows = 15);
    writer.compute(0..10, 300);
    writer.fail(
        &[Request::PutNew],
        ObjectFault::Error(ObjectErrorKind::Throttled),
    );
    match writer.flush() {
        Err(RemoteFlushError::Timeout {
            rows: 10,
            source: Some(_),
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    match writer.flush_within(Duration::ZERO) {
        Err(RemoteFlushError::Timeout {
            rows: 10,
            source: None,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    // Five of the next have no room.
    writer.compute(10..20, 300);
    writer.heal();
    writer.work(301);
    match writer.flush() {
        Err(RemoteFlushError::Lost { rows: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
    writer.flush().expect("the loss was reported");
    // Rows that were evicted meanwhile.
    writer.compute(30..40, 300);
    writer.rows.remove(&key(33));
    match writer.flush() {
        Err(RemoteFlushError::Lost { rows: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!((writer.count(0..20), writer.count(30..40)), (15, 9));
    let counts = writer.stats().uploads;
    assert_eq!(
        (counts.dropped, counts.uploaded, counts.pending_bytes),
        (6, 24, 0)
    );
}

#[test]
fn a_flush_of_evicted_rows_puts_nothing() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.compute(0..1, 300);
    writer.rows.remove(&key(0));
    assert!(writer.flush().is_err());
    assert!(bucket.objects("").is_empty());
}

#[test]
fn the_backlog_is_bounded_in_bytes() {
    let bucket = bucket();
    let writer = Machine::with(&bucket, 0, |config| config.max_pending_bytes = 10_000);
    writer.compute(0..1000, 301);
    let counts = writer.stats().uploads;
    assert!(
        counts.pending_bytes <= 10_000 && counts.pending_bytes > 9_000,
        "{counts:?}"
    );
    assert_eq!(counts.pending_rows + counts.dropped, 1000);
}

#[test]
fn two_threads_flush_each_row_once() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = &writer;
            scope.spawn(move || {
                for n in 0..20 {
                    let first = 1000 * thread + 10 * n;
                    writer.compute(first..first + 10, 300);
                    match n % 4 {
                        0 => writer.remote.work(&writer.rows),
                        _ => writer.flush().expect("it is uploaded"),
                    }
                }
                writer.flush().expect("it is uploaded");
            });
        }
    });
    let reader = Machine::new(&bucket);
    reader.work(1);
    for thread in 0..4 {
        assert_eq!(reader.count(1000 * thread..1000 * thread + 200), 200);
    }
    assert_eq!(writer.stats().uploads.uploaded, 800);
    assert_eq!(reader.stats().indexed_rows, 800);
}

#[test]
fn a_loss_is_reported_to_each_user() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    let flush = |user| {
        writer
            .remote
            .flush(&writer.rows, Duration::from_secs(60), user)
    };
    let lost = |flushed| match flushed {
        Err(RemoteFlushError::Lost { rows, .. }) => rows,
        other => panic!("{other:?}"),
    };
    let (one, two) = (writer.remote.new_user(), writer.remote.new_user());
    writer.compute(0..10, 300);
    writer.rows.remove(&key(3));
    assert_eq!(lost(flush(&one)), 1);
    assert_eq!(lost(flush(&two)), 1);
    let three = writer.remote.new_user();
    for user in [&one, &two, &three] {
        flush(user).expect("it was reported");
    }
    writer.compute(20..30, 300);
    (24..26).for_each(|n| writer.rows.remove(&key(n)));
    writer.work(31);
    // One that comes later, too, while no flush has reported it.
    let four = writer.remote.new_user();
    assert_eq!([&one, &two, &four].map(|user| lost(flush(user))), [2; 3]);
}

#[test]
fn a_thread_gets_the_loss_of_its_rows_reported_whoever_flushes_at_the_same_time() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = &writer;
            scope.spawn(move || {
                let user = writer.remote.new_user();
                for n in 0..50 {
                    let row = 1000 * thread + n;
                    // It is not on the disk.
                    writer.remote.push([(key(row), 300)]);
                    let flushed = writer
                        .remote
                        .flush(&writer.rows, Duration::from_secs(60), &user);
                    assert!(
                        matches!(flushed, Err(RemoteFlushError::Lost { .. })),
                        "{row}: {flushed:?}"
                    );
                }
            });
        }
    });
}

#[test]
fn a_row_that_is_damaged_in_the_remote_is_put_again() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 301);
    let [(name, bytes)] = &bucket.objects(SEGMENTS)[..] else {
        panic!("one object was put")
    };
    let mut bad = bytes.to_vec();
    bad[16 + 20] ^= 1;
    bucket.insert(name, bad);
    reader.work(1);
    assert_eq!(reader.count(0..10), 9);
    reader.put(0..10, 301);
    let counts = reader.stats().uploads;
    assert_eq!((counts.uploaded, counts.present), (1, 9));
    // The copy is newer than the damaged record.
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn a_machine_that_may_only_write_uploads() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.fail(
        &[Request::Get, Request::List, Request::Read],
        ObjectFault::Error(ObjectErrorKind::Denied),
    );
    for n in 0..10 {
        writer.compute(n..n + 1, 300);
        writer.work(1000);
    }
    assert!(bucket.objects(LATEST).len() == 1);
    reader.work(1);
    assert_eq!(reader.count(0..10), 10);
}

#[test]
fn a_hint_that_may_not_be_changed_is_tried_ever_less_often() {
    let bucket = bucket();
    let writer = Machine::new(&bucket);
    writer.fail(&[Request::Set], ObjectFault::Error(ObjectErrorKind::Denied));
    writer.put(0..10, 300);
    writer.work(3600);
    let log = writer.objects.take_log();
    assert!(
        (12..=20).contains(&log.sets),
        "{} attempts in an hour",
        log.sets
    );
    writer.heal();
    writer.work(301);
    assert_eq!(bucket.objects(LATEST).len(), 1);
    writer.work(3600);
    assert_eq!(writer.objects.take_log().sets, 1);
}
