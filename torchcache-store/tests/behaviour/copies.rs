//! Rows that lie in several segments, since several processes write: one of them is read, and
//! another takes its place when it goes.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::common::{batch, count_right, key, keys, manual_flush, segments};
use tempfile::TempDir;
use torchcache_store::{Fault, Key, Store};

/// Puts rows, and returns the positions of those that were present. Checks that each was located with
/// the value that was put first.
fn present(store: &Store, rows: &[Key]) -> Vec<usize> {
    let winners = store.put(batch(rows, "a", 100));
    let (positions, located): (Vec<_>, Vec<_>) = winners.into_iter().unzip();
    let mut values = vec![vec![0; 100]; located.len()];
    let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
    assert!(store.read(&located, &mut out).iter().all(|read| *read));
    for (position, value) in positions.iter().zip(values) {
        assert_eq!(value, crate::common::value(&rows[*position], 100));
    }
    positions
}

#[test]
fn put_returns_the_rows_that_were_first() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert!(store.put(batch(&keys(0..5), "a", 100)).is_empty());
    // Half of them queued, then half of them on disk.
    assert_eq!(present(&store, &keys(3..8)), [0, 1]);
    store.flush().expect("the disk works");
    assert_eq!(present(&store, &keys(7..10)), [0]);
    let twice = [key(20), key(20)];
    assert_eq!(present(&store, &twice), [1], "twice in one batch");
}

/// A store with five rows on disk, and the directory of another process that holds `rows`.
fn next_to(rows: Range<u64>) -> (TempDir, Store, TempDir) {
    let (here, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (here, there) = (here.expect("a directory"), there.expect("a directory"));
    let store = Store::open(here.path(), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..5), "a", 100));
    store.flush().expect("it is written");
    let other = Store::open(there.path(), manual_flush()).expect("it opens");
    other.put(batch(&keys(rows), "a", 100));
    (here, store, there)
}

fn copy_to(dir: &TempDir, segment: &Path) {
    let into = dir.path().join(segment.file_name().expect("a name"));
    fs::copy(segment, into).expect("it is copied");
}

#[test]
fn rows_located_before_a_foreign_compaction_are_read() {
    // The other process is a second directory here: its compacted file is moved over, as the
    // rename of a compaction would do, and the sources removed.
    let (here, store, there) = next_to(0..20);
    let source = segments(here.path()).remove(0);
    let compacted = segments(there.path()).remove(0);

    let found: Vec<_> = store.locate(&keys(0..5)).into_iter().flatten().collect();
    copy_to(&here, &compacted);
    fs::remove_file(source).expect("it is removed");
    let mut rows = vec![vec![0; 100]; 5];
    let mut out: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
    assert_eq!(store.read(&found, &mut out), [true; 5]);
    assert_eq!(count_right(&store, &keys(0..20), 100), 20);
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn a_copy_is_read_when_the_first_segment_is_removed() {
    let (here, store, there) = next_to(0..5);
    let first = segments(here.path()).remove(0);
    let second = segments(there.path()).remove(0);
    copy_to(&here, &second);
    store.refresh();
    assert_eq!(
        (store.stats().segments, store.stats().rows),
        (2, 5),
        "each row counts once"
    );
    fs::remove_file(first).expect("it is removed");
    store.refresh();
    assert_eq!((store.stats().segments, store.stats().rows), (1, 5));
    assert_eq!(count_right(&store, &keys(0..5), 100), 5);
}

#[test]
fn a_row_with_a_corrupt_record_is_read_from_its_next_copy() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = || Store::open(dir.path(), manual_flush()).expect("it opens");
    let store = open();
    store.put(batch(&keys(0..5), "a", 100));
    store.flush().expect("it is written");
    drop(store);
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).expect("it can be read");
    bytes[20] ^= 1; // in the first row
    fs::write(&path, bytes).expect("it can be written");
    for opened in 0..4 {
        let store = open();
        let there = count_right(&store, &keys(0..5), 100);
        assert_eq!(
            there,
            if opened == 0 { 4 } else { 5 },
            "opened {opened} times"
        );
        assert_eq!(store.stats().faults.get(Fault::Corrupt), 1);
        let present = store.put(batch(&keys(0..1), "a", 100));
        assert_eq!(present.is_empty(), opened == 0, "it is stored again once");
        store.flush().expect("it is written");
    }
    assert_eq!(segments(dir.path()).len(), 2);
}

