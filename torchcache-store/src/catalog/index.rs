//! Which row lies where, in at most 64 bytes of memory a row: 24 for the entry and one of
//! hashbrown's, over a load of 7/16 at worst.
//!
//! An entry holds only the first eight bytes of a key. Two keys that share them cannot both
//! be here, and asking for one may find the other's place; the record's checksum covers the
//! whole key, so that reading it is then a miss and not a wrong row.
//!
//! Entries of dropped segments are not looked for at once. The caller says which segments
//! are live: dead entries count as absent, are overwritten, and go at the next `sweep`.

use std::collections::HashSet;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::key::{Key, fingerprint};
use crate::segment::{Encoding, Footer, Row, VERSION};
use crate::threads::{among_threads, threads};

/// The table is cut into parts, so that growing or sweeping ten million entries never stops a
/// lookup for longer than a small part takes, and so that several threads can fill it.
pub(crate) const PARTS: usize = 64;

/// Rows are put into the parts in portions of this size: enough for each part to get many at a
/// time, and few enough to cost no memory that matters.
const PORTION: usize = 1 << 12;

/// From so many rows on, several threads fill the index.
const SHARED_FROM: usize = 1 << 15;

/// Where a row lies: 24 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    fingerprint: u64,
    /// Offset in bits 24.., group in bits 8..24, encoding in bits 0..8.
    packed: u64,
    pub(crate) segment: u32,
    stored_len: u32,
}

impl Entry {
    fn new(row: &Row, segment: u32) -> Entry {
        Entry {
            fingerprint: fingerprint(&row.key),
            packed: row.offset << 24 | u64::from(row.group) << 8 | row.encoding as u64,
            segment,
            stored_len: row.stored_len,
        }
    }

    /// The row, given the whole of its key.
    pub(crate) fn row(&self, key: &Key) -> Option<Row> {
        Some(Row {
            key: *key,
            offset: self.packed >> 24,
            stored_len: self.stored_len,
            group: (self.packed >> 8) as u16,
            encoding: Encoding::from_byte(self.packed as u8, VERSION)?,
        })
    }
}

/// hashbrown takes the low and the seven highest bits; the part is chosen by others.
fn part_number(fingerprint: u64) -> usize {
    (fingerprint >> 48) as usize % PARTS
}

/// From key to segment and place.
#[derive(Debug)]
pub(crate) struct Index {
    parts: Vec<Part>,
}

/// The entries of some of the fingerprints.
#[derive(Debug, Default)]
pub(crate) struct Part(HashTable<Entry>);

/// What putting the rows of one segment into the index did. Rows that it had already are in no
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Rows whose key was not there.
    pub(crate) added: u64,
    /// Rows that took the place of a dead entry.
    pub(crate) revived: u64,
    /// Segments that hold some of the rows as well, and keep them.
    pub(crate) behind: HashSet<u32>,
}

