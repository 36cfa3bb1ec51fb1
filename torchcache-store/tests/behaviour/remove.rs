//! `Store::remove`: single rows go from the queue and from every segment.

use std::fs;

use crate::common::{batch, count_right, key, keys, manual_flush, segments};
use torchcache_store::{Compression, Key, Store};

const LEN: usize = 100;

fn opened(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path(), manual_flush()).expect("it opens")
}

fn put_flushed(store: &Store, keys: &[Key]) {
    store.put(batch(keys, "a", LEN));
    store.flush().expect("it is written");
}

/// How many of these rows a store has.
#[track_caller]
fn expect_count(store: &Store, keys: &[Key], count: usize) {
    assert_eq!(count_right(store, keys, LEN), count);
}

#[test]
fn rows_go_from_queue_and_disk() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = opened(&dir);
    put_flushed(&store, &keys(0..10));
    store.put(batch(&keys(10..20), "a", LEN));
    store.remove(&keys(5..15)).expect("the disk works");
    let expect = |store: &Store| {
        expect_count(store, &keys(5..15), 0);
        expect_count(store, &keys(0..20), 10);
    };
    expect(&store);
    assert_eq!((store.stats().rows, store.stats().pending_rows), (5, 5));
    store.flush().expect("no removed row counts as lost");
    expect(&store);
    assert_eq!(store.stats().rows, 10);
    assert_eq!(store.stats().faults.total(), 0);
    drop(store);
    let store = opened(&dir);
    expect(&store);
    put_flushed(&store, &keys(5..15));
    expect_count(&store, &keys(0..20), 20);
}

#[test]
fn copies_in_other_segments_go_as_well() {
    let (dir, there) = (tempfile::tempdir(), tempfile::tempdir());
    let (dir, there) = (dir.expect("a directory"), there.expect("a directory"));
    let store = opened(&dir);
    for rows in [0..10, 5..15, 8..20] {
        let other = Store::open(there.path(), manual_flush()).expect("it opens");
        other.clear();
        put_flushed(&other, &keys(rows));
        let segment = &segments(there.path())[0];
        let to = dir.path().join(segment.file_name().expect("a name"));
        fs::copy(segment, to).expect("it is copied");
    }
    store.remove(&[key(9), key(3)]).expect("the disk works");
    for store in [&store, &opened(&dir)] {
        expect_count(store, &[key(9), key(3)], 0);
        expect_count(store, &keys(0..20), 18);
    }
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn a_segment_of_which_no_row_is_left_goes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = opened(&dir);
    put_flushed(&store, &keys(0..10));
    put_flushed(&store, &keys(10..12));
    let before = segments(dir.path());
    store.remove(&keys(20..30)).expect("the disk works");
    assert_eq!(segments(dir.path()), before, "none has such rows");
    store.remove(&keys(0..10)).expect("the disk works");
    assert_eq!(segments(dir.path()), before[1..]);
    let stats = store.stats();
    assert_eq!((stats.rows, stats.segments), (2, 1));
    store.remove(&keys(0..12)).expect("the disk works");
    assert_eq!(segments(dir.path()).len(), 0);
    fs::remove_dir_all(dir.path()).expect("it can be removed");
    store.remove(&keys(0..12)).expect("there are no rows");
}

#[test]
fn rows_of_an_earlier_epoch_are_not_stored() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = opened(&dir);
    let epoch = store.epoch();
    store.remove(&[key(1)]).expect("the disk works");
    store.put(batch(&keys(0..3), "a", LEN).since(epoch));
    expect_count(&store, &keys(0..3), 0);
    store.put(batch(&keys(0..3), "a", LEN).since(store.epoch()));
    expect_count(&store, &keys(0..3), 3);
}

/// They are copied as they are stored.
#[test]
fn the_other_rows_stay_as_they_are() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = manual_flush().with_compression(Some(Compression::new(3, 1)));
    let store = Store::open(dir.path(), config).expect("it opens");
    for (schema, len) in [("a", 10), ("b", 3000), ("c", 0)] {
        let first = len as u64 * 100;
        store.put(batch(&keys(first..first + 40), schema, len).element_bytes(4));
    }
    store.flush().expect("it is written");
    let before = segments(dir.path());
    store
        .remove(&keys(300_000..300_003))
        .expect("the disk works");
    assert_eq!(segments(dir.path()).len(), before.len());
    assert_ne!(segments(dir.path()), before);
    for store in [store, opened(&dir)] {
        let rows = [(1000..1040, 10), (300_003..300_040, 3000), (0..40, 0)];
        for (rows, len) in rows {
            let rows = keys(rows);
            assert_eq!(count_right(&store, &rows, len), rows.len());
        }
        assert_eq!(store.stats().rows, 117);
    }
}
