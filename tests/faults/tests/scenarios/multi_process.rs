//! Eight processes on one directory: they write the same rows and different ones, evict, clear, and
//! read, and each of them compares every row that it gets.

use tempfile::TempDir;
use torchcache_faults::cases::{duration, seen};
use torchcache_faults::process::{Running, number};
use torchcache_faults::roles::neighbour::{CACHE, DEEDS, LEN};
use torchcache_faults::rows::{expect_all, manual_flush};
use torchcache_store::Store;

use crate::child;

/// What each of the eight does.
const ALL: [&str; 8] = [
    "common",
    "common",
    "own",
    "own",
    "evict",
    "clear",
    "read",
    "read-mapped",
];

/// The eight go on until all of this happened. Where much is taken away, there is little to compact.
const TAKEN: &[&str] = DEEDS.split_at(3).0;

/// Those that take nothing away.
const KEEPERS: [&str; 6] = ["common", "common", "own", "own", "read", "read-mapped"];

#[test]
fn processes_never_see_a_wrong_row() {
    let (_root, ends) = together(&ALL, TAKEN);
    let mut all = 0;
    for (deed, what) in TAKEN.iter().enumerate() {
        let times: u64 = ends.iter().map(|end| end.deeds[deed]).sum();
        assert!(times > 0, "no process did {what}");
        all += times;
    }
    seen("rows taken away by one of eight processes", all);
}

#[test]
fn processes_that_take_nothing_away_lose_nothing() {
    let (root, ends) = together(&KEEPERS, &DEEDS[3..]);
    let store = Store::open(root.path().join(CACHE), manual_flush()).unwrap();
    let mut all = 0;
    for end in ends {
        let [evicted, cleared, gone, compacted] = end.deeds;
        assert_eq!((evicted, cleared, gone), (0, 0, 0), "nothing is taken away");
        expect_all(&store, end.first..end.flushed, LEN);
        all += compacted;
    }
    assert_eq!(store.stats().faults.total(), 0);
    seen("segments compacted by one of six processes", all);
}

/// What a process prints at its end.
struct End {
    /// The rows that it flushed.
    first: u64,
    flushed: u64,
    /// Rows evicted, calls of `clear`, rows that were there and were missing later, and segments
    /// compacted.
    deeds: [u64; 4],
}

fn together(parts: &[&str], deeds: &[&str]) -> (TempDir, Vec<End>) {
    let root = tempfile::tempdir().unwrap();
    let mut running = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let args = [
            (*part).to_owned(),
            place.to_string(),
            duration().as_millis().to_string(),
            fastrand::u64(..).to_string(),
            deeds.join(" "),
        ];
        running.push(Running::start(child("neighbour", root.path(), &args)));
    }
    let mut ends = Vec::new();
    for (mut running, part) in running.into_iter().zip(parts) {
        let (lines, status) = running.rest();
        assert!(status.success(), "{part}: {status}: {lines:?}");
        // Rows that others take away are missing; nothing is unreadable.
        let faults = lines.iter().find(|line| line.starts_with("FAULTS"));
        assert_eq!(faults, None, "{part}");
        let said = |word: &str| {
            let said = lines.iter().find_map(|line| number(line, word));
            said.unwrap_or_else(|| panic!("{part} did not say {word}: {lines:?}"))
        };
        assert!(said("COMPARED") > 0, "{part} never found a row");
        ends.push(End {
            first: said("FIRST"),
            flushed: said("FLUSHED"),
            deeds: DEEDS.map(said),
        });
    }
    (root, ends)
}
