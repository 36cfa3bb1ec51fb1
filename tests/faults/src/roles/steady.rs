//! Works until it is killed, and prints which rows it began and which it flushed.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use torchcache_store::fs::Os;
use torchcache_store::{Config, Store};

use crate::cases::Counter;
use crate::faulty::{Call, Fate, Faulty};
use crate::process::say;
use crate::rows::{batch, keys, manual_flush};

/// Rows of this length fill a segment each where the target is small.
pub const LEN: usize = 5000;

/// The limit where segments are evicted. Each of them has one row.
pub const LIMIT: u64 = 100_000;

/// The number of the first row that is removed.
pub const REMOVED: u64 = 1 << 40;

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Segments of some rows each.
    Write,
    /// A segment for each row, so that segments are compacted all the time.
    Compact,
    /// Segments beyond the limit, so that others are evicted.
    Evict,
    /// Segments of some rows each, from which one more is removed.
    Remove,
    /// Opening a directory that holds segments and files of killed writers.
    Open,
}

impl Work {
    /// Every kind of work.
    pub const ALL: [Work; 5] = [
        Work::Write,
        Work::Compact,
        Work::Evict,
        Work::Remove,
        Work::Open,
    ];

    fn config(self) -> Config {
        match self {
            Work::Evict => manual_flush()
                .with_segment_bytes(4096)
                .with_max_bytes(LIMIT),
            _ => manual_flush().with_segment_bytes(1 << 20),
        }
    }

    fn rows_each(self) -> u64 {
        match self {
            Work::Compact => 1,
            Work::Evict => 10, // a batch above the limit would be refused
            _ => 40,
        }
    }

    /// The calls at which it can be killed.
    pub fn calls(self) -> &'static [Call] {
        match self {
            Work::Write => &[
                Call::OpenDir,
                Call::Create,
                Call::Write,
                Call::Sync,
                Call::Rename,
                Call::SyncDir,
            ],
            Work::Compact => &[
                Call::Open,
                Call::Read,
                Call::Write,
                Call::Sync,
                Call::SetModified,
                Call::Rename,
                Call::Stat,
                Call::SyncDir,
                Call::Remove,
            ],
            Work::Evict => &[Call::Stat, Call::Remove, Call::Rename, Call::List],
            Work::Remove => &[
                Call::Create,
                Call::Read,
                Call::Write,
                Call::Sync,
                Call::Rename,
                Call::SyncDir,
                Call::Remove,
                Call::List,
            ],
            Work::Open => &[
                Call::OpenDir,
                Call::LookDir,
                Call::Create,
                Call::Lock,
                Call::Write,
                Call::Remove,
                Call::List,
                Call::Open,
                Call::Look,
                Call::Read,
            ],
        }
    }
}

/// Where the process kills itself: at which call of a kind, and how.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The kind of call.
    pub call: Call,
    /// Before it, after it, or in the middle.
    pub fate: Fate,
    /// Which call of the kind, from 1.
    pub nth: u64,
}

const FATES: [Fate; 3] = [Fate::KillsBefore, Fate::KillsHalfway, Fate::KillsAfter];

impl Point {
    /// The arguments that [`run`] reads it from.
    pub fn arguments(&self) -> [String; 3] {
        let Point { call, fate, nth } = self;
        [format!("{call:?}"), format!("{fate:?}"), nth.to_string()]
    }

    fn parse(args: &[String]) -> Option<Point> {
        let [call, fate, nth] = args else {
            return None;
        };
        let mut calls = Call::ALL.into_iter();
        Some(Point {
            call: calls.find(|it| format!("{it:?}") == *call)?,
            fate: FATES.into_iter().find(|it| format!("{it:?}") == *fate)?,
            nth: nth.parse().ok()?,
        })
    }
}

/// The arguments: the work, the number of the first row, and the point if there is one.
pub fn run(dir: &Path, args: &[String]) {
    let [work, first, point @ ..] = args else {
        panic!("got {args:?}");
    };
    let mut all = Work::ALL.into_iter();
    let work = all.find(|all| format!("{all:?}") == *work).unwrap();
    let mut put: u64 = first.parse().unwrap();
    let is_open = Arc::new(AtomicBool::new(false));
    let decide = kill_at(Point::parse(point), work, is_open.clone());
    let fs = Arc::new(Faulty::new(Os, decide));
    loop {
        let store = Store::open_on(fs.clone(), dir, work.config()).unwrap();
        is_open.store(true, Ordering::SeqCst);
        for _ in 0..if work == Work::Open { 2 } else { u64::MAX } {
            say(format_args!("BEGUN {}", put + work.rows_each()));
            store.put(batch(put..put + work.rows_each(), LEN));
            let extra = REMOVED + put..REMOVED + put + u64::from(work == Work::Remove);
            store.put(batch(extra.clone(), LEN));
            put += work.rows_each();
            store.flush().unwrap();
            say(format_args!("FLUSHED {put}"));
            store.remove(&keys(extra)).unwrap();
        }
        drop(store);
        is_open.store(false, Ordering::SeqCst);
    }
}

fn kill_at(
    point: Option<Point>,
    work: Work,
    is_open: Arc<AtomicBool>,
) -> impl Fn(Call, &OsStr) -> Fate + Send + Sync + 'static {
    let calls = Counter::default();
    move |call, _| match point {
        // Points of opening are before it is done, all others after it.
        Some(point)
            if point.call == call
                && is_open.load(Ordering::SeqCst) != (work == Work::Open)
                && calls.next() == point.nth =>
        {
            point.fate
        }
        _ => Fate::Done,
    }
}
