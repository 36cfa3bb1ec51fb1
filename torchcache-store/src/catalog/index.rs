//! The index from key to segment and position, in at most 64 bytes of memory a row: 24 for the entry
//! and one of hashbrown's, at a load of 7/16 at worst.
//!
//! An entry has only the first eight bytes of a key. Of two keys that share them, one can be indexed,
//! and a lookup of the other finds its entry. The checksum of a record covers the whole key, so reading
//! it is then a miss and never a wrong row.
//!
//! Entries of detached segments stay until the next `sweep`. The caller knows which segments are live:
//! other entries count as absent and may be overwritten.

use std::collections::HashMap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::key::{Key, fingerprint};
use crate::segment::{Encoding, Footer, RowEntry, VERSION};
use crate::threads::{max_scoped, scoped_for_each};

/// The table has partitions, so that growing or sweeping ten million entries blocks lookups no longer
/// than one small partition takes, and so that several threads can fill it.
pub(crate) const PARTITIONS: usize = 64;

/// So many rows are inserted together: enough for each partition to get many at a time, few enough to
/// take little memory.
const PORTION: usize = 1 << 12;

/// Fewer rows are inserted by one thread.
const MIN_PARALLEL_ROWS: usize = 1 << 15;

/// Where a row is: 24 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexEntry {
    fingerprint: u64,
    /// Offset in bits 24.., group in bits 8..24, encoding in bits 0..8.
    packed: u64,
    pub(crate) segment: u32,
    stored_len: u32,
}

impl IndexEntry {
    fn new(row: &RowEntry, segment: u32) -> IndexEntry {
        IndexEntry {
            fingerprint: fingerprint(&row.key),
            packed: row.offset << 24 | u64::from(row.group) << 8 | row.encoding as u64,
            segment,
            stored_len: row.stored_len,
        }
    }

    /// The row, given the whole of its key.
    pub(crate) fn row(&self, key: &Key) -> Option<RowEntry> {
        Some(RowEntry {
            key: *key,
            offset: self.packed >> 24,
            stored_len: self.stored_len,
            group: (self.packed >> 8) as u16,
            encoding: Encoding::from_byte(self.packed as u8, VERSION)?,
        })
    }
}

/// hashbrown takes the low and the seven highest bits; the partition is chosen by others.
fn partition_of(fingerprint: u64) -> usize {
    (fingerprint >> 48) as usize % PARTITIONS
}

/// From key to segment and place.
#[derive(Debug)]
pub(crate) struct Index {
    partitions: Vec<Partition>,
}

/// The entries of some of the fingerprints.
#[derive(Debug, Default)]
pub(crate) struct Partition(HashTable<IndexEntry>);

/// What inserting the rows of one segment did. Rows that it had already are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Rows whose key was not indexed.
    pub(crate) added: u64,
    /// Rows that overwrote a dead entry.
    pub(crate) revived: u64,
    /// The rows that live segments have as well, whose entries stay: their fingerprints, by these segments.
    pub(crate) shadowed_by: HashMap<u32, Vec<u64>>,
}

