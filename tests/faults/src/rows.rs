//! Rows whose bytes follow from their numbers, so that every process can check them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use torchcache_store::fs::FileSystem;
use torchcache_store::remote_tier::RemoteTier;
use torchcache_store::{Config, Key, RowBatch, Store};

/// The schema of all rows.
const SCHEMA: &[u8] = b"bytes of a row that its number gives";

/// The key of a row.
pub fn key(number: u64) -> Key {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

/// The keys of some rows.
pub fn keys(numbers: Range<u64>) -> Vec<Key> {
    numbers.map(key).collect()
}

/// The only right value of a row. Half of it can be compressed.
pub fn value(key: &Key, len: usize) -> Vec<u8> {
    let mut value = vec![key[0]; len];
    let half = &mut value[len / 2..];
    blake3::Hasher::new_keyed(key).finalize_xof().fill(half);
    value
}

/// Some rows, to be put.
pub fn batch(numbers: Range<u64>, len: usize) -> RowBatch {
    let keys = keys(numbers);
    let values = keys.iter().flat_map(|key| value(key, len)).collect();
    RowBatch::new(keys, SCHEMA.into(), values, len).expect("the parts fit")
}

/// The rows that a store returns, `None` for a miss.
pub fn fetch(store: &Store, keys: &[Key]) -> Vec<Option<Vec<u8>>> {
    let located = store.locate(keys);
    let found: Vec<_> = located.iter().flatten().cloned().collect();
    let mut rows: Vec<Vec<u8>> = found.iter().map(|found| vec![0xEE; found.len]).collect();
    let mut out: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
    let read = store.read(&found, &mut out);
    let mut read = rows
        .into_iter()
        .zip(read)
        .map(|(row, ok)| ok.then_some(row));
    let slots = located.iter();
    slots
        .map(|slot| slot.as_ref().and_then(|_| read.next().flatten()))
        .collect()
}

/// A store that writes only on `flush`.
pub fn opened(fs: impl FileSystem + 'static, dir: impl AsRef<Path>) -> Store {
    Store::open_on(Arc::new(fs), dir, manual_flush()).expect("it opens")
}

/// Puts rows on disk, as one segment.
#[track_caller]
pub fn put_flushed(store: &Store, numbers: Range<u64>, len: usize) {
    store.put(batch(numbers, len));
    store.flush().expect("it is written");
}

/// Compares every byte of what a store has of some rows, and returns how many it has.
#[track_caller]
pub fn count_right(store: &Store, numbers: Range<u64>, len: usize) -> u64 {
    let mut there = 0;
    for first in numbers.clone().step_by(256) {
        let keys = keys(first..numbers.end.min(first + 256));
        for (key, row) in keys.iter().zip(fetch(store, &keys)) {
            let Some(row) = row else { continue };
            there += 1;
            assert!(row == value(key, len), "a row of {numbers:?} is wrong");
        }
    }
    there
}

/// Gets rows as the library does: those that a store lacks are read from its remote tier and put into the store. Returns
/// how many came from there. Each is right.
#[track_caller]
pub fn fill_from_remote(
    (store, tier): (&Store, &RemoteTier),
    numbers: Range<u64>,
    len: usize,
    deadline: Instant,
) -> usize {
    let epoch = store.epoch();
    let mut missing = keys(numbers);
    let located = store.locate(&missing);
    let mut slots = located.iter();
    missing.retain(|_| slots.next().is_some_and(Option::is_none));
    let rows: Vec<_> = tier.locate(&missing, deadline);
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    let mut values: Vec<Vec<u8>> = rows.iter().map(|row| vec![0xEE; row.len]).collect();
    let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
    let read = tier.read(&rows, &mut out, deadline);
    let mut got = 0;
    for ((row, bytes), _) in rows.iter().zip(values).zip(read).filter(|(_, ok)| *ok) {
        assert!(bytes == value(row.key(), len), "a wrong row");
        got += 1;
        let schema = row.schema().into();
        let put = RowBatch::new(vec![*row.key()], schema, bytes, len);
        store.put(put.expect("the parts fit").since(epoch));
    }
    got
}

/// Compares every byte of rows that must be there.
#[track_caller]
pub fn expect_all(store: &Store, numbers: Range<u64>, len: usize) {
    let wanted = numbers.end - numbers.start;
    let there = count_right(store, numbers.clone(), len);
    assert!(there == wanted, "{there} of rows {numbers:?} are there");
}

/// Expects that a store counted no fault.
#[track_caller]
pub fn expect_no_faults(store: &Store) {
    let faults = store.stats().faults;
    assert!(faults.total() == 0, "faults: {faults:?}");
}

/// A configuration that writes only on `flush`.
pub fn manual_flush() -> Config {
    Config::default().with_batch_delay(Duration::from_secs(3600))
}
