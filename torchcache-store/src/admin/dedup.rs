//! Yields each row once. A row is in several segments if processes wrote it at the same time. Which copy
//! to yield is decided before the first row is read, since the row count is the first thing in an
//! exported file. Keys are compared in passes, each over a share of the keys, to bound memory; only a bit
//! per row remains.

use std::io;

use hashbrown::HashSet;

use super::snapshot::{CacheRows, OpenSegment, named};
use crate::key::Key;
use crate::segment::{Decoder, SegmentError};

/// Keys in memory at a time. A hash table of 2^17 slots holds them, with room for shares above average.
const KEYS_PER_PASS: u64 = 100_000;

/// The rows of a group, each once: see [`CacheRows::distinct`].
#[derive(Debug)]
pub struct DistinctRows<'r> {
    rows: &'r CacheRows,
    group: usize,
    /// The records to yield.
    chosen: Bits,
    /// The records known to be corrupt.
    corrupt: Bits,
}

impl CacheRows {
    /// Returns the rows of a group, each once, although a row may be in several segments. Memory: two bits
    /// per row and a few MB.
    ///
    /// # Errors
    /// If a row table cannot be read.
    ///
    /// # Panics
    /// If there is no group of this index.
    pub fn distinct(&self, group: usize) -> io::Result<DistinctRows<'_>> {
        DistinctRows::new(self, group)
    }
}

impl<'r> DistinctRows<'r> {
    fn new(rows: &'r CacheRows, group: usize) -> io::Result<DistinctRows<'r>> {
        assert!(group < rows.groups().len(), "there is no group {group}");
        let mut distinct = DistinctRows {
            rows,
            group,
            chosen: Bits::new(rows.total()),
            corrupt: Bits::new(rows.total()),
        };
        distinct.choose()?;
        Ok(distinct)
    }

    /// The number of rows, without those of which every copy is known to be corrupt.
    pub fn count(&self) -> u64 {
        self.chosen.count()
    }

    /// The number of records known to be corrupt.
    pub fn corrupt_records(&self) -> u64 {
        self.corrupt.count()
    }

    /// Chooses the first copy of each row that is not known to be corrupt.
    fn choose(&mut self) -> io::Result<()> {
        self.chosen.clear_all();
        let passes = self.rows.groups()[self.group].rows.div_ceil(KEYS_PER_PASS);
        let mut seen: HashSet<Key> = HashSet::with_capacity(KEYS_PER_PASS as usize);
        for pass in 0..passes {
            seen.clear();
            for segment in &self.rows.open {
                for (index, row) in (segment.before..).zip(segment.reader.rows()) {
                    let row = row.map_err(|error| failed(segment, error))?;
                    if segment.groups[usize::from(row.group)] == Some(self.group)
                        && pass_of(&row.key, passes) == pass
                        && !self.corrupt.get(index)
                        && seen.insert(row.key)
                    {
                        self.chosen.set(index);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the rows, in the order of the segments, and passes key and value of each to `take`.
    ///
    /// Returns whether all rows that [`count`](Self::count) promised were passed. If not, some records
    /// are corrupt: other copies of their rows take their place if there are any, the count is updated, and
    /// the caller has to start again.
    ///
    /// # Errors
    /// If `take` returns an error, or a segment cannot be read.
    pub fn for_each(
        &mut self,
        mut take: impl FnMut(&Key, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let (mut window, mut decoder) = (Vec::new(), Decoder::default());
        let mut is_complete = true;
        for segment in &self.rows.open {
            for chunk in segment.reader.chunks() {
                let mut chunk = chunk.map_err(|error| failed(segment, error))?;
                chunk
                    .rows
                    .retain(|(number, _)| self.chosen.get(segment.before + number));
                segment.reader.read_records(&chunk, &mut window, |record| {
                    let (row, group) = (record.row, record.group);
                    match record
                        .stored
                        .and_then(|stored| decoder.value(row, group, stored))
                    {
                        // After a corrupt record, the rest is read only to find all others.
                        Ok(value) if is_complete => take(&row.key, value),
                        Ok(_) => Ok(()),
                        Err(SegmentError::Io(error)) => {
                            Err(failed(segment, SegmentError::Io(error)))
                        }
                        Err(_) => {
                            self.corrupt.set(segment.before + record.number);
                            is_complete = false;
                            Ok(())
                        }
                    }
                })?;
            }
        }
        if !is_complete {
            self.choose()?;
        }
        Ok(is_complete)
    }
}

/// The pass that compares a key. Called for each row in each pass, so it is cheap; keys are well
/// distributed already.
fn pass_of(key: &Key, passes: u64) -> u64 {
    let (words, _) = key.as_chunks::<8>();
    let fold = |fold: u64, word: &[u8; 8]| fold.rotate_left(16) ^ u64::from_le_bytes(*word);
    let hash = words
        .iter()
        .fold(0, fold)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Scales the hash to below `passes` without a division.
    ((u128::from(hash) * u128::from(passes)) >> 64) as u64
}

fn failed(segment: &OpenSegment, error: SegmentError) -> io::Error {
    let kind = match &error {
        SegmentError::Io(error) => error.kind(),
        _ => io::ErrorKind::InvalidData,
    };
    named(&segment.name, kind, &error)
}

/// A bit set, all zero at first.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn new(count: u64) -> Bits {
        Bits(vec![0; count.div_ceil(64) as usize])
    }

    pub(super) fn get(&self, at: u64) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 == 1
    }

    pub(super) fn set(&mut self, at: u64) {
        self.0[(at / 64) as usize] |= 1 << (at % 64);
    }

    pub(super) fn clear_all(&mut self) {
        self.0.fill(0);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_independent() {
        let mut bits = Bits::new(130);
        for at in [0, 63, 64, 129] {
            bits.set(at);
        }
        let set: Vec<u64> = (0..130).filter(|&at| bits.get(at)).collect();
        assert_eq!(set, [0, 63, 64, 129]);
        assert_eq!(bits.count(), 4);
        bits.clear_all();
        assert_eq!(bits.count(), 0);
    }
}
