//! Yields each row once. A row is in several segments if processes wrote it at the same time. Which copy
//! to yield is decided before the first row is read, since the row count is the first thing in an
//! exported file. To bound memory, keys are first divided into shares in a temporary file; those of one
//! share are compared at a time. Only a bit per row remains.

use std::env::temp_dir;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hashbrown::HashSet;

use super::snapshot::{CacheRows, failed};
use crate::key::Key;
use crate::segment::{Decoder, SegmentError};
use crate::{descriptors, sys};

/// Keys in memory at a time. A hash table of 2^17 slots holds them, with room for shares above average.
const KEYS_PER_SHARE: u64 = 100_000;

/// The memory for keys that are not in the temporary file yet.
const UNWRITTEN_BYTES: usize = 1 << 20;

/// The least bytes of a share that are written at once.
const MIN_BLOCK_BYTES: usize = 4 << 10;

/// The rows of a group, each once: see [`CacheRows::distinct`].
#[derive(Debug)]
pub struct DistinctRows<'r> {
    rows: &'r CacheRows,
    group: usize,
    /// Where temporary files are made.
    scratch: PathBuf,
    /// The records to yield.
    chosen: Bits,
    /// The records known to be corrupt.
    corrupt: Bits,
}

impl CacheRows {
    /// Returns the rows of a group, each once, although a row may be in several segments. Memory: two bits
    /// per row and a few MB. More than 26,000 rows take 40 bytes each in a temporary file.
    ///
    /// # Errors
    /// If a row table cannot be read, or the temporary file cannot be written.
    ///
    /// # Panics
    /// If there is no group of this index.
    pub fn distinct(&self, group: usize) -> io::Result<DistinctRows<'_>> {
        self.distinct_with(group, &temp_dir())
    }

    /// Like [`distinct`](Self::distinct), with the temporary file in the directory `scratch`.
    ///
    /// # Errors
    /// As [`distinct`](Self::distinct).
    ///
    /// # Panics
    /// As [`distinct`](Self::distinct).
    pub fn distinct_with(&self, group: usize, scratch: &Path) -> io::Result<DistinctRows<'_>> {
        DistinctRows::new(self, group, scratch)
    }
}

impl<'r> DistinctRows<'r> {
    fn new(rows: &'r CacheRows, group: usize, scratch: &Path) -> io::Result<DistinctRows<'r>> {
        assert!(group < rows.groups().len(), "there is no group {group}");
        let mut distinct = DistinctRows {
            rows,
            group,
            scratch: scratch.to_owned(),
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

    /// Chooses the first copy of each row that is not known to be corrupt. Reads each row table once.
    fn choose(&mut self) -> io::Result<()> {
        let rows = self.rows.groups()[self.group].rows;
        let mut keys = KeyShares::new(&self.scratch, rows.div_ceil(KEYS_PER_SHARE).max(1));
        for segment in &self.rows.open {
            for (index, row) in (segment.before..).zip(segment.reader.rows()) {
                let row = row.map_err(|error| failed(segment, error))?;
                let group = segment.groups[usize::from(row.group)];
                if group == Some(self.group) && !self.corrupt.get(index) {
                    keys.push(&row.key, index)?;
                }
            }
        }
        self.chosen.clear_all();
        let mut seen: HashSet<Key> = HashSet::with_capacity(KEYS_PER_SHARE as usize);
        for share in 0..keys.shares.len() {
            seen.clear();
            keys.for_each(share, |key, index| {
                if seen.insert(*key) {
                    self.chosen.set(index);
                }
            })?;
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

/// Keys with the indices of their rows, divided into shares by the key. What exceeds the memory is in a temporary
/// file, in blocks.
struct KeyShares<'s> {
    scratch: &'s Path,
    file: Option<File>,
    /// The bytes of the file.
    written: u64,
    block_bytes: usize,
    shares: Vec<KeyShare>,
}

#[derive(Clone, Default)]
struct KeyShare {
    /// Where its blocks are in the file.
    blocks: Vec<u64>,
    /// The entries after these.
    unwritten: Vec<u8>,
}

/// A key and the index of its row.
type Entry = [u8; ENTRY_BYTES];

const ENTRY_BYTES: usize = size_of::<Key>() + size_of::<u64>();

impl<'s> KeyShares<'s> {
    fn new(scratch: &'s Path, shares: u64) -> KeyShares<'s> {
        let block_bytes = (UNWRITTEN_BYTES / shares as usize).max(MIN_BLOCK_BYTES);
        KeyShares {
            scratch,
            file: None,
            written: 0,
            block_bytes: block_bytes / ENTRY_BYTES * ENTRY_BYTES,
            shares: vec![KeyShare::default(); shares as usize],
        }
    }

    fn push(&mut self, key: &Key, index: u64) -> io::Result<()> {
        let number = share_of(key, self.shares.len());
        if self.shares[number].unwritten.len() == self.block_bytes {
            self.write(number).map_err(|error| self.failed(error))?;
        }
        let unwritten = &mut self.shares[number].unwritten;
        unwritten.extend_from_slice(key);
        unwritten.extend_from_slice(&index.to_le_bytes());
        Ok(())
    }

    /// Appends a block to the file.
    fn write(&mut self, share: usize) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(descriptors::retry(|| tempfile::tempfile_in(self.scratch))?),
        };
        let KeyShare { blocks, unwritten } = &mut self.shares[share];
        sys::without_file_size_signal(|| file.write_all_at(unwritten, self.written))?;
        blocks.push(self.written);
        self.written += unwritten.len() as u64;
        unwritten.clear();
        Ok(())
    }

    /// Passes the keys of a share to `take`, in the order in which they were added.
    fn for_each(&self, share: usize, mut take: impl FnMut(&Key, u64)) -> io::Result<()> {
        let KeyShare { blocks, unwritten } = &self.shares[share];
        let mut take_all = |block: &[u8]| {
            for entry in block.as_chunks().0 {
                let (key, index) = split(entry);
                take(&key, index);
            }
        };
        let mut block = vec![0; self.block_bytes];
        for &begin in blocks {
            let read = |file: &File| file.read_exact_at(&mut block, begin);
            let read = self.file.as_ref().map_or(Ok(()), read);
            read.map_err(|error| self.failed(error))?;
            take_all(&block);
        }
        take_all(unwritten);
        Ok(())
    }

    fn failed(&self, error: io::Error) -> io::Error {
        let what = format!(
            "cannot compare its keys in a temporary file in {}: {error}",
            self.scratch.display()
        );
        io::Error::new(error.kind(), what)
    }
}

fn split(entry: &Entry) -> (Key, u64) {
    let (mut key, mut index) = (Key::default(), [0; 8]);
    let (first, last) = entry.split_at(key.len());
    key.copy_from_slice(first);
    index.copy_from_slice(last);
    (key, u64::from_le_bytes(index))
}

/// The share of a key. Keys are well distributed already.
fn share_of(key: &Key, shares: usize) -> usize {
    let (words, _) = key.as_chunks::<8>();
    let fold = |fold: u64, word: &[u8; 8]| fold.rotate_left(16) ^ u64::from_le_bytes(*word);
    let hash = words
        .iter()
        .fold(0, fold)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // Scales the hash to below `shares` without a division.
    ((u128::from(hash) * shares as u128) >> 64) as usize
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
