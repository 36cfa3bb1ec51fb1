//! Each row once. A row lies in several segments where processes wrote it at the same time, and which
//! copy is taken must be known before the first is read: their number stands in front of what is made
//! of them. Keys are compared in passes, each over a share of them, so that no more than a share is in
//! memory; what remains of each row is a bit.

use std::io;

use hashbrown::HashSet;

use super::snapshot::{CacheRows, Held, named};
use crate::key::Key;
use crate::segment::{Decoder, SegmentError};

/// Keys in memory at a time: what a hash table of 2^17 places takes, with room for chance.
const KEYS: u64 = 100_000;

/// The rows of a group, each once.
#[derive(Debug)]
pub struct Distinct<'r> {
    rows: &'r CacheRows,
    group: usize,
    /// The copies that are taken.
    chosen: Bits,
    /// Those whose record turned out to be bad.
    bad: Bits,
}

impl CacheRows {
    /// Each row of a group once, although it may lie in several segments. Takes a bit for each row and
    /// a few MB, however many there are.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// If there is no group of this number.
    pub fn distinct(&self, group: usize) -> io::Result<Distinct<'_>> {
        Distinct::of(self, group)
    }
}

impl<'r> Distinct<'r> {
    fn of(rows: &'r CacheRows, group: usize) -> io::Result<Distinct<'r>> {
        assert!(group < rows.groups().len(), "there is no group {group}");
        let mut distinct = Distinct {
            rows,
            group,
            chosen: Bits::new(rows.total()),
            bad: Bits::new(rows.total()),
        };
        distinct.choose()?;
        Ok(distinct)
    }

    /// How many rows there are, without those of which every copy turned out to be bad.
    pub fn count(&self) -> u64 {
        self.chosen.count()
    }

    /// How many records turned out to be bad.
    pub fn bad(&self) -> u64 {
        self.bad.count()
    }

    /// Takes the first sound copy of each row, as far as is known which are sound.
    fn choose(&mut self) -> io::Result<()> {
        self.chosen.clear_all();
        let passes = self.rows.groups()[self.group].rows.div_ceil(KEYS);
        let mut seen: HashSet<Key> = HashSet::with_capacity(KEYS as usize);
        for pass in 0..passes {
            seen.clear();
            for held in &self.rows.held {
                for (place, row) in (held.before..).zip(held.reader.rows()) {
                    let row = row.map_err(|error| failed(held, error))?;
                    if held.groups[usize::from(row.group)] == self.group
                        && share(&row.key, passes) == pass
                        && !self.bad.get(place)
                        && seen.insert(row.key)
                    {
                        self.chosen.set(place);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the rows, in the order of the segments, and hands key and value of each to `take`.
    /// Returns whether there were as many as [`count`](Self::count) said. If not, some records turned
    /// out to be bad: the count is now without them, or with sound copies in their place, and
    /// whoever takes the rows has to begin anew.
    ///
    /// # Errors
    /// What `take` says, and the system.
    pub fn each(
        &mut self,
        mut take: impl FnMut(&Key, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let (mut window, mut decoder) = (Vec::new(), Decoder::default());
        let mut is_complete = true;
        for held in &self.rows.held {
            for chunk in held.reader.chunks() {
                let mut chunk = chunk.map_err(|error| failed(held, error))?;
                chunk
                    .rows
                    .retain(|(number, _)| self.chosen.get(held.before + number));
                held.reader.read_records(&chunk, &mut window, |record| {
                    let (row, group) = (record.row, record.group);
                    match record
                        .stored
                        .and_then(|stored| decoder.value(row, group, stored))
                    {
                        // Once a record is bad, the rest is read only to find all bad ones.
                        Ok(value) if is_complete => take(&row.key, value),
                        Ok(_) => Ok(()),
                        Err(SegmentError::Io(error)) => Err(failed(held, SegmentError::Io(error))),
                        Err(_) => {
                            self.bad.set(held.before + record.number);
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

/// In which of so many passes a key is compared. Asked for each row in each pass, so it is as quick as
/// can be; keys are distributed well already.
fn share(key: &Key, passes: u64) -> u64 {
    let (words, _) = key.as_chunks::<8>();
    let fold = |fold: u64, word: &[u8; 8]| fold.rotate_left(16) ^ u64::from_le_bytes(*word);
    let hash = words
        .iter()
        .fold(0, fold)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // A hash below 2^64 to a number below `passes`, without a division.
    ((u128::from(hash) * u128::from(passes)) >> 64) as u64
}

fn failed(held: &Held, error: SegmentError) -> io::Error {
    let kind = match &error {
        SegmentError::Io(error) => error.kind(),
        _ => io::ErrorKind::InvalidData,
    };
    named(&held.name, kind, &error)
}

/// Bits, all of them clear at first.
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
    fn each_bit_is_its_own() {
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