impl Inserted {
    fn add(&mut self, more: Inserted) {
        self.added += more.added;
        self.revived += more.revived;
        self.behind.extend(more.behind);
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
        }
    }

    /// Makes room for about so many rows in all, if there is memory for them.
    pub(crate) fn reserve(&mut self, rows: usize) {
        for Part(table) in &mut self.parts {
            let more = (rows / PARTS).saturating_sub(table.len());
            // Where this fails, growing row by row fails too, or the number was wrong.
            let _ = table.try_reserve(more, |entry| entry.fingerprint);
        }
    }

    /// Gives back room that is far more than the rows need.
    pub(crate) fn give_back(&mut self) {
        self.parts.iter_mut().for_each(Part::give_back);
    }

    /// Adds the rows of live segments, the first segment's first, with several threads that have
    /// some of the parts each. Returns what that did for each segment.
    pub(crate) fn fill(&mut self, segments: &[(u32, Footer)]) -> Vec<Inserted> {
        let rows: usize = segments.iter().map(|(_, footer)| footer.row_count()).sum();
        let threads = if rows < SHARED_FROM { 1 } else { threads() };
        let share = PARTS.div_ceil(threads);
        let mut done = vec![vec![Inserted::default(); segments.len()]; PARTS.div_ceil(share)];
        let parts = self.parts.chunks_mut(share);
        let work = parts.zip(&mut done).zip((0..).step_by(share)).collect();
        among_threads(
            work,
            |((parts, done), first): ((&mut [Part], &mut Vec<_>), usize)| {
                let range = first..first + parts.len();
                for ((id, footer), done) in segments.iter().zip(done) {
                    let mine = |row: &Row| range.contains(&part_number(fingerprint(&row.key)));
                    by_part(*id, footer.rows().filter(mine), |number, entries| {
                        parts[number - first].insert(entries, |_| true, done);
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

    /// The segment and place of a row; the caller checks that the segment is live.
    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        let wanted = fingerprint(key);
        let part = &self.parts[part_number(wanted)].0;
        part.find(wanted, |entry| entry.fingerprint == wanted)
    }

    pub(crate) fn part(&mut self, number: usize) -> &mut Part {
        &mut self.parts[number]
    }

    /// Removes the entry of a key if it points into `segment`.
    pub(crate) fn remove(&mut self, key: &Key, segment: u32) -> bool {
        let wanted = fingerprint(key);
        let part = &mut self.parts[part_number(wanted)].0;
        let same = |entry: &Entry| entry.fingerprint == wanted && entry.segment == segment;
        part.find_entry(wanted, same)
            .map(|slot| slot.remove())
            .is_ok()
    }

    /// Entries, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.0.len()).sum()
    }

    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        let tables = self.parts.iter().map(|part| &part.0);
        tables.map(HashTable::allocation_size).sum()
    }
}

impl Part {
    /// Adds entries of one segment, unless a live segment has the row.
    pub(crate) fn insert(
        &mut self,
        entries: &[Entry],
        live: impl Fn(u32) -> bool,
        done: &mut Inserted,
    ) {
        for entry in entries {
            let wanted = entry.fingerprint;
            let same = |entry: &Entry| entry.fingerprint == wanted;
            match self.0.entry(wanted, same, |entry| entry.fingerprint) {
                Slot::Vacant(slot) => {
                    slot.insert(*entry);
                    done.added += 1;
                }
                Slot::Occupied(mut slot) => {
                    let there = slot.get().segment;
                    if there == entry.segment {
                        continue;
                    }
                    if live(there) {
                        done.behind.insert(there);
                    } else {
                        *slot.get_mut() = *entry;
                        done.revived += 1;
                    }
                }
            }
        }
    }

    /// Drops the entries of segments that are not live, and memory that is no longer used.
    pub(crate) fn sweep(&mut self, live: impl Fn(u32) -> bool) {
        self.0.retain(|entry| live(entry.segment));
        self.give_back();
    }

    fn give_back(&mut self) {
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to_fit(|entry| entry.fingerprint);
        }
    }
}

/// Calls `insert` with the entries of a segment's rows, part by part: a part fits the processor's
/// cache where the whole table does not.
pub(crate) fn by_part(
    segment: u32,
    mut rows: impl Iterator<Item = Row>,
    mut insert: impl FnMut(usize, &[Entry]),
) {
    let mut parts = vec![Vec::new(); PARTS];
    loop {
        let mut rows = rows.by_ref().take(PORTION).peekable();
        if rows.peek().is_none() {
            return;
        }
        for row in rows {
            let entry = Entry::new(&row, segment);
            parts[part_number(entry.fingerprint)].push(entry);
        }
        for (number, part) in parts.iter_mut().enumerate() {
            if !part.is_empty() {
                insert(number, part);
                part.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentWriter;

    fn row(n: u64) -> Row {
        let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
        Row {
            key,
            offset: n << 5,
            stored_len: 7,
            group: 513,
            encoding: Encoding::ZstdShuffled8,
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

    fn insert_all(
        index: &mut Index,
        rows: impl Iterator<Item = u64>,
        segment: u32,
        live: impl Fn(u32) -> bool,
    ) -> Inserted {
        let mut done = Inserted::default();
        by_part(segment, rows.map(row), |number, entries| {
            index.part(number).insert(entries, &live, &mut done);
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
            // Worst right after growing, which happens at various sizes as parts differ.
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
    fn live_entries_stay_and_dead_ones_are_overwritten_or_swept() {
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
            .parts
            .iter_mut()
            .for_each(|part| part.sweep(|id| id != 2));
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
        let published = writer.finish().and_then(|segment| segment.publish_footer());
        published.expect("it is written").1
    }

    #[test]
    fn filling_with_threads_counts_each_row_once_and_leaves_it_to_the_first_segment() {
        let many = SHARED_FROM as u64;
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
        let behind = done
            .iter()
            .map(|done| done.behind.iter().copied().collect());
        assert_eq!(
            behind.collect::<Vec<Vec<u32>>>(),
            [vec![], vec![7], vec![7]]
        );
        assert_eq!(index.len() as u64, many + 100);
        for n in 0..many + 100 {
            let entry = index.get(&row(n).key).expect("it is there");
            assert_eq!(entry.segment, if n < many { 7 } else { 5 });
        }
    }
}
