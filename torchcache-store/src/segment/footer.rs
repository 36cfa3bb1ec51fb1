//! The footer of a segment: which rows it holds, and what they share. Kept as the bytes of
//! the file, so that opening a store of a million rows allocates once for each segment.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use super::error::SegmentError;
use super::format::{
    GROUP_HEAD_LEN, HEADER_LEN, MAX_DATA, MAX_GROUPS, MAX_SCHEMA, ROW_LEN, Row, RowGroup, Trailer,
    VERSION,
};

/// The table of contents of a segment, checked.
#[derive(Debug)]
pub struct Footer {
    groups: Vec<RowGroup>,
    /// The footer as it is in the file; rows begin at `rows_at`.
    bytes: Bytes,
    rows_at: usize,
    version: u32,
}

/// The bytes of a footer. Those of many rows that are read lie in pages of their own, which go back to
/// the system with them: an allocator would keep them, as much as all of a small index takes.
#[derive(Debug)]
pub(super) enum Bytes {
    Heap(Vec<u8>),
    Pages(MmapMut),
}

/// From this length on a footer has pages of its own.
const PAGES: usize = 1 << 20;

impl Bytes {
    /// Zeros, to be read into.
    pub(super) fn zeroed(len: usize) -> io::Result<Self> {
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

impl Footer {
    /// The schemas and lengths that rows refer to by number.
    pub fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// How many rows the segment holds.
    pub fn row_count(&self) -> usize {
        (self.bytes.len() - self.rows_at) / ROW_LEN
    }

    /// The rows, in the order of their records.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let (entries, _) = self.bytes[self.rows_at..].as_chunks::<ROW_LEN>();
        let mut offset = HEADER_LEN as u64;
        entries.iter().map_while(move |entry| {
            let row = Row::decode(entry, offset, self.version)?;
            offset = row.end();
            Some(row)
        })
    }

    /// The footer of a segment that this process wrote, from the writer's own tables.
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

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks the footer of a file against its trailer, whose checksum was found right.
    /// Nothing is allocated for what a length merely claims: each is first compared with
    /// the bytes that are there.
    pub(super) fn parse(bytes: Bytes, trailer: &Trailer) -> Result<Footer, SegmentError> {
        let corrupt = |what: String| Err(SegmentError::Corrupt(what));
        let (groups, rest) = parse_groups(&bytes, trailer)?;
        if rest.len() as u64 != u64::from(trailer.rows) * ROW_LEN as u64 {
            return corrupt(format!(
                "{} bytes of row table for {} rows",
                rest.len(),
                trailer.rows
            ));
        }
        let rows_at = bytes.len() - rest.len();
        let footer = Footer {
            groups,
            bytes,
            rows_at,
            version: trailer.version,
        };
        footer.check_rows(trailer)?;
        Ok(footer)
    }

    /// Every entry must be well formed, and the records must fill the space between header
    /// and footer exactly.
    fn check_rows(&self, trailer: &Trailer) -> Result<(), SegmentError> {
        let mut seen = 0;
        let mut end = HEADER_LEN as u64;
        for row in self.rows() {
            end = row.end();
            if !fits(&row, &self.groups, trailer) {
                return Err(misfit(seen));
            }
            seen += 1;
        }
        if seen != self.row_count() {
            return Err(unknown_storage(seen));
        }
        check_end(end, trailer)
    }
}

/// Whether a row has a group that is there, and its record a place before the footer.
pub(super) fn fits(row: &Row, groups: &[RowGroup], trailer: &Trailer) -> bool {
    let group = groups.get(usize::from(row.group));
    group.is_some_and(|group| group.allows(row.encoding, row.stored_len))
        && row.end() <= trailer.footer_offset
        && row.end() <= MAX_DATA
}

pub(super) fn misfit(row: usize) -> SegmentError {
    SegmentError::Corrupt(format!("row {row} does not fit its segment"))
}

pub(super) fn unknown_storage(row: usize) -> SegmentError {
    SegmentError::Corrupt(format!("row {row} is stored in an unknown way"))
}

/// The records must fill the space before the footer.
pub(super) fn check_end(end: u64, trailer: &Trailer) -> Result<(), SegmentError> {
    if end == trailer.footer_offset {
        return Ok(());
    }
    Err(SegmentError::Corrupt(format!(
        "records end at {end}, but the footer begins at {}",
        trailer.footer_offset
    )))
}

/// The groups at the beginning of `bytes`, as many as the trailer says, and what follows them.
pub(super) fn parse_groups<'b>(
    bytes: &'b [u8],
    trailer: &Trailer,
) -> Result<(Vec<RowGroup>, &'b [u8]), SegmentError> {
    let corrupt = |what: String| Err(SegmentError::Corrupt(what));
    let count = trailer.groups as usize;
    if count > MAX_GROUPS || count.saturating_mul(GROUP_HEAD_LEN) > bytes.len() {
        return corrupt(format!(
            "a footer of {} bytes claims {count} groups",
            bytes.len()
        ));
    }
    let mut groups = Vec::with_capacity(count);
    let mut rest = bytes;
    for _ in 0..count {
        let Some((group, after)) = parse_group(rest) else {
            return corrupt("the group table does not fit its footer".into());
        };
        groups.push(group);
        rest = after;
    }
    Ok((groups, rest))
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
