//! Rows of numbers, whose size the caller sets: they are stored shuffled where that is shorter, and read
//! unchanged.

use std::path::Path;

use crate::common::{batch, count_right, fetch_all, keys, manual_flush, segments};
use torchcache_store::segment::{Encoding, SegmentReader};
use torchcache_store::{Compression, Config, Key, RowBatch, Store};

fn zstd() -> Config {
    manual_flush().with_compression(Some(Compression::new(3, 1)))
}

/// Features between 1 and 2: one exponent, and random digits that belong to one key only.
fn features(key: &Key, count: usize) -> Vec<u8> {
    let mut noise = vec![0; 4 * count];
    blake3::Hasher::new_keyed(key)
        .finalize_xof()
        .fill(&mut noise);
    let (fours, _) = noise.as_chunks::<4>();
    let number = |four: &[u8; 4]| 1.0 + u32::from_le_bytes(*four) as f32 / u32::MAX as f32;
    fours
        .iter()
        .flat_map(|four| number(four).to_le_bytes())
        .collect()
}

fn put(store: &Store, keys: &[Key], count: usize, element_bytes: u8) {
    let values = keys.iter().flat_map(|key| features(key, count)).collect();
    let rows = RowBatch::new(keys.to_vec(), b"f32".as_slice().into(), values, 4 * count);
    store.put(rows.expect("the parts fit").element_bytes(element_bytes));
    store.flush().expect("it is written");
}

fn encodings(path: &Path) -> Vec<Encoding> {
    let reader = SegmentReader::open(path, false).expect("it opens");
    let rows = reader.rows().map(|row| row.expect("it is sound"));
    rows.map(|row| row.encoding).collect()
}

#[test]
fn numbers_take_less_space_and_come_back_as_they_were() {
    let mut sizes = Vec::new();
    for (element_bytes, encoding) in [(1, Encoding::Zstd), (4, Encoding::ZstdShuffled4)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), zstd()).expect("it opens");
        let rows = keys(0..100);
        put(&store, &rows, 512, element_bytes);
        let path = segments(dir.path()).remove(0);
        let stored = encodings(&path);
        assert!(
            stored
                .iter()
                .all(|stored| *stored == encoding || *stored == Encoding::Raw)
        );
        sizes.push(path.metadata().expect("it exists").len());
        for mmap in [false, true] {
            store.reconfigure(zstd().with_mmap(mmap));
            for (key, row) in rows.iter().zip(fetch_all(&store, &rows)) {
                assert!(row == Some(features(key, 512)));
            }
        }
    }
    assert!(sizes[1] * 100 < sizes[0] * 95, "{sizes:?}");
}

#[test]
fn any_element_length_is_accepted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), zstd()).expect("it opens");
    for (n, element_bytes) in [0, 1, 2, 3, 4, 7, 8, 16, 255].into_iter().enumerate() {
        let rows = keys(n as u64 * 10..n as u64 * 10 + 10);
        store.put(batch(&rows, "u8", 501).element_bytes(element_bytes));
    }
    store.flush().expect("it is written");
    assert_eq!(count_right(&store, &keys(0..90), 501), 90);
}
