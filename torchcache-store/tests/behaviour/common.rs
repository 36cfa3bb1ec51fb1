//! What the tests share: keys, rows and short ways to store and fetch them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use torchcache_store::{Config, Key, RowBatch, Store};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A key as callers make them.
pub(crate) fn key(n: u64) -> Key {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

pub(crate) fn keys(range: std::ops::Range<u64>) -> Vec<Key> {
    range.map(key).collect()
}

/// A value of `len` bytes that belongs to one key only. Half of it compresses well.
pub(crate) fn value(key: &Key, len: usize) -> Vec<u8> {
    let mut value = vec![key[0]; len];
    blake3::Hasher::new_keyed(key)
        .finalize_xof()
        .fill(&mut value[len / 2..]);
    value
}

/// The rows of these keys, with their values.
pub(crate) fn batch(keys: &[Key], schema: &str, len: usize) -> RowBatch {
    let values = keys.iter().flat_map(|key| value(key, len)).collect();
    RowBatch::new(keys.to_vec(), schema.as_bytes().into(), values, len).expect("the parts fit")
}

/// A configuration that writes only on `flush`.
pub(crate) fn manual_flush() -> Config {
    Config::default().with_batch_delay(Duration::from_secs(3600))
}

/// Fetches a row; `None` is a miss, whether at `locate` or at `read`.
pub(crate) fn fetch(store: &Store, key: &Key) -> Option<Vec<u8>> {
    fetch_all(store, std::slice::from_ref(key)).pop().flatten()
}

/// Fetches rows in one call of `locate` and one of `read`.
pub(crate) fn fetch_all(store: &Store, keys: &[Key]) -> Vec<Option<Vec<u8>>> {
    let located = store.locate(keys);
    let found: Vec<_> = located.iter().flatten().cloned().collect();
    let mut rows: Vec<Vec<u8>> = found.iter().map(|found| vec![0xEE; found.len]).collect();
    let mut out: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
    let ok = store.read(&found, &mut out);
    let mut read = rows.into_iter().zip(ok).map(|(row, ok)| ok.then_some(row));
    located
        .iter()
        .map(|slot| slot.as_ref().and_then(|_| read.next().flatten()))
        .collect()
}

/// How many of these keys are hits; panics if one has a wrong value.
pub(crate) fn count_right(store: &Store, keys: &[Key], len: usize) -> usize {
    let rows = fetch_all(store, keys);
    let hits = keys
        .iter()
        .zip(rows)
        .filter_map(|(key, row)| Some((key, row?)));
    hits.inspect(|(key, row)| assert!(*row == value(key, len), "a wrong row came back"))
        .count()
}

/// The segment files of a directory, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir, |name| name.ends_with(".tcs") && !name.starts_with('.'))
}

/// The temporary files of a directory.
pub(crate) fn temps(dir: &Path) -> Vec<PathBuf> {
    files(dir, |name| name.starts_with(".tmp-"))
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// A log that calls a function for each warning.
pub(crate) struct OnWarning<F>(pub(crate) F);

impl<F: Fn() + Send + Sync + 'static> Subscriber for OnWarning<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }
    fn event(&self, _: &Event<'_>) {
        (self.0)();
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
