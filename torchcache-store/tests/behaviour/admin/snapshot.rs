//! A snapshot has every row once, whichever copies are corrupt or removed meanwhile.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use torchcache_store::Key;
use torchcache_store::admin::CacheRows;

use super::{LEN, filled, only, segment};
use crate::common::{batch, keys, manual_flush, value};

/// Reads and checks all rows of a group. Returns how often each key occurred, and the number of corrupt
/// records.
fn read(rows: &CacheRows, group: usize) -> (HashMap<Key, usize>, u64) {
    let mut distinct = rows.distinct(group).expect("they can be read");
    loop {
        let mut seen = HashMap::new();
        let count = distinct.count();
        let complete = distinct.for_each(|key, bytes| {
            assert!(*bytes == value(key, bytes.len()), "a wrong row");
            *seen.entry(*key).or_default() += 1;
            Ok(())
        });
        if complete.expect("they can be read") {
            assert_eq!(seen.len() as u64, count);
            assert!(seen.values().all(|&times| times == 1));
            return (seen, distinct.corrupt_records());
        }
    }
}

fn open(dir: &Path) -> CacheRows {
    CacheRows::open(&only(dir)).expect("they can be read")
}

#[test]
fn a_snapshot_has_each_row_once_in_several_passes() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    // More keys than fit into one pass.
    let all = keys(0..130_000);
    let store = torchcache_store::Store::open(temp.path(), manual_flush()).expect("it opens");
    store.put(batch(&all, "s", 4));
    store.flush().expect("it is written");
    drop(store);
    let mut writer =
        torchcache_store::segment::SegmentWriter::create(temp.path()).expect("it can be made");
    for key in &keys(100_000..150_000) {
        let schema = b"s".as_slice().into();
        let encoding = torchcache_store::segment::Encoding::Raw;
        let pushed = writer.push(key, &schema, 4, encoding, &value(key, 4));
        pushed.expect("it is written");
    }
    let published = writer.finish().and_then(|finished| finished.publish());
    published.expect("it is written");
    let rows = open(temp.path());
    assert_eq!(rows.groups()[0].rows, 180_000);
    let (seen, corrupt) = read(&rows, 0);
    assert_eq!((seen.len(), corrupt), (150_000, 0));
}

#[test]
fn a_snapshot_replaces_a_corrupt_record_by_a_copy() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let first = segment(temp.path(), &keys(0..20), 0);
    segment(temp.path(), &keys(10..30), 0);
    let file = fs::OpenOptions::new().write(true).open(&first);
    let file = file.expect("it can be opened");
    for row in [2u64, 15] {
        let at = 16 + row * (LEN as u64 + 8);
        file.write_all_at(b"not this", at)
            .expect("it can be written");
    }
    let (seen, corrupt) = read(&open(temp.path()), 0);
    assert_eq!((seen.len(), corrupt), (29, 2));
    assert!(!seen.contains_key(&keys(2..3)[0]));
}

#[test]
fn a_snapshot_groups_rows_by_schema_and_outlives_removal() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let store = filled(temp.path(), &keys(0..40));
    store.put(batch(&keys(40..50), "other", LEN));
    store.put(batch(&keys(50..55), "s", LEN + 1));
    store.flush().expect("it is written");
    let rows = open(temp.path());
    store.clear();
    let groups: Vec<_> = rows
        .groups()
        .iter()
        .map(|group| (&*group.schema, group.row_bytes as usize, group.rows))
        .collect();
    assert_eq!(
        groups,
        [
            (&b"other"[..], LEN, 10),
            (b"s", LEN, 40),
            (b"s", LEN + 1, 5)
        ]
    );
    for (group, count) in [(0, 10), (1, 40), (2, 5)] {
        assert_eq!(read(&rows, group).0.len(), count);
    }
}
