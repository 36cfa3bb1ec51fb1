//! A process is killed at any moment, and at each of its calls of the file system: before it, after
//! it, and in the middle of a write; while it writes, compacts, evicts, removes and opens.

use std::fs;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::select;
use torchcache_faults::cases::{cases, random, seen};
use torchcache_faults::faulty::{Call, Fate};
use torchcache_faults::process::{Running, number};
use torchcache_faults::roles::steady::{LEN, LIMIT, Point, Work};
use torchcache_faults::rows::{count_right, expect_all, expect_no_faults, manual_flush};
use torchcache_store::Store;

use crate::child;

/// Kills in one directory.
const KILLS: usize = 10;

/// Files of writers that were killed long ago, which opening the directory removes.
const LEFT_BEHIND: u64 = 3;

/// At least so many rows stay once there were more: what fits, without the segment that is evicted
/// last and the one that is written.
const KEPT: u64 = LIMIT / (LEN as u64 + 200) - 2;

#[derive(Clone, Debug)]
struct Kill {
    work: Work,
    at: At,
}

#[derive(Clone, Debug)]
enum At {
    Moment(Duration),
    Call(Point),
}

fn kill() -> impl Strategy<Value = Kill> {
    let moment = (0..60_000u64).prop_map(|micros| At::Moment(Duration::from_micros(micros)));
    select(Work::ALL.as_slice()).prop_flat_map(move |work| {
        let at = prop_oneof![1 => moment.clone(), 2 => point(work).prop_map(At::Call)];
        at.prop_map(move |at| Kill { work, at })
    })
}

fn point(work: Work) -> impl Strategy<Value = Point> {
    let nth = match work {
        // Half of them are among the first, which find what killed writers left.
        Work::Open => prop_oneof![1..LEFT_BEHIND + 2, 1..30u64].boxed(),
        _ => (1..30u64).boxed(),
    };
    (select(work.calls()), nth).prop_flat_map(|(call, nth)| {
        let fates = match call {
            Call::Write => &[Fate::KillsBefore, Fate::KillsAfter, Fate::KillsHalfway][..],
            _ => &[Fate::KillsBefore, Fate::KillsAfter],
        };
        select(fates).prop_map(move |fate| Point { call, fate, nth })
    })
}

#[test]
fn flushed_rows_survive_a_kill() {
    let cases = cases(5, 50);
    proptest!(random(cases), |(kills in prop::collection::vec(kill(), KILLS))| {
        // Evictions say nothing of the rows that must stay, so they get a directory of their own.
        let mut places = [Place::new(), Place::new()];
        for kill in kills {
            let place = &mut places[usize::from(kill.work == Work::Evict)];
            killed(place, &kill);
        }
    });
    let times = u64::from(cases) * KILLS as u64;
    seen(
        "killed while writing, compacting, evicting, removing or opening",
        times,
    );
}

/// A directory and its rows so far.
struct Place {
    root: tempfile::TempDir,
    /// Rows up to this were begun.
    begun: u64,
    /// Those of them that were flushed.
    flushed: Vec<Range<u64>>,
}

impl Place {
    fn new() -> Place {
        Place {
            root: tempfile::tempdir().unwrap(),
            begun: 0,
            flushed: Vec::new(),
        }
    }

    /// Adds temporary files of long ago.
    fn leave_behind(&self) -> Vec<PathBuf> {
        let name = |n| format!(".tmp-{n:016x}-1-{n:016x}.tcs");
        let paths = (0..LEFT_BEHIND).map(|n| self.root.path().join(name(n)));
        let paths: Vec<_> = paths.collect();
        for path in &paths {
            let time = SystemTime::now() - Duration::from_secs(3600);
            fs::File::create(path).unwrap().set_modified(time).unwrap();
        }
        paths
    }
}

fn killed(place: &mut Place, kill: &Kill) {
    let left_behind = match kill.work {
        Work::Open => place.leave_behind(),
        _ => Vec::new(),
    };
    let (first, dir) = (place.begun, place.root.path());
    let mut args = vec![format!("{:?}", kill.work), first.to_string()];
    if let At::Call(point) = &kill.at {
        args.extend(point.arguments());
    }
    let mut running = Running::start(child("steady", dir, &args));
    let mut lines = Vec::new();
    if let At::Moment(after) = kill.at {
        lines.extend(running.line()); // it is at work
        thread::sleep(after);
        running.child.kill().unwrap();
    }
    let (more, status) = running.rest();
    lines.extend(more);
    assert_eq!(status.signal(), Some(9), "{lines:?}");

    let last = |word| lines.iter().rev().find_map(|line| number(line, word));
    place.begun = last("BEGUN").unwrap_or(first).max(first);
    if let Some(flushed) = last("FLUSHED") {
        place.flushed.push(first..flushed);
    }
    let store = Store::open(dir, manual_flush()).unwrap();
    if kill.work == Work::Evict {
        newest_are_kept(&store, place);
    } else {
        for rows in &place.flushed {
            expect_all(&store, rows.clone(), LEN);
        }
        count_right(&store, 0..place.begun, LEN);
    }
    let are_left = left_behind.iter().any(|path| path.exists());
    assert!(!are_left, "temporary files of dead writers are left");
    expect_no_faults(&store);
}

/// Rows are evicted in the order in which they came, and no more of them than necessary.
fn newest_are_kept(store: &Store, place: &Place) {
    let is_there = |row: &u64| count_right(store, *row..row + 1, LEN) == 1;
    let rows: Vec<u64> = (0..place.begun).filter(is_there).collect();
    let flushed: Vec<u64> = place.flushed.iter().cloned().flatten().collect();
    if flushed.len() as u64 <= KEPT {
        return; // killed before anything was evicted
    }
    assert!(rows.len() as u64 >= KEPT, "only {rows:?} are there");
    let is_missing = |row: &&u64| **row > rows[0] && !rows.contains(row);
    let missing: Vec<_> = flushed.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?} went before {rows:?}");
}
