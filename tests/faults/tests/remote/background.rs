//! What a tier does in the background for rows that are read: the rest of segments, read marks, the manifest.

use std::time::Duration;

use torchcache_faults::objects::{ObjectFault, Request, SimObjects};
use torchcache_faults::rows::{key, keys};
use torchcache_faults::sim::Sim;
use torchcache_store::fs::FileSystem;
use torchcache_store::manifest::Manifest;
use torchcache_store::remote::{Clock, ObjectErrorKind, ReadMark, RemoteMode};
use torchcache_store::{Config, Eviction};

use crate::common::{HASH, SEGMENTS, bucket};
use crate::host::{DIR, Host};

const LEN: usize = 3000;
const ROWS: u64 = 1000;

/// What the keys of read marks begin with.
const MARKS: &str = "team/torchcache-1/0123abcd/r/";

const DAY: u64 = 86_400;

/// A bucket with one segment of 3 MB.
fn filled_bucket() -> SimObjects {
    let bucket = bucket();
    let writer = Host::new(&bucket);
    writer.compute(0..ROWS, LEN);
    writer.flush().expect("it is uploaded");
    bucket
}

fn host(bucket: &SimObjects, config: Config) -> Host {
    let host = Host::configured(bucket, Sim::new(), RemoteMode::ReadWrite, 0, config);
    host.work(1);
    host
}

#[test]
fn the_rest_of_a_segment_that_was_asked_often_is_fetched_and_not_uploaded() {
    let bucket = filled_bucket();
    let there = host(&bucket, Config::default());
    for n in 0..15 {
        assert_eq!(there.get(n..n + 1, LEN), 1);
    }
    there.work(1);
    assert_eq!(there.stats().filled, 0);
    assert_eq!(there.get(15..16, LEN), 1);
    there.objects.take_log();
    there.work(1);
    assert_eq!(there.stats().filled, ROWS - 16);
    assert_eq!(there.local(0..ROWS, LEN), ROWS);
    let log = there.objects.take_log();
    assert!(log.gets <= 2 && log.lists == 0, "{log:?}");
    there.flush().expect("nothing is to be uploaded");
    there.work(1000);
    assert_eq!(there.stats().uploads, Default::default());
    assert_eq!(there.stats().hits, 16, "what is fetched so is no hit");
}

#[test]
fn the_rest_of_a_segment_takes_no_more_requests_if_its_rows_have_many_lengths() {
    let gets = |lengths: [usize; 2]| {
        let bucket = bucket();
        let writer = Host::new(&bucket);
        let len = |n: u64| lengths[n as usize % 2];
        (0..ROWS).for_each(|n| writer.compute(n..n + 1, len(n)));
        writer.flush().expect("it is uploaded");
        assert_eq!(bucket.objects(SEGMENTS).len(), 1);
        let there = host(&bucket, Config::default());
        (0..16).for_each(|n| assert_eq!(there.get(n..n + 1, len(n)), 1));
        there.objects.take_log();
        there.work(1);
        assert_eq!(there.stats().filled, ROWS - 16);
        (0..ROWS).for_each(|n| assert_eq!(there.local(n..n + 1, len(n)), 1));
        there.objects.take_log().gets
    };
    assert_eq!(gets([LEN, LEN + 1]), gets([LEN, LEN]));
}

#[test]
fn the_rest_of_a_segment_is_fetched_after_a_quarter_of_its_bytes() {
    let bucket = filled_bucket();
    let there = host(&bucket, Config::default());
    there.get(0..ROWS / 5, LEN);
    there.work(1);
    assert_eq!(there.stats().filled, 0);
    there.get(ROWS / 5..ROWS / 5 + 60, LEN);
    there.work(1);
    assert_eq!(there.stats().filled, ROWS - 260);
    assert_eq!(there.local(0..ROWS, LEN), ROWS);
}

#[test]
fn the_rest_of_a_segment_is_left_where_it_does_not_fit() {
    let bucket = filled_bucket();
    let full = 4_000_000;
    for config in [
        Config::default().with_max_bytes(16 * 2_900_000),
        Config::default().with_max_root_bytes(Some(16 * 2_900_000)),
        Config::default()
            .with_eviction(Eviction::Never)
            .with_max_bytes(16 * full),
    ] {
        let there = host(&bucket, config.clone());
        if config.eviction == Eviction::Never {
            let rows = 16 * full / LEN as u64 - 1000;
            there
                .store
                .put(torchcache_faults::rows::batch(10_000..10_000 + rows, LEN));
            there.store.flush().expect("it is written");
        }
        there.get(0..ROWS / 3, LEN);
        there.objects.take_log();
        there.work(10);
        assert_eq!(there.stats().filled, 0, "{config:?}");
        assert_eq!(there.objects.take_log().gets, 0);
    }
}