#[test]
fn the_oldest_of_two_copies_is_read_after_any_opening() {
    let (here, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (here, there) = (here.expect("a directory"), there.expect("a directory"));
    for (dir, rows) in [(&here, 0..5), (&there, 3..9)] {
        let store = Store::open(dir.path(), manual_flush()).expect("it opens");
        store.put(batch(&keys(rows), "a", 100));
    }
    let second = segments(there.path()).remove(0);
    let name = second.file_name().expect("a name");
    fs::copy(&second, here.path().join(name)).expect("it is copied");
    let store = Store::open(here.path(), manual_flush()).expect("it opens");
    assert_eq!((store.stats().segments, store.stats().rows), (2, 9));
    assert_eq!(count_right(&store, &keys(0..9), 100), 9);
    fs::remove_file(segments(here.path()).remove(0)).expect("it is removed");
    store.refresh();
    assert_eq!((store.stats().segments, store.stats().rows), (1, 6));
    assert_eq!(count_right(&store, &keys(0..9), 100), 6);
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn a_corrupt_row_does_not_come_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    for n in 0..2 {
        store.put(batch(&keys(n * 5..n * 5 + 5), "a", 100));
        store.flush().expect("it is written");
    }
    let paths = segments(dir.path());
    let mut bytes = fs::read(&paths[0]).expect("it can be read");
    bytes[20] ^= 1;
    fs::write(&paths[0], bytes).expect("it can be written");
    assert_eq!(count_right(&store, &keys(0..5), 100), 4);
    assert!(store.locate(&[key(0)])[0].is_none(), "it is a miss now");
    fs::remove_file(&paths[1]).expect("it is removed");
    store.refresh();
    assert!(store.locate(&[key(0)])[0].is_none(), "and it stays one");
    assert_eq!(store.stats().faults.total(), 1);
}

/// A store with one row, which a large segment of another process has as well.
fn next_to_a_large_segment() -> (TempDir, Store) {
    let (here, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (here, there) = (here.expect("a directory"), there.expect("a directory"));
    let store = Store::open(here.path(), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..1), "a", 100));
    store.flush().expect("it is written");
    let other = Store::open(there.path(), manual_flush()).expect("it opens");
    other.put(batch(&keys(0..1), "a", 100));
    other.put(batch(&keys(1000..1400), "a", 1000));
    other.flush().expect("it is written");
    copy_to(&here, &segments(there.path()).remove(0));
    store.refresh();
    assert_eq!((store.stats().segments, store.stats().rows), (2, 401));
    (here, store)
}

/// Puts seven more rows, which are compacted with the first one.
fn compact_with_more(store: &Store) {
    for n in 1..8 {
        store.put(batch(&[key(n)], "a", 100));
        store.flush().expect("it is written");
    }
    let stats = store.stats();
    assert_eq!((stats.compacted_segments, stats.segments), (8, 2));
}

#[test]
fn a_copy_is_read_after_the_compacted_one_is_removed() {
    let (here, store) = next_to_a_large_segment();
    compact_with_more(&store);
    assert_eq!(store.stats().rows, 408);
    let compacted = segments(here.path()).remove(1);
    fs::remove_file(compacted).expect("it is removed");
    store.refresh();
    assert_eq!((store.stats().segments, store.stats().rows), (1, 401));
    assert_eq!(count_right(&store, &keys(0..8), 100), 1);
}

#[test]
fn a_sound_copy_is_read_when_compaction_drops_the_other() {
    let (here, store) = next_to_a_large_segment();
    let first = segments(here.path()).remove(0);
    let mut bytes = fs::read(&first).expect("it can be read");
    bytes[20] ^= 1;
    fs::write(&first, bytes).expect("it can be written");
    compact_with_more(&store);
    assert_eq!((store.stats().faults.total(), store.stats().rows), (1, 408));
    assert_eq!(count_right(&store, &keys(0..8), 100), 8);
}
