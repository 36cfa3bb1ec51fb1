//! The bytes of a segment in the order in which they are written, to a file or into memory.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use super::footer::Footer;
use super::format::{
    CHECKSUM_LEN, Encoding, GROUP_HEAD_LEN, HEADER_LEN, MAX_DATA, MAX_GROUPS, ROW_LEN, RowEntry,
    RowGroup, TRAILER_LEN, VERSION, header, record_checksum,
};
use crate::key::Key;

/// The most rows of a segment that is written. While a segment is taken into the index, its row table
/// is in memory, and should be small compared with the index.
pub(crate) const MOST_ROWS: usize = 1 << 18;

/// A segment that is being written to `out`.
#[derive(Debug)]
pub(crate) struct SegmentBuilder<W> {
    out: W,
    groups: Vec<RowGroup>,
    numbers: HashMap<(Arc<[u8]>, u32), u16>,
    entries: Vec<u8>,
    offset: u64,
    footer_len: u64,
}

impl<W: Write> SegmentBuilder<W> {
    /// Writes the header.
    pub(crate) fn new(mut out: W) -> io::Result<SegmentBuilder<W>> {
        out.write_all(&header(VERSION))?;
        Ok(SegmentBuilder {
            out,
            groups: Vec::new(),
            numbers: HashMap::new(),
            entries: Vec::new(),
            offset: HEADER_LEN as u64,
            footer_len: 0,
        })
    }

    /// The size that the segment has if it is finished now.
    pub(crate) fn bytes(&self) -> u64 {
        self.offset + self.footer_len + TRAILER_LEN as u64
    }

    /// The bytes of row groups and row table.
    pub(crate) fn footer_bytes(&self) -> u64 {
        self.footer_len
    }

    /// Whether one more row fits within the limits of the format and of [`MOST_ROWS`].
    pub(crate) fn has_room(&self, stored_len: usize) -> bool {
        self.groups.len() < MAX_GROUPS
            && self.offset + (stored_len as u64) < MAX_DATA / 2
            && self.entries.len() < MOST_ROWS * ROW_LEN
    }

    /// Appends a row whose value of `raw_len` bytes is stored as `stored`.
    ///
    /// # Errors
    /// If `out` cannot be written to, or `stored` has a length that `encoding` does not allow: a raw
    /// value must have `raw_len` bytes, a compressed one fewer. Afterwards the segment must be
    /// dropped.
    pub(crate) fn push(
        &mut self,
        key: &Key,
        schema: &Arc<[u8]>,
        raw_len: u32,
        encoding: Encoding,
        stored: &[u8],
    ) -> io::Result<()> {
        let number = self.group_number(schema, raw_len)?;
        let stored_len = u32::try_from(stored.len()).map_err(io::Error::other)?;
        if !self.groups[usize::from(number)].allows(encoding, stored_len) {
            let what = format!(
                "a value of {raw_len} bytes is not stored as {stored_len} bytes of {encoding:?}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let row = RowEntry {
            key: *key,
            offset: self.offset,
            stored_len,
            group: number,
            encoding,
        };
        let sum = record_checksum(key, &self.groups[usize::from(number)], encoding, stored);
        self.out.write_all(stored)?;
        self.out.write_all(&sum.to_le_bytes())?;
        self.entries.extend(row.encode());
        self.offset += stored.len() as u64 + CHECKSUM_LEN as u64;
        self.footer_len += ROW_LEN as u64;
        Ok(())
    }

    fn group_number(&mut self, schema: &Arc<[u8]>, raw_len: u32) -> io::Result<u16> {
        // Rows of one batch follow each other, so it is usually the newest group.
        if let Some(last) = self.groups.last()
            && last.raw_len == raw_len
            && last.schema == *schema
        {
            return Ok((self.groups.len() - 1) as u16);
        }
        if let Some(number) = self.numbers.get(&(schema.clone(), raw_len)) {
            return Ok(*number);
        }
        let number = u16::try_from(self.groups.len()).map_err(io::Error::other)?;
        self.numbers.insert((schema.clone(), raw_len), number);
        self.groups.push(RowGroup::new(schema.clone(), raw_len));
        self.footer_len += (GROUP_HEAD_LEN + schema.len()) as u64;
        Ok(number)
    }

    /// Writes the footer and the trailer.
    pub(crate) fn finish(mut self) -> io::Result<(W, Footer)> {
        let (footer, trailer) = Footer::from_parts(self.groups, &self.entries);
        self.out.write_all(footer.bytes())?;
        self.out.write_all(&trailer.encode(footer.bytes()))?;
        Ok((self.out, footer))
    }
}
