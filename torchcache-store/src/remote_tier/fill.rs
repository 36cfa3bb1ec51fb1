//! Fetches the rest of segments of which calls read much into the store, as rows that are not pushed.

use crate::batch::RowBatch;
use crate::config::Eviction;
use crate::key::Key;
use crate::remote::{Remote, RemoteRow};
use crate::store::Store;

/// The most bytes of values in memory, unless one row is longer.
const PORTION_BYTES: usize = 8 << 20;

/// The most bytes of segments that are fetched before other work is done.
const TURN_BYTES: u64 = 64 << 20;

/// A segment is not fetched if it is more than this share of what the store may have.
const MAX_SHARE: u64 = 16;

/// Fetches what is wanted.
pub(super) fn fill(remote: &Remote, store: &Store) {
    let mut bytes = 0;
    while bytes < TURN_BYTES
        && let Some(wanted) = remote.take_wanted()
    {
        if !fits(store, wanted.bytes()) {
            continue;
        }
        bytes += wanted.bytes();
        // What is removed from now on does not come back.
        let epoch = store.epoch();
        let Ok(mut rows) = remote.rows_of(&wanted) else {
            continue;
        };
        let keys: Vec<Key> = rows.iter().map(|row| *row.key()).collect();
        let mut present = store.locate(&keys).into_iter();
        rows.retain(|_| present.next().is_some_and(|located| located.is_none()));
        for portion in portions(&rows) {
            if !fetch(remote, store, portion, epoch) {
                break;
            }
        }
    }
}

fn fits(store: &Store, bytes: u64) -> bool {
    let config = store.config();
    let bound = config
        .max_bytes
        .min(config.max_root_bytes.unwrap_or(u64::MAX));
    let has_room = || store.stats().bytes.saturating_add(bytes) <= config.max_bytes;
    bytes <= bound / MAX_SHARE && (config.eviction != Eviction::Never || has_room())
}

/// Splits rows into consecutive ones of one schema and length.
fn portions(mut rows: &[RemoteRow]) -> impl Iterator<Item = &[RemoteRow]> {
    std::iter::from_fn(move || {
        let first = rows.first()?;
        let is_like = |row: &&RemoteRow| (row.len, row.schema()) == (first.len, first.schema());
        let most = (PORTION_BYTES / first.len.max(1)).max(1);
        let len = rows.iter().take(most).take_while(is_like).count();
        let (portion, rest) = rows.split_at(len);
        rows = rest;
        Some(portion)
    })
}

/// Fetches rows of one schema and length. Returns whether any came.
fn fetch(remote: &Remote, store: &Store, rows: &[RemoteRow], epoch: u64) -> bool {
    let len = rows[0].len;
    let mut values = vec![0; rows.len() * len];
    let mut parts = &mut values[..];
    let mut out: Vec<&mut [u8]> = Vec::with_capacity(rows.len());
    for _ in rows {
        let (part, rest) = std::mem::take(&mut parts).split_at_mut(len);
        out.push(part);
        parts = rest;
    }
    let read = remote.fill(rows, &mut out);
    let mut keys = Vec::with_capacity(rows.len());
    for (n, row) in rows.iter().enumerate().filter(|(n, _)| read[*n]) {
        values.copy_within(n * len..(n + 1) * len, keys.len() * len);
        keys.push(*row.key());
    }
    if keys.is_empty() {
        return false;
    }
    values.truncate(keys.len() * len);
    let element_bytes = rows[0].encoding().element_bytes() as u8;
    let batch = RowBatch::new(keys, rows[0].shared_schema().clone(), values, len);
    // The lengths are those of the format.
    if let Ok(batch) = batch {
        store.put(batch.element_bytes(element_bytes).since(epoch));
    }
    true
}
