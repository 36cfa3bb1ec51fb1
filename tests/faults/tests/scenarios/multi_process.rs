//! Eight processes on one directory: they write the same rows and different ones, evict, clear, and
//! read, and each of them compares every row that it gets.

use tempfile::TempDir;
use torchcache_faults::process::{Running, number};
use torchcache_faults::report::{Report, duration};
use torchcache_faults::roles::neighbour::{CACHE, DEEDS, LEN};
use torchcache_faults::rows::manual_flush;
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
    let report = Report::new("eight processes on one directory");
    let (_root, ends) = together(&report, &ALL, TAKEN);
    for (deed, what) in TAKEN.iter().enumerate() {
        let times = ends.iter().map(|end| end.deeds[deed]).sum();
        assert!(times > 0, "no process did {what}");
        report.case(format_args!("{what}"), || report.caused(times));
    }
    report.finish();
}

#[test]
fn processes_that_take_nothing_away_lose_nothing() {
    let report = Report::new("six processes that write, compact and read");
    let (root, ends) = together(&report, &KEEPERS, &DEEDS[3..]);
    let store = Store::open(root.path().join(CACHE), manual_flush()).unwrap();
    for end in ends {
        let [evicted, cleared, gone, compacted] = end.deeds;
        assert_eq!((evicted, cleared, gone), (0, 0, 0), "nothing is taken away");
        report.expect_all(&store, end.first..end.flushed, LEN);
        report.caused(compacted);
    }
    assert_eq!(store.stats().faults.total(), 0);
    report.finish();
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

fn together(report: &Report, parts: &[&str], deeds: &[&str]) -> (TempDir, Vec<End>) {
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
        assert!(report.add(&lines) > 0, "{part} never found a row");
        // Rows that others take away are missing; nothing is unreadable.
        let faults = lines.iter().find(|line| line.starts_with("FAULTS"));
        assert_eq!(faults, None, "{part}");
        let said = |word: &str| {
            let said = lines.iter().find_map(|line| number(line, word));
            said.unwrap_or_else(|| panic!("{part} did not say {word}: {lines:?}"))
        };
        ends.push(End {
            first: said("FIRST"),
            flushed: said("FLUSHED"),
            deeds: DEEDS.map(said),
        });
    }
    (root, ends)
}