impl Inserted {
    fn add(&mut self, more: Inserted) {
        self.added += more.added;
        self.revived += more.revived;
        for (segment, rows) in more.shadowed_by {
            self.shadowed_by.entry(segment).or_default().extend(rows);
        }
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
        }
    }

    /// Reserves memory for about so many rows in all, if there is that much.
    pub(crate) fn reserve(&mut self, rows: usize) {
        for Partition(table) in &mut self.partitions {
            let more = (rows / PARTITIONS).saturating_sub(table.len());
            // If this fails, growing row by row fails too, or the number was wrong.
            let _ = table.try_reserve(more, |entry| entry.fingerprint);
        }
    }

    /// Frees memory that is far more than the rows need.
    pub(crate) fn shrink(&mut self) {
        self.partitions.iter_mut().for_each(Partition::shrink);
    }

    /// Inserts the rows of live segments in their order, by several threads that have some of the
    /// partitions each. Returns what that did for each segment.
    pub(crate) fn fill(&mut self, segments: &[(u32, Footer)]) -> Vec<Inserted> {
        let rows: usize = segments.iter().map(|(_, footer)| footer.row_count()).sum();
        let threads = if rows < MIN_PARALLEL_ROWS {
            1
        } else {
            max_scoped()
        };
        let share = PARTITIONS.div_ceil(threads);
        let mut done = vec![vec![Inserted::default(); segments.len()]; PARTITIONS.div_ceil(share)];
        let partitions = self.partitions.chunks_mut(share);
        let work = partitions
            .zip(&mut done)
            .zip((0..).step_by(share))
            .collect();
        scoped_for_each(
            work,
            |((partitions, done), first): ((&mut [Partition], &mut Vec<_>), usize)| {
                let range = first..first + partitions.len();
                for ((id, footer), done) in segments.iter().zip(done) {
                    let mine =
                        |row: &RowEntry| range.contains(&partition_of(fingerprint(&row.key)));
                    by_partition(*id, footer.rows().filter(mine), |number, entries| {
                        partitions[number - first].insert(entries, |_| true, done);
                    });
                }
            },
        );
        let sum = |mut sum: Vec<Inserted>, more: Vec<Inserted>| {
            let pairs = sum.iter_mut().zip(more);
            pairs.for_each(|(sum, more)| sum.add(more));
            sum
        };
        done.into_iter().reduce(sum).unwrap_or_default()
    }

    /// The entry of a key. The caller checks that its segment is live.
    pub(crate) fn get(&self, key: &Key) -> Option<&IndexEntry> {
        self.find(fingerprint(key))
    }

    /// The entry of the keys with this fingerprint.
    pub(crate) fn find(&self, wanted: u64) -> Option<&IndexEntry> {
        let partition = &self.partitions[partition_of(wanted)].0;
        partition.find(wanted, |entry| entry.fingerprint == wanted)
    }

    pub(crate) fn partition(&mut self, number: usize) -> &mut Partition {
        &mut self.partitions[number]
    }

    /// Removes the entry of a key if it points into `segment`.
    pub(crate) fn remove(&mut self, key: &Key, segment: u32) -> bool {
        let wanted = fingerprint(key);
        let partition = &mut self.partitions[partition_of(wanted)].0;
        let same = |entry: &IndexEntry| entry.fingerprint == wanted && entry.segment == segment;
        partition
            .find_entry(wanted, same)
            .map(|slot| slot.remove())
            .is_ok()
    }

    /// Entries, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.partitions
            .iter()
            .map(|partition| partition.0.len())
            .sum()
    }

    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        let tables = self.partitions.iter().map(|partition| &partition.0);
        tables.map(HashTable::allocation_size).sum()
    }
}

impl Partition {
    /// Inserts entries of one segment, unless a live segment has the row.
    pub(crate) fn insert(
        &mut self,
        entries: &[IndexEntry],
        is_live: impl Fn(u32) -> bool,
        inserted: &mut Inserted,
    ) {
        for entry in entries {
            let wanted = entry.fingerprint;
            let same = |entry: &IndexEntry| entry.fingerprint == wanted;
            match self.0.entry(wanted, same, |entry| entry.fingerprint) {
                Slot::Vacant(slot) => {
                    slot.insert(*entry);
                    inserted.added += 1;
                }
                Slot::Occupied(mut slot) => {
                    let present = slot.get().segment;
                    if present == entry.segment {
                        continue;
                    }
                    if is_live(present) {
                        inserted
                            .shadowed_by
                            .entry(present)
                            .or_default()
                            .push(wanted);
                    } else {
                        *slot.get_mut() = *entry;
                        inserted.revived += 1;
                    }
                }
            }
        }
    }

    /// Removes the entries of segments that are not live, and frees memory that is not needed.
    pub(crate) fn sweep(&mut self, is_live: impl Fn(u32) -> bool) {
        self.0.retain(|entry| is_live(entry.segment));
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to_fit(|entry| entry.fingerprint);
        }
    }
}

