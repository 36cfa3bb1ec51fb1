//! The footer of a segment: which rows it holds, and what they share. Kept as the bytes of
//! the file, so that opening a store of a million rows allocates once for each segment.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use super::format::{
    CLASS_HEAD_LEN, Class, HEADER_LEN, MAX_CLASSES, MAX_DATA, MAX_SCHEMA, ROW_LEN, Row, Trailer,
    VERSION,
};
use super::reader::Unreadable;

/// The table of contents of a segment, checked.
#[derive(Debug)]
pub struct Footer {
    classes: Vec<Class>,
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
    pub fn classes(&self) -> &[Class] {
        &self.classes
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
    pub(super) fn from_parts(classes: Vec<Class>, entries: &[u8]) -> (Footer, Trailer) {
        let mut bytes = Vec::with_capacity(entries.len() + 64);
        for class in &classes {
            class.encode(&mut bytes);
        }
        let rows_at = bytes.len();
        bytes.extend_from_slice(entries);
        let footer = Footer {
            classes,
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
            classes: footer.classes.len() as u32,
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
    pub(super) fn parse(bytes: Bytes, trailer: &Trailer) -> Result<Footer, Unreadable> {
        let corrupt = |what: String| Err(Unreadable::Corrupt(what));
        let (classes, rest) = parse_classes(&bytes, trailer)?;
        if rest.len() as u64 != u64::from(trailer.rows) * ROW_LEN as u64 {
            return corrupt(format!(
                "{} bytes of row table for {} rows",
                rest.len(),
                trailer.rows
            ));
        }
        let rows_at = bytes.len() - rest.len();
        let footer = Footer {
            classes,
            bytes,
            rows_at,
            version: trailer.version,
        };
        footer.check_rows(trailer)?;
        Ok(footer)
    }

    /// Every entry must be well formed, and the records must fill the space between header
    /// and footer exactly.
    fn check_rows(&self, trailer: &Trailer) -> Result<(), Unreadable> {
        let mut seen = 0;
        let mut end = HEADER_LEN as u64;
        for row in self.rows() {
            end = row.end();
            if !fits(&row, &self.classes, trailer) {
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

/// Whether a row has a class that is there, and its record a place before the footer.
pub(super) fn fits(row: &Row, classes: &[Class], trailer: &Trailer) -> bool {
    let class = classes.get(usize::from(row.class));
    class.is_some_and(|class| class.allows(row.storage, row.stored_len))
        && row.end() <= trailer.footer_offset
        && row.end() <= MAX_DATA
}

pub(super) fn misfit(row: usize) -> Unreadable {
    Unreadable::Corrupt(format!("row {row} does not fit its segment"))
}

pub(super) fn unknown_storage(row: usize) -> Unreadable {
    Unreadable::Corrupt(format!("row {row} is stored in an unknown way"))
}

/// The records must fill the space before the footer.
pub(super) fn check_end(end: u64, trailer: &Trailer) -> Result<(), Unreadable> {
    if end == trailer.footer_offset {
        return Ok(());
    }
    Err(Unreadable::Corrupt(format!(
        "records end at {end}, but the footer begins at {}",
        trailer.footer_offset
    )))
}

/// The classes at the beginning of `bytes`, as many as the trailer says, and what follows them.
pub(super) fn parse_classes<'b>(
    bytes: &'b [u8],
    trailer: &Trailer,
) -> Result<(Vec<Class>, &'b [u8]), Unreadable> {
    let corrupt = |what: String| Err(Unreadable::Corrupt(what));
    let count = trailer.classes as usize;
    if count > MAX_CLASSES || count.saturating_mul(CLASS_HEAD_LEN) > bytes.len() {
        return corrupt(format!(
            "a footer of {} bytes claims {count} classes",
            bytes.len()
        ));
    }
    let mut classes = Vec::with_capacity(count);
    let mut rest = bytes;
    for _ in 0..count {
        let Some((class, after)) = parse_class(rest) else {
            return corrupt("the class table does not fit its footer".into());
        };
        classes.push(class);
        rest = after;
    }
    Ok((classes, rest))
}

fn parse_class(bytes: &[u8]) -> Option<(Class, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<CLASS_HEAD_LEN>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let raw_len = u32::from_le_bytes([a, b, c, d]);
    let schema_len = u32::from_le_bytes([e, f, g, h]) as usize;
    if schema_len > MAX_SCHEMA {
        return None;
    }
    let (schema, rest) = rest.split_at_checked(schema_len)?;
    Some((Class::new(Arc::from(schema), raw_len), rest))
}