#[test]
fn rows_that_are_removed_while_the_rest_is_fetched_do_not_come_back() {
    let bucket = filled_bucket();
    let there = host(&bucket, Config::default());
    there.get(0..ROWS / 3, LEN);
    let store = there.store.clone();
    there.objects.set_faults(move |request| {
        if request == Request::Read {
            store.clear();
        }
        None
    });
    there.work(1);
    there.heal();
    assert!(there.stats().filled > 0);
    assert_eq!(there.local(0..ROWS, LEN), 0);
}

#[test]
fn rows_that_were_removed_before_do_not_come_with_the_rest() {
    let bucket = filled_bucket();
    let there = host(&bucket, Config::default());
    there.get(0..ROWS / 3, LEN);
    there.store.remove(&keys(0..20)).expect("they are removed");
    there.tier.supersede(&keys(0..20));
    there.work(1);
    assert_eq!(there.local(0..ROWS, LEN), ROWS - 20);
    assert_eq!(there.local(0..20, LEN), 0);
}

#[test]
fn a_rest_that_does_not_come_is_a_miss() {
    let bucket = filled_bucket();
    let there = host(&bucket, Config::default());
    there.get(0..ROWS / 3, LEN);
    there.fail(&[Request::Read], ObjectFault::CutBody);
    there.work(1);
    there.heal();
    let local = there.local(0..ROWS, LEN);
    assert_eq!(local, ROWS / 3 + there.stats().filled);
    assert!(local < ROWS);
    there.get(0..ROWS, LEN);
    assert_eq!(there.local(0..ROWS, LEN), ROWS);
}

#[test]
fn a_rest_that_breaks_off_leaves_its_rows_and_calls_fetch_the_others() {
    // Three portions.
    const ROWS: u64 = 7000;
    let bucket = bucket();
    let writer = Host::new(&bucket);
    writer.compute(0..ROWS, LEN);
    writer.flush().expect("it is uploaded");
    let there = host(&bucket, Config::default());
    let asked = ROWS / 4 + 60;
    assert_eq!(there.get(0..asked, LEN) as u64, asked);
    there.objects.take_log();
    let mut reads = 0;
    there.objects.set_faults(move |request| {
        reads += u64::from(request == Request::Read);
        (reads == 2).then_some(ObjectFault::Hangs)
    });
    there.work(1);
    let gets = there.objects.take_log().gets;
    assert_eq!(gets, 2, "one for each portion, and no third one");
    there.heal();
    let filled = there.stats().filled;
    assert!(filled > 0 && filled < ROWS - asked, "{filled}");
    assert_eq!(there.local(0..ROWS, LEN), asked + filled);
    there.work(100);
    assert_eq!(there.stats().filled, filled, "it is fetched once");
    let rest = ROWS - asked - filled;
    assert_eq!(there.get(0..ROWS, LEN) as u64, rest);
    assert_eq!(there.local(0..ROWS, LEN), ROWS);
}

/// The marks of a bucket: their keys below `r/`, and the names in each.
fn marks(bucket: &SimObjects) -> Vec<(String, Vec<String>)> {
    let marks = bucket.objects(MARKS).into_iter().map(|(key, content)| {
        let key = key.strip_prefix(MARKS).expect("it begins so").to_owned();
        assert!(ReadMark::parse(&key).is_some(), "{key}");
        let names = ReadMark::names(&content).expect("it is intact");
        let names = names.into_iter().map(str::to_owned).collect();
        (key, names)
    });
    marks.collect()
}

/// A bucket with so many segments, of ten rows each.
fn bucket_of(segments: u64) -> SimObjects {
    let bucket = bucket();
    let writer = Host::new(&bucket);
    for n in 0..segments {
        writer.compute(n * 10..n * 10 + 10, LEN);
        writer.flush().expect("it is uploaded");
    }
    bucket
}

