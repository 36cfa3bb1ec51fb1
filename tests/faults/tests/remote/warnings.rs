//! Warnings: each kind once for each tier, with the URL and what to do.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use torchcache_faults::objects::{ObjectFault, Request};
use torchcache_store::remote::ObjectErrorKind;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::common::{Machine, SEGMENTS, bucket, unknown};
use crate::host::Host;

const LEN: usize = 300;

/// The warnings of a thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

/// The fields of an event.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("torchcache_store::remote")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The warnings while something is done.
fn warnings(act: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), act);
    log.0.lock().unwrap().clone()
}

/// Expects one warning that names the URL and has these words.
#[track_caller]
fn expect_one(warnings: &[String], words: &[&str]) {
    let [warning] = warnings else {
        panic!("{warnings:#?}")
    };
    for word in words.iter().chain(&["s3://bucket/team"]) {
        assert!(warning.contains(word), "{warning}");
    }
}

/// Requests of these kinds fail again and again.
fn failing(kinds: &'static [Request], fault: ObjectFault) -> Vec<String> {
    let bucket = bucket();
    let writer = Host::new(&bucket);
    writer.compute(500..510, LEN);
    writer.flush().expect("it is uploaded");
    let here = Host::new(&bucket);
    here.fail(kinds, fault);
    warnings(|| {
        for n in 0..5 {
            here.compute(n * 10..n * 10 + 10, LEN);
            here.work(400);
            here.get(500..510, LEN);
        }
    })
}

#[test]
fn what_keeps_the_remote_from_being_of_use_is_said_once() {
    let all = &[
        Request::List,
        Request::Read,
        Request::Get,
        Request::PutNew,
        Request::Set,
    ][..];
    let error = ObjectFault::Error;
    for (kinds, fault, words) in [
        (
            all,
            ObjectFault::Hangs,
            ["keep failing", "check the network"],
        ),
        (
            all,
            error(ObjectErrorKind::Other),
            ["planted", "check the network"],
        ),
        (
            &[Request::PutNew, Request::Set],
            error(ObjectErrorKind::Denied),
            ["denied writing", "`read-only`"],
        ),
        (
            &[Request::Read, Request::Get, Request::List],
            error(ObjectErrorKind::Denied),
            ["denied reading", "`write-only`"],
        ),
        (
            &[Request::PutNew],
            error(ObjectErrorKind::Throttled),
            ["fewer requests", "raise"],
        ),
        (
            all,
            error(ObjectErrorKind::NotFound),
            ["does not exist", "create it"],
        ),
    ] {
        let mut warnings = failing(kinds, fault);
        // Puts of such a store keep failing as well.
        if fault == error(ObjectErrorKind::Throttled) {
            warnings.retain(|warning| warning.contains("raise"));
        }
        expect_one(&warnings, &words);
    }
}

#[test]
fn damaged_objects_are_said_once() {
    let bucket = bucket();
    let writer = Host::new(&bucket);
    writer.compute(0..10, LEN);
    writer.flush().expect("it is uploaded");
    let [(name, bytes)] = &bucket.objects(SEGMENTS)[..] else {
        panic!("one object was put")
    };
    let mut bad = bytes.to_vec();
    (16..16 + 10 * LEN).step_by(100).for_each(|at| bad[at] ^= 1);
    bucket.insert(name, bad);
    let there = Host::new(&bucket);
    let warnings = warnings(|| {
        there.work(1);
        assert_eq!(there.get(0..10, LEN), 0);
        there.get(0..10, LEN);
    });
    expect_one(&warnings, &["not as it was written", "computed here"]);
    assert!(there.stats().corrupt > 1);
}

#[test]
fn more_rows_than_a_process_knows_are_said_once() {
    let bucket = bucket();
    let here = Machine::with(&bucket, 0, |config| {
        config.url = "s3://bucket/team".to_owned();
        config.max_rows = 25;
    });
    let there = Machine::new(&bucket);
    let warnings = warnings(|| {
        for n in 0..5 {
            there.put(n * 10..n * 10 + 10, LEN);
            here.remote.locate(&[unknown()]);
            here.work(301);
        }
    });
    expect_one(&warnings, &["at most 25 are known", "`torchcache prune`"]);
}

#[test]
fn a_full_backlog_is_said_once() {
    let bucket = bucket();
    let url = |config: &mut torchcache_store::remote::RemoteConfig| {
        config.url = "s3://bucket/team".to_owned();
        config.max_pending_rows = 15;
    };
    let here = Machine::with(&bucket, 0, url);
    let warnings = warnings(|| (0..5).for_each(|n| here.compute(n * 10..n * 10 + 10, LEN)));
    expect_one(&warnings, &["5 of 10 rows", "check why"]);
    assert_eq!(here.stats().uploads.dropped, 35);
}
