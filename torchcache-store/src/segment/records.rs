//! All records of a segment, one after the other, as they are stored. For merging, which
//! copies records without looking into them.

use super::fetch::check;
use super::format::{CHECKSUM_LEN, Class, Row};
use super::reader::{SegmentFile, Unreadable, read_at};

/// The file is read in stretches of this size, or of one record.
const STRETCH: u64 = 1 << 20;

/// A walk over the records of a segment.
pub(crate) struct Records<'f, R> {
    file: &'f SegmentFile,
    rows: R,
    /// Bytes of the file from `begin` on.
    window: Vec<u8>,
    begin: u64,
}

/// A record: its entry, what it shares with others, and its checked bytes.
pub(crate) type Record<'f, 'w> = (Row, &'f Class, Result<&'w [u8], Unreadable>);

impl SegmentFile {
    /// The records, in the order of the file.
    pub(crate) fn records(&self) -> Records<'_, impl Iterator<Item = Row>> {
        let rows = self.footer().rows();
        Records {
            file: self,
            rows,
            window: Vec::new(),
            begin: 0,
        }
    }
}

impl<'f, R: Iterator<Item = Row>> Records<'f, R> {
    /// The next record. (Not an iterator, since the bytes live in this walk.)
    pub(crate) fn next(&mut self) -> Option<Record<'f, '_>> {
        let row = self.rows.next()?;
        let class = self.file.footer().classes().get(usize::from(row.class))?;
        Some((row, class, self.load(row, class)))
    }

    fn load(&mut self, row: Row, class: &Class) -> Result<&[u8], Unreadable> {
        if row.end() > self.begin + self.window.len() as u64 {
            self.fill(row)?;
        }
        let record = &self.window[(row.offset - self.begin) as usize..];
        let (stored, rest) = record.split_at(row.stored_len as usize);
        let sum: [u8; CHECKSUM_LEN] = std::array::from_fn(|i| rest[i]);
        check(&row, class, stored, sum)?;
        Ok(stored)
    }

    /// Reads from this record on. The footer was checked against the size of the file, so
    /// nothing larger than the file is allocated.
    fn fill(&mut self, row: Row) -> Result<(), Unreadable> {
        let end = row
            .end()
            .max((row.offset + STRETCH).min(self.file.records_end()));
        self.begin = row.offset;
        self.window.resize((end - row.offset) as usize, 0);
        read_at(self.file.source().file(), &mut self.window, row.offset)
            .inspect_err(|_| self.window.clear())
    }
}