fn segment_names(bucket: &SimObjects) -> Vec<String> {
    let objects = bucket.objects(SEGMENTS).into_iter();
    let name = |key: String| key.strip_prefix(SEGMENTS).expect("it begins so").to_owned();
    objects.map(|(key, _)| name(key)).collect()
}

#[test]
fn a_machine_marks_once_a_day_what_it_read() {
    let bucket = bucket_of(3);
    let names = segment_names(&bucket);
    let there = host(&bucket, Config::default());
    there.get(0..20, LEN);
    there.work(500);
    assert_eq!(there.objects.take_log().sets, 0, "more may be read soon");
    there.work(200);
    assert_eq!(there.objects.take_log().sets, 1);
    let [(first, marked)] = &marks(&bucket)[..] else {
        panic!("one mark was put")
    };
    assert!(first.starts_with("20270115/"), "{first}");
    assert_eq!(marked[..], names[..2]);
    there.work(5000);
    there.get(20..30, LEN);
    there.work(5000);
    assert_eq!(there.objects.take_log().sets, 0, "once a day");
    there.clock.sleep(Duration::from_secs(DAY));
    // A row that is on the disk by now is none that was read.
    there.get(0..10, LEN);
    there.work(700);
    let log = there.objects.take_log();
    assert_eq!((log.lists, log.gets, log.sets), (0, 0, 1));
    let all = marks(&bucket);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].0, *first);
    assert!(all[1].0.starts_with("20270116/"));
    assert_eq!(all[1].1, names[2..]);
    there.store.clear();
    there.get(0..10, LEN);
    there.work(700);
    assert_eq!(marks(&bucket).len(), 2, "once a day");
}

#[test]
fn processes_of_a_machine_put_marks_of_their_own() {
    let bucket = bucket_of(3);
    let names = segment_names(&bucket);
    let disk = Sim::new();
    let process = || Host::with(&bucket, disk.clone(), RemoteMode::ReadWrite, 0);
    for n in 0..3 {
        let there = process();
        there.work(1);
        there.get(n * 10..n * 10 + 10, LEN);
        there.work(700);
        assert_eq!(there.objects.take_log().sets, 1);
    }
    let mut marked: Vec<String> = marks(&bucket).into_iter().flat_map(|it| it.1).collect();
    marked.sort_unstable();
    assert_eq!(marked, names, "each in one mark");
}

#[test]
fn a_machine_that_may_not_write_tries_once_to_mark() {
    let bucket = bucket_of(2);
    let there = host(&bucket, Config::default());
    there.fail(&[Request::Set], ObjectFault::Error(ObjectErrorKind::Denied));
    for _ in 0..3 {
        there.get(0..20, LEN);
        there.store.clear();
        there.work(700);
        there.clock.sleep(Duration::from_secs(DAY));
    }
    assert_eq!(there.objects.take_log().sets, 1);
    assert!(marks(&bucket).is_empty());
    assert_eq!(there.get(0..20, LEN), 20, "reading goes on");
}

#[test]
fn the_manifest_is_put_once_with_the_first_rows() {
    let bucket = bucket();
    let hosts = [Host::new(&bucket), Host::new(&bucket)];
    let manifest = Manifest::new("demo::Head", HASH, Vec::new());
    for (n, host) in (0..).zip(&hosts) {
        let dir = host.disk.open_dir(DIR.as_ref(), false).expect("it exists");
        manifest.write(&dir).expect("it is written");
        host.work(1);
        assert_eq!(host.objects.take_log().puts, 0);
        for first in [0, 100] {
            host.compute(n * 10 + first..n * 10 + first + 10, LEN);
            host.flush().expect("it is uploaded");
            host.work(2);
        }
        assert_eq!(host.objects.take_log().puts, 3);
    }
    let objects = bucket.objects("/manifest.json");
    let [(key, json)] = &objects[..] else {
        panic!("one manifest was put")
    };
    assert_eq!(key, "team/torchcache-1/0123abcd/manifest.json");
    assert_eq!(Manifest::parse(json).expect("it is sound"), manifest);
}

#[test]
fn a_key_that_the_remote_lacks_costs_no_request() {
    let bucket = filled_bucket();
    let there = host(&bucket, Config::default());
    there.objects.take_log();
    assert_eq!(
        there.tier.locate(&[key(u64::MAX)], there.deadline()).len(),
        1
    );
    assert_eq!(there.objects.take_log(), Default::default());
}
