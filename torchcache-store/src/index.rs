//! Which row lies where, in at most 64 bytes of memory a row: 24 for the entry and one of
//! hashbrown's, over a load of 7/16 at worst.
//!
//! An entry holds only the first eight bytes of a key. Two keys that share them cannot both
//! be here, and asking for one may find the other's place; the record's checksum covers the
//! whole key, so that reading it is then a miss and not a wrong row.
//!
//! Entries of dropped segments are not looked for at once. The caller says which segments
//! are live: dead entries count as absent, are overwritten, and go at the next `sweep`.

use std::sync::{PoisonError, RwLock};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::batch::Key;
use crate::segment::{Row, Storage};

/// The table is cut into parts with a lock each, so that growing or sweeping ten million
/// entries never stops a lookup for longer than a small part takes.
const SHARDS: usize = 64;

/// Where a row lies: 24 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    fingerprint: u64,
    /// Offset in bits 24.., class in bits 8..24, storage in bits 0..8.
    packed: u64,
    segment: u32,
    stored_len: u32,
}

impl Entry {
    fn new(row: &Row, segment: u32) -> Entry {
        Entry {
            fingerprint: fingerprint(&row.key),
            packed: row.offset << 24 | u64::from(row.class) << 8 | row.storage as u64,
            segment,
            stored_len: row.stored_len,
        }
    }

    fn row(&self, key: &Key) -> Option<Row> {
        Some(Row {
            key: *key,
            offset: self.packed >> 24,
            stored_len: self.stored_len,
            class: (self.packed >> 8) as u16,
            storage: Storage::from_byte(self.packed as u8)?,
        })
    }
}

fn fingerprint(key: &Key) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| key[i]))
}

/// From key to segment and place.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Vec<RwLock<HashTable<Entry>>>,
}

/// What an insertion did; rows that were there already are in neither count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Rows whose key was not there.
    pub(crate) added: u64,
    /// Rows that took the place of a dead entry.
    pub(crate) revived: u64,
}

/// hashbrown takes the low and the seven highest bits; the shard is chosen by others.
fn shard_number(fingerprint: u64) -> usize {
    (fingerprint >> 48) as usize % SHARDS
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    fn shard(&self, fingerprint: u64) -> &RwLock<HashTable<Entry>> {
        &self.shards[shard_number(fingerprint)]
    }

    /// The segment and place of a row; the caller checks that the segment is live.
    pub(crate) fn get(&self, key: &Key) -> Option<(u32, Row)> {
        let wanted = fingerprint(key);
        let shard = self
            .shard(wanted)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = shard.find(wanted, |entry| entry.fingerprint == wanted)?;
        Some((entry.segment, entry.row(key)?))
    }

    /// Adds rows of `segment`, unless a live entry has the key. Part by part, since a part
    /// fits the processor's cache and the whole table does not.
    pub(crate) fn insert(
        &self,
        rows: impl Iterator<Item = Row>,
        segment: u32,
        live: impl Fn(u32) -> bool,
    ) -> Inserted {
        let mut parts = vec![Vec::new(); SHARDS];
        for row in rows {
            let entry = Entry::new(&row, segment);
            parts[shard_number(entry.fingerprint)].push(entry);
        }
        let mut done = Inserted::default();
        for (part, shard) in parts.into_iter().zip(&self.shards) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            for entry in part {
                let wanted = entry.fingerprint;
                let same = |entry: &Entry| entry.fingerprint == wanted;
                match shard.entry(wanted, same, |entry| entry.fingerprint) {
                    Slot::Vacant(slot) => {
                        slot.insert(entry);
                        done.added += 1;
                    }
                    Slot::Occupied(slot) if live(slot.get().segment) => {}
                    Slot::Occupied(mut slot) => {
                        *slot.get_mut() = entry;
                        done.revived += 1;
                    }
                }
            }
        }
        done
    }

    /// Removes the entry of a key if it points into `segment`.
    pub(crate) fn remove(&self, key: &Key, segment: u32) -> bool {
        let wanted = fingerprint(key);
        let mut shard = self
            .shard(wanted)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let same = |entry: &Entry| entry.fingerprint == wanted && entry.segment == segment;
        shard
            .find_entry(wanted, same)
            .map(|slot| slot.remove())
            .is_ok()
    }

    /// Drops the entries of segments that are not live, and memory that is no longer used.
    pub(crate) fn sweep(&self, live: impl Fn(u32) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|entry| live(entry.segment));
            if shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit(|entry| entry.fingerprint);
            }
        }
    }

    /// Entries, dead ones included.
    pub(crate) fn len(&self) -> usize {
        let len = |shard: &RwLock<HashTable<Entry>>| {
            shard.read().unwrap_or_else(PoisonError::into_inner).len()
        };
        self.shards.iter().map(len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Row {
        let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
        Row {
            key,
            offset: n << 5,
            stored_len: 7,
            class: 513,
            storage: Storage::Zstd,
        }
    }

    #[test]
    fn an_entry_gives_back_every_field_it_was_made_of() {
        let mut row = row(3);
        row.offset = (1 << 40) - 1;
        let entry = Entry::new(&row, 9);
        assert_eq!(entry.row(&row.key), Some(row));
        assert_eq!(size_of::<Entry>(), 24);
    }

    fn insert(index: &Index, n: u64, segment: u32, live: impl Fn(u32) -> bool) -> (u64, u64) {
        let Inserted { added, revived } = index.insert([row(n)].into_iter(), segment, live);
        (added, revived)
    }

    #[test]
    fn memory_stays_below_64_bytes_a_row_at_every_size() {
        let index = Index::new();
        for n in 0..200 {
            index.insert((n * 1000..(n + 1) * 1000).map(row), 1, |_| true);
            // Worst right after growing, which happens at various sizes as parts differ.
            if n > 20 {
                let bytes: usize = index
                    .shards
                    .iter()
                    .map(|shard| {
                        shard
                            .read()
                            .expect("no panic under the lock")
                            .allocation_size()
                    })
                    .sum();
                let rows = (n + 1) * 1000;
                assert!(
                    bytes as f64 / rows as f64 <= 64.0,
                    "{bytes} bytes for {rows} rows"
                );
            }
        }
    }

    #[test]
    fn live_entries_stay_and_dead_ones_are_overwritten_or_swept() {
        let index = Index::new();
        let segment_of = |n| index.get(&row(n).key).map(|(segment, _)| segment);
        assert_eq!(insert(&index, 1, 1, |_| true), (1, 0));
        assert_eq!(insert(&index, 1, 2, |_| true), (0, 0));
        assert_eq!(segment_of(1), Some(1));
        assert_eq!(insert(&index, 1, 2, |id| id != 1), (0, 1));
        assert_eq!(segment_of(1), Some(2));
        assert!(
            !index.remove(&row(1).key, 1),
            "another segment's entry must stay"
        );
        index.sweep(|id| id != 2);
        assert_eq!((segment_of(1), index.len()), (None, 0));
    }
}