/// Calls `insert` with the entries of a segment's rows, one partition at a time: a partition fits into
/// the processor's cache, and the whole table does not.
pub(crate) fn by_partition(
    segment: u32,
    mut rows: impl Iterator<Item = RowEntry>,
    mut insert: impl FnMut(usize, &[IndexEntry]),
) {
    let mut partitions = vec![Vec::new(); PARTITIONS];
    loop {
        let mut rows = rows.by_ref().take(PORTION).peekable();
        if rows.peek().is_none() {
            return;
        }
        for row in rows {
            let entry = IndexEntry::new(&row, segment);
            partitions[partition_of(entry.fingerprint)].push(entry);
        }
        for (number, partition) in partitions.iter_mut().enumerate() {
            if !partition.is_empty() {
                insert(number, partition);
                partition.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentWriter;

    fn row(n: u64) -> RowEntry {
        let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
        RowEntry {
            key,
            offset: n << 5,
            stored_len: 7,
            group: 513,
            encoding: Encoding::ZstdShuffled8,
        }
    }

    #[test]
    fn an_entry_restores_every_field() {
        let mut row = row(3);
        row.offset = (1 << 40) - 1;
        let entry = IndexEntry::new(&row, 9);
        assert_eq!(entry.row(&row.key), Some(row));
        assert_eq!(size_of::<IndexEntry>(), 24);
    }

    fn insert_all(
        index: &mut Index,
        rows: impl Iterator<Item = u64>,
        segment: u32,
        live: impl Fn(u32) -> bool,
    ) -> Inserted {
        let mut done = Inserted::default();
        by_partition(segment, rows.map(row), |number, entries| {
            index.partition(number).insert(entries, &live, &mut done);
        });
        done
    }

    fn insert(index: &mut Index, n: u64, segment: u32, live: impl Fn(u32) -> bool) -> (u64, u64) {
        let done = insert_all(index, n..n + 1, segment, live);
        (done.added, done.revived)
    }

    #[test]
    fn memory_stays_below_64_bytes_a_row_at_every_size() {
        let mut index = Index::new();
        for n in 0..200 {
            insert_all(&mut index, n * 1000..(n + 1) * 1000, 1, |_| true);
            // Worst right after growing, which happens at various sizes as partitions differ.
            if n > 20 {
                let bytes = index.memory();
                let rows = (n + 1) * 1000;
                assert!(
                    bytes as f64 / rows as f64 <= 64.0,
                    "{bytes} bytes for {rows} rows"
                );
            }
        }
    }

    #[test]
    fn live_entries_stay_and_dead_ones_go() {
        let mut index = Index::new();
        let segment_of = |index: &Index, n| index.get(&row(n).key).map(|entry| entry.segment);
        assert_eq!(insert(&mut index, 1, 1, |_| true), (1, 0));
        assert_eq!(insert(&mut index, 1, 2, |_| true), (0, 0));
        assert_eq!(segment_of(&index, 1), Some(1));
        assert_eq!(insert(&mut index, 1, 2, |id| id != 1), (0, 1));
        assert_eq!(segment_of(&index, 1), Some(2));
        assert!(
            !index.remove(&row(1).key, 1),
            "another segment's entry must stay"
        );
        index
            .partitions
            .iter_mut()
            .for_each(|partition| partition.sweep(|id| id != 2));
        assert_eq!((segment_of(&index, 1), index.len()), (None, 0));
    }

    /// The footer of a segment with these rows.
    fn footer(rows: std::ops::Range<u64>) -> Footer {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut writer = SegmentWriter::create(dir.path()).expect("it can be made");
        let schema = b"".as_slice().into();
        for n in rows {
            writer
                .push(&row(n).key, &schema, 0, Encoding::Raw, b"")
                .expect("it is written");
        }
        let published = writer.finish().and_then(|segment| segment.publish_named());
        published.expect("it is written").footer
    }

    #[test]
    fn parallel_fill_counts_each_row_once_for_the_first_segment() {
        let many = MIN_PARALLEL_ROWS as u64;
        let segments = [
            (7, footer(0..many)),
            (5, footer(many / 2..many + 100)),
            (6, footer(0..10)),
        ];
        let mut index = Index::new();
        let done = index.fill(&segments);
        assert_eq!(
            done.iter().map(|done| done.added).collect::<Vec<_>>(),
            [many, 100, 0]
        );
        let shadowed_by = done.iter().map(|done| {
            done.shadowed_by
                .iter()
                .map(|(id, rows)| (*id, rows.len() as u64))
                .collect()
        });
        assert_eq!(
            shadowed_by.collect::<Vec<Vec<_>>>(),
            [vec![], vec![(7, many / 2)], vec![(7, 10)]]
        );
        assert_eq!(index.len() as u64, many + 100);
        for n in 0..many + 100 {
            let entry = index.get(&row(n).key).expect("it is indexed");
            assert_eq!(entry.segment, if n < many { 7 } else { 5 });
        }
    }
}
