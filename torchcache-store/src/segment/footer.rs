//! The footer of a segment in memory: which rows the segment holds, and what they share. The index
//! is filled from it. It stays in the bytes of the file, so that opening a store of a million rows
//! allocates once for each segment.

use std::ffi::OsStr;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use super::ends::{Ends, PIECE, corrupt};
use super::error::SegmentError;
use super::format::{
    GROUP_HEAD_LEN, HEADER_LEN, MAX_DATA, MAX_SCHEMA, ROW_LEN, RowEntry, RowGroup, TRAILER_LEN,
    Trailer, VERSION,
};
use super::segment_file::read_at;
use crate::fs::{Directory, Metadata};

/// The row groups and the row table of a segment, checked.
#[derive(Debug)]
pub struct Footer {
    groups: Vec<RowGroup>,
    /// The footer as it is in the file; the row table begins at `rows_at`.
    bytes: Bytes,
    rows_at: usize,
    version: u32,
}

impl Footer {
    /// Reads the footer of a segment file, and what the file system knows about the file. Needs as
    /// much memory as the footer has bytes, all of it allocated after the checksum was found right
    /// (but for the first MiB).
    ///
    /// # Errors
    /// [`SegmentError`] if the file cannot be read or breaks a rule of the format.
    pub fn read(dir: &dyn Directory, name: &OsStr) -> Result<(Footer, Metadata), SegmentError> {
        let file = dir.open(name)?;
        let metadata = file.metadata()?;
        let ends = Ends::read(&*file, metadata.len)?;
        let Ok(len) = usize::try_from(ends.trailer.footer_len) else {
            return corrupt("the footer does not fit into memory".into());
        };
        if len > PIECE {
            ends.check_in_pieces(&*file)?;
        }
        let mut bytes = Bytes::zeroed(len)?;
        read_at(&*file, &mut bytes, ends.trailer.footer_offset)?;
        // These bytes are used, so these are checked, even if it is the second time.
        ends.check(&bytes)?;
        Ok((Footer::parse(bytes, &ends.trailer)?, metadata))
    }

    /// Checks the end of a segment of `len` bytes, which must be the footer and the trailer and nothing else.
    pub(crate) fn from_tail(tail: &[u8], len: u64) -> Result<Footer, SegmentError> {
        let Some((footer, trailer)) = tail.split_last_chunk::<TRAILER_LEN>() else {
            return Err(SegmentError::Truncated(format!(
                "its end has {} bytes",
                tail.len()
            )));
        };
        let ends = Ends::of_tail(*trailer, len)?;
        if ends.trailer.footer_len != footer.len() as u64 {
            return corrupt(format!(
                "its footer has {} bytes, not {}",
                ends.trailer.footer_len,
                footer.len()
            ));
        }
        ends.check(footer)?;
        Footer::parse(Bytes::Heap(footer.to_vec()), &ends.trailer)
    }

    /// Checks a footer whose checksum was found right.
    fn parse(bytes: Bytes, trailer: &Trailer) -> Result<Footer, SegmentError> {
        let rows_at = bytes.len() - trailer.rows as usize * ROW_LEN;
        let (groups, entries) = bytes.split_at(rows_at);
        let groups = parse_groups(groups, trailer)?;
        let mut cursor = RowCursor::new();
        let (entries, _) = entries.as_chunks();
        for entry in entries {
            cursor.decode(entry, &groups, trailer)?;
        }
        cursor.check_end(trailer)?;
        Ok(Footer {
            groups,
            bytes,
            rows_at,
            version: trailer.version,
        })
    }

    /// The footer of a segment that this process wrote, and its trailer.
    pub(super) fn from_parts(groups: Vec<RowGroup>, entries: &[u8]) -> (Footer, Trailer) {
        let mut bytes = Vec::with_capacity(entries.len() + 64);
        for group in &groups {
            group.encode(&mut bytes);
        }
        let rows_at = bytes.len();
        bytes.extend_from_slice(entries);
        let footer = Footer {
            groups,
            bytes: Bytes::Heap(bytes),
            rows_at,
            version: VERSION,
        };
        let trailer = Trailer {
            footer_offset: footer
                .rows()
                .last()
                .map_or(HEADER_LEN as u64, |row| row.end()),
            footer_len: footer.bytes.len() as u64,
            rows: footer.row_count() as u32,
            groups: footer.groups.len() as u32,
            version: VERSION,
        };
        (footer, trailer)
    }

    /// The format version of the segment.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The row groups that rows refer to by number.
    pub fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// How many rows the segment holds.
    pub fn row_count(&self) -> usize {
        (self.bytes.len() - self.rows_at) / ROW_LEN
    }

