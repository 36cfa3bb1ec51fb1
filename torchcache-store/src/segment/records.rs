//! Records of a segment, one after the other, as they are stored. For merging, which copies
//! records without looking into them, and for whoever goes through a whole segment.

use super::error::SegmentError;
use super::fetch::check;
use super::format::{CHECKSUM_LEN, Row, RowGroup};
use super::reader::{SegmentFile, read_at};
use super::source::Source;

/// The file is read in stretches of this size, or of one record.
const STRETCH: u64 = 1 << 20;

/// A walk over records of a segment.
pub(crate) struct Records<'f, R> {
    source: &'f Source,
    groups: &'f [RowGroup],
    rows: R,
    /// Where the last of the records ends.
    end: u64,
    /// Bytes of the file from `begin` on.
    window: Vec<u8>,
    begin: u64,
}

/// A record: its entry, what it shares with others, and its checked bytes.
pub(crate) type Record<'f, 'w> = (Row, &'f RowGroup, Result<&'w [u8], SegmentError>);

impl SegmentFile {
    /// The records, in the order of the file.
    pub(crate) fn records(&self) -> Records<'_, impl Iterator<Item = Row>> {
        let (groups, rows) = (self.footer().groups(), self.footer().rows());
        Records::over(self.source(), groups, rows, self.records_end(), Vec::new())
    }
}

impl<'f, R> Records<'f, R> {
    /// A walk over rows that lie in the order of the file, were found to fit it, and whose last record
    /// ends at `end`. `window` is taken for its memory, and given back by
    /// [`into_window`](Self::into_window).
    pub(super) fn over(
        source: &'f Source,
        groups: &'f [RowGroup],
        rows: R,
        end: u64,
        mut window: Vec<u8>,
    ) -> Self {
        window.clear();
        Records {
            source,
            groups,
            rows,
            end,
            window,
            begin: 0,
        }
    }

    pub(super) fn into_window(self) -> Vec<u8> {
        self.window
    }
}

impl<'f, R: Iterator<Item = Row>> Records<'f, R> {
    /// The next record. (Not an iterator, since the bytes live in this walk.)
    pub(crate) fn next(&mut self) -> Option<Record<'f, '_>> {
        let row = self.rows.next()?;
        let group = self.groups.get(usize::from(row.group))?;
        Some((row, group, self.load(row, group)))
    }

    fn load(&mut self, row: Row, group: &RowGroup) -> Result<&[u8], SegmentError> {
        if row.end() > self.begin + self.window.len() as u64 {
            self.fill(row)?;
        }
        let record = &self.window[(row.offset - self.begin) as usize..];
        let (stored, rest) = record.split_at(row.stored_len as usize);
        let sum: [u8; CHECKSUM_LEN] = std::array::from_fn(|i| rest[i]);
        check(&row, group, stored, sum)?;
        Ok(stored)
    }

    /// Reads from this record on. The footer was checked against the size of the file, so
    /// nothing larger than the file is allocated.
    fn fill(&mut self, row: Row) -> Result<(), SegmentError> {
        let end = row.end().max((row.offset + STRETCH).min(self.end));
        self.begin = row.offset;
        self.window.resize((end - row.offset) as usize, 0);
        read_at(self.source.file(), &mut self.window, row.offset)
            .inspect_err(|_| self.window.clear())
    }
}
