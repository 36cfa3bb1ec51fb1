//! Fetches the rest of segments of which calls read much into the store, as rows that are not pushed.

use crate::batch::RowBatch;
use crate::config::Eviction;
use crate::key::Key;
use crate::remote::{Remote, RemoteRow};
use crate::store::Store;

/// The most bytes of values in memory, unless one row is longer. With their checksums, they are one request.
const PORTION_BYTES: usize = 7 << 20;

/// The most bytes of segments that are fetched before other work is done.
const TURN_BYTES: u64 = 64 << 20;

/// A segment is not fetched if it is more than this share of what the store may have.
const MAX_SHARE: u64 = 16;

/// Fetches what is wanted, a portion at a time, until all is there, `is_over` or the turn was long.
pub(super) fn fill(remote: &Remote, store: &Store, is_over: impl Fn() -> bool) {
    let mut bytes = 0;
    while bytes < TURN_BYTES
        && !is_over()
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
            if is_over() || !fetch(remote, store, portion, epoch) {
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

/// Splits rows into consecutive ones of so many bytes that one is fetched at a time.
fn portions(mut rows: &[RemoteRow]) -> impl Iterator<Item = &[RemoteRow]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |row: &&RemoteRow| {
            bytes += row.len;
            bytes <= PORTION_BYTES
        };
        let count = rows.iter().take_while(fits).count().max(1);
        let (portion, rest) = rows.split_at_checked(count)?;
        rows = rest;
        Some(portion)
    })
}

/// Fetches rows, and puts those of one schema and length into the store together. Returns whether any came.
fn fetch(remote: &Remote, store: &Store, rows: &[RemoteRow], epoch: u64) -> bool {
    let mut values: Vec<Vec<u8>> = rows.iter().map(|row| vec![0; row.len]).collect();
    let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
    let read = remote.fill(rows, &mut out);
    let came = rows.iter().zip(values).zip(read);
    let mut came: Vec<(&RemoteRow, Vec<u8>)> =
        came.filter_map(|(row, came)| came.then_some(row)).collect();
    fn kind<'a>((row, _): &(&'a RemoteRow, Vec<u8>)) -> (usize, &'a [u8]) {
        (row.len, row.schema())
    }
    came.sort_by(|one, other| kind(one).cmp(&kind(other)));
    for like in came.chunk_by(|one, other| kind(one) == kind(other)) {
        let (first, _) = &like[0];
        let keys = like.iter().map(|(row, _)| *row.key()).collect();
        let values: Vec<&[u8]> = like.iter().map(|(_, value)| value.as_slice()).collect();
        let schema = first.shared_schema().clone();
        let element_bytes = first.encoding().element_bytes() as u8;
        // The lengths are those of the format.
        if let Ok(batch) = RowBatch::new(keys, schema, values.concat(), first.len) {
            store.put(batch.element_bytes(element_bytes).since(epoch));
        }
    }
    !came.is_empty()
}