    /// The rows, in the order of their records.
    pub fn rows(&self) -> impl Iterator<Item = RowEntry> + '_ {
        let (entries, _) = self.bytes[self.rows_at..].as_chunks::<ROW_LEN>();
        let mut offset = HEADER_LEN as u64;
        entries.iter().map_while(move |entry| {
            let row = RowEntry::decode(entry, offset, self.version)?;
            offset = row.end();
            Some(row)
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Parses the row groups, which must fill `bytes` and be as many as the trailer says.
pub(super) fn parse_groups(
    mut bytes: &[u8],
    trailer: &Trailer,
) -> Result<Vec<RowGroup>, SegmentError> {
    // `Ends` found that so many heads fit into the footer.
    let mut groups = Vec::with_capacity(trailer.groups as usize);
    for _ in 0..trailer.groups {
        let Some((group, rest)) = parse_group(bytes) else {
            return corrupt("the row groups do not fit the footer".into());
        };
        groups.push(group);
        bytes = rest;
    }
    match bytes.len() {
        0 => Ok(groups),
        left => corrupt(format!("{left} bytes between row groups and rows")),
    }
}

fn parse_group(bytes: &[u8]) -> Option<(RowGroup, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<GROUP_HEAD_LEN>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let raw_len = u32::from_le_bytes([a, b, c, d]);
    let schema_len = u32::from_le_bytes([e, f, g, h]) as usize;
    if schema_len > MAX_SCHEMA {
        return None;
    }
    let (schema, rest) = rest.split_at_checked(schema_len)?;
    Some((RowGroup::new(Arc::from(schema), raw_len), rest))
}

/// Decodes the entries of a row table in order, and checks each against the rest of the segment.
pub(super) struct RowCursor {
    /// The number of the next row.
    pub(super) next: u64,
    /// Where its record begins.
    offset: u64,
}

impl RowCursor {
    pub(super) fn new() -> RowCursor {
        RowCursor {
            next: 0,
            offset: HEADER_LEN as u64,
        }
    }

    /// The row of the next entry. Its row group exists, and its record lies before the footer.
    pub(super) fn decode(
        &mut self,
        entry: &[u8; ROW_LEN],
        groups: &[RowGroup],
        trailer: &Trailer,
    ) -> Result<RowEntry, SegmentError> {
        let number = self.next;
        let Some(row) = RowEntry::decode(entry, self.offset, trailer.version) else {
            return corrupt(format!("row {number} has an unknown encoding"));
        };
        let group = groups.get(usize::from(row.group));
        let fits = group.is_some_and(|group| group.allows(row.encoding, row.stored_len))
            && row.end() <= trailer.footer_offset
            && row.end() <= MAX_DATA;
        if !fits {
            return corrupt(format!("row {number} does not fit its segment"));
        }
        self.next += 1;
        self.offset = row.end();
        Ok(row)
    }

    /// Checks, after the last row, that the records fill the space before the footer.
    pub(super) fn check_end(&self, trailer: &Trailer) -> Result<(), SegmentError> {
        if self.offset == trailer.footer_offset {
            return Ok(());
        }
        corrupt(format!(
            "records end at {}, but the footer begins at {}",
            self.offset, trailer.footer_offset
        ))
    }
}

/// The bytes of a footer.
#[derive(Debug)]
enum Bytes {
    Heap(Vec<u8>),
    /// Long footers have pages of their own, which go back to the system when they are dropped. An
    /// allocator would keep them, and they can be as large as the index of a small store.
    Pages(MmapMut),
}

/// From this length on a footer has pages of its own.
const PAGES: usize = 1 << 20;

impl Bytes {
    fn zeroed(len: usize) -> io::Result<Self> {
        match len {
            PAGES.. => MmapMut::map_anon(len).map(Bytes::Pages),
            _ => Ok(Bytes::Heap(vec![0; len])),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Heap(bytes) => bytes,
            Bytes::Pages(bytes) => bytes,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Bytes::Heap(bytes) => bytes,
            Bytes::Pages(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Encoding, SegmentBuilder};
    use super::*;

    /// A segment of two rows, and how many bytes of it are footer and trailer.
    fn segment() -> (Vec<u8>, usize) {
        let mut builder = SegmentBuilder::new(Vec::new()).expect("memory takes it");
        for key in [[1; 32], [2; 32]] {
            let pushed = builder.push(&key, &b"schema"[..].into(), 3, Encoding::Raw, b"row");
            pushed.expect("memory takes it");
        }
        let (bytes, footer) = builder.finish().expect("memory takes it");
        (bytes, footer.bytes().len() + TRAILER_LEN)
    }

    #[test]
    fn the_end_of_a_segment_is_enough_for_its_footer() {
        let (bytes, tail) = segment();
        let (len, at) = (bytes.len() as u64, bytes.len() - tail);
        let footer = Footer::from_tail(&bytes[at..], len).expect("it is sound");
        let rows: Vec<_> = footer.rows().map(|row| (row.key[0], row.offset)).collect();
        assert_eq!(rows, [(1, 16), (2, 27)]);
        for (from, len) in [(at - 1, len), (at + 1, len), (at, len - 1), (at, len + 1)] {
            let bad = Footer::from_tail(&bytes[from..], len);
            assert!(bad.is_err(), "{from} of {len}");
        }
        for flipped in at..bytes.len() {
            let mut bad = bytes[at..].to_vec();
            bad[flipped - at] ^= 4;
            assert!(Footer::from_tail(&bad, len).is_err(), "byte {flipped}");
        }
        assert!(Footer::from_tail(&[], len).is_err());
    }
}
