//! The row table of a segment, walked by pieces: for whoever goes through all rows once, in the same
//! little memory however many there are. A store, which needs all of them at once, reads the
//! [`Footer`](super::Footer) whole.

use std::ffi::OsStr;
use std::ops::Deref;

use super::error::SegmentError;
use super::footer::{check_end, fits, misfit, parse_groups, unknown_storage};
use super::format::{
    GROUP_HEAD_LEN, HEADER_LEN, MAX_GROUPS, MAX_SCHEMA, ROW_LEN, Row, RowGroup, Trailer,
};
use super::reader::{Ends, read_at};
use super::records::{Record, Records};
use super::source::Source;
use crate::fs::{Directory, Metadata};

/// Rows whose entries are read at once.
const PIECE_ROWS: u64 = 1024;

/// Rows of a chunk, and bytes of their records, unless one row is longer.
const CHUNK_ROWS: usize = 4096;
const CHUNK_BYTES: u64 = 4 << 20;

/// An open segment, its footer checked, its row table still in the file.
#[derive(Debug)]
pub(crate) struct Table {
    source: Source,
    metadata: Metadata,
    trailer: Trailer,
    groups: Vec<RowGroup>,
}

/// Rows that follow each other in a segment.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The place of the first one in the row table.
    pub(crate) first: u64,
    pub(crate) rows: Vec<Row>,
}

impl Chunk {
    /// Bytes of the file that the records take.
    pub(crate) fn bytes(&self) -> u64 {
        let ends = self.rows.first().zip(self.rows.last());
        ends.map_or(0, |(first, last)| last.end() - first.offset)
    }
}

/// What both ends of a segment say, unchecked: its version and how many rows it has.
pub(crate) fn claimed(dir: &dyn Directory, name: &OsStr) -> Result<(u32, u64), SegmentError> {
    let file = dir.open(name)?;
    let ends = Ends::read(&*file, file.metadata()?.len)?;
    Ok((ends.trailer.version, ends.trailer.rows.into()))
}

impl Table {
    /// Opens a segment and checks its footer.
    pub(crate) fn open(dir: &dyn Directory, name: &OsStr) -> Result<Table, SegmentError> {
        let source = Source::open(dir, name, false)?;
        let metadata = source.file().metadata()?;
        let ends = Ends::read(source.file(), metadata.len)?;
        ends.check_by_pieces(source.file())?;
        let trailer = ends.trailer;
        let table_len = u64::from(trailer.rows) * ROW_LEN as u64;
        let groups_len = trailer.footer_len.checked_sub(table_len);
        // No more is held than so many groups can take.
        let most = (trailer.groups as usize).min(MAX_GROUPS) * (GROUP_HEAD_LEN + MAX_SCHEMA);
        let groups_len = groups_len.and_then(|len| usize::try_from(len).ok());
        let groups_len = groups_len.filter(|len| *len <= most);
        let Some(groups_len) = groups_len else {
            return Err(SegmentError::Corrupt(format!(
                "a footer of {} bytes cannot hold {} rows of {} groups, and nothing else",
                trailer.footer_len, trailer.rows, trailer.groups
            )));
        };
        let mut bytes = vec![0; groups_len];
        read_at(source.file(), &mut bytes, trailer.footer_offset)?;
        let (groups, rest) = parse_groups(&bytes, &trailer)?;
        if !rest.is_empty() {
            return Err(SegmentError::Corrupt(format!(
                "{} bytes between groups and rows",
                rest.len()
            )));
        }
        Ok(Table {
            source,
            metadata,
            trailer,
            groups,
        })
    }

    /// What was known of the file when it was opened.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn version(&self) -> u32 {
        self.trailer.version
    }

    pub(crate) fn row_count(&self) -> u64 {
        self.trailer.rows.into()
    }

    pub(crate) fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// The rows, in the order of their records; an error is the last.
    pub(crate) fn rows(&self) -> Rows<&Table> {
        Rows::of(self)
    }

    /// The same, several at a time: so many as are worth being read together.
    pub(crate) fn chunks(&self) -> Chunks<&Table> {
        Chunks::of(self)
    }

    /// Bytes of the file that are records.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.trailer.footer_offset - HEADER_LEN as u64
    }

    /// Reads the records of a chunk: `each` gets the place of each row, the row, its group, and its
    /// stored bytes if the checksum is right. `window` is memory to be used again.
    pub(crate) fn read<E>(
        &self,
        chunk: &Chunk,
        window: &mut Vec<u8>,
        mut each: impl FnMut(u64, Record<'_, '_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = chunk.rows.last().map_or(0, Row::end);
        let rows = chunk.rows.iter().copied();
        let memory = std::mem::take(window);
        let mut records = Records::over(&self.source, &self.groups, rows, end, memory);
        let mut place = chunk.first;
        while let Some(record) = records.next() {
            each(place, record)?;
            place += 1;
        }
        *window = records.into_window();
        Ok(())
    }
}

/// A walk over the row table.
pub(crate) struct Rows<T> {
    table: T,
    /// Entries of the table from row `piece_at` on.
    piece: Vec<u8>,
    piece_at: u64,
    /// The number of the next row; beyond the last once all is over.
    next: u64,
    offset: u64,
}

impl<T: Deref<Target = Table>> Rows<T> {
    fn of(table: T) -> Rows<T> {
        Rows {
            table,
            piece: Vec::new(),
            piece_at: 0,
            next: 0,
            offset: HEADER_LEN as u64,
        }
    }

    fn load(&mut self) -> Result<Row, SegmentError> {
        let Table {
            source,
            trailer,
            groups,
            ..
        } = &*self.table;
        let mut at = (self.next - self.piece_at) as usize * ROW_LEN;
        if at >= self.piece.len() {
            let rows = u64::from(trailer.rows);
            let count = PIECE_ROWS.min(rows - self.next);
            self.piece.resize(count as usize * ROW_LEN, 0);
            let table_len = (rows - self.next) * ROW_LEN as u64;
            let begin = trailer.footer_offset + trailer.footer_len - table_len;
            read_at(source.file(), &mut self.piece, begin)?;
            (self.piece_at, at) = (self.next, 0);
        }
        let number = self.next as usize;
        let entry = self.piece[at..].first_chunk();
        let row = entry.and_then(|entry| Row::decode(entry, self.offset, trailer.version));
        let row = row.ok_or_else(|| unknown_storage(number))?;
        if !fits(&row, groups, trailer) {
            return Err(misfit(number));
        }
        self.offset = row.end();
        if self.next + 1 == u64::from(trailer.rows) {
            check_end(self.offset, trailer)?;
        }
        Ok(row)
    }
}

impl<T: Deref<Target = Table>> Iterator for Rows<T> {
    type Item = Result<Row, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.table.row_count();
        if self.next >= rows {
            // Records without a row are no less wrong than a row without its record.
            let is_empty = rows == 0 && self.next == 0;
            self.next = u64::MAX;
            let ends = check_end(self.offset, &self.table.trailer);
            return is_empty.then_some(ends.err()).flatten().map(Err);
        }
        let row = self.load();
        self.next = match row {
            Ok(_) => self.next + 1,
            Err(_) => u64::MAX,
        };
        Some(row)
    }
}

/// A walk over the row table by chunks.
pub(crate) struct Chunks<T> {
    rows: Rows<T>,
    left_over: Option<Row>,
    next: u64,
}

impl<T: Deref<Target = Table>> Chunks<T> {
    pub(crate) fn of(table: T) -> Chunks<T> {
        Chunks {
            rows: Rows::of(table),
            left_over: None,
            next: 0,
        }
    }
}

impl<T: Deref<Target = Table>> Iterator for Chunks<T> {
    type Item = Result<Chunk, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Chunk {
            first: self.next,
            rows: self.left_over.take().into_iter().collect(),
        };
        for row in self.rows.by_ref() {
            let row = match row {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            let begin = chunk.rows.first().map_or(row.offset, |first| first.offset);
            if chunk.rows.len() == CHUNK_ROWS
                || (row.end() - begin > CHUNK_BYTES && !chunk.rows.is_empty())
            {
                self.left_over = Some(row);
                break;
            }
            chunk.rows.push(row);
        }
        self.next += chunk.rows.len() as u64;
        (!chunk.rows.is_empty()).then_some(Ok(chunk))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Encoding, SegmentFile, SegmentWriter};
    use super::*;
    use crate::fs::{FileSystem, Os};

    /// A segment of these value lengths, in two groups.
    fn written(dir: &Arc<dyn Directory>, lengths: &[usize]) -> std::ffi::OsString {
        let mut writer = SegmentWriter::create_in(dir.clone()).expect("it can be made");
        for (n, &len) in lengths.iter().enumerate() {
            let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
            let schema: Arc<[u8]> = [b'a' + (n % 2) as u8].as_slice().into();
            let value = vec![n as u8; len];
            let pushed = writer.push(&key, &schema, len as u32, Encoding::Raw, &value);
            pushed.expect("it is written");
        }
        let path = writer.finish().and_then(|finished| finished.publish());
        let path = path.expect("it is written");
        path.file_name().expect("it has one").to_owned()
    }

    #[test]
    fn the_rows_by_pieces_are_those_of_the_footer_and_their_records_come_in_chunks() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = Os.open_dir(temp.path(), false).expect("it is there");
        let long = CHUNK_BYTES as usize + 1;
        let many: Vec<usize> = (0..2 * CHUNK_ROWS + 500).map(|n| n % 7).collect();
        for lengths in [&[][..], &[0], &[5, 6, 7], &many, &[1, long, 1, long, long]] {
            let name = written(&dir, lengths);
            let whole = SegmentFile::open_in(&*dir, &name, false).expect("it is sound");
            let table = Table::open(&*dir, &name).expect("it is sound");
            let rows: Result<Vec<_>, _> = table.rows().collect();
            let expected: Vec<_> = whole.footer().rows().collect();
            assert_eq!(rows.expect("they are sound"), expected);

            let mut window = Vec::new();
            let mut seen = 0;
            for chunk in table.chunks() {
                let chunk = chunk.expect("it is sound");
                let least = chunk.rows.len() == 1;
                assert!(least || chunk.bytes() <= CHUNK_BYTES, "{}", chunk.bytes());
                let read = table.read(&chunk, &mut window, |place, (row, group, stored)| {
                    assert_eq!((place, row), (seen, expected[seen as usize]));
                    assert_eq!(*group.schema, [b'a' + (seen % 2) as u8]);
                    let stored = stored?;
                    assert!(stored.iter().all(|&byte| byte == seen as u8));
                    assert_eq!(stored.len(), lengths[seen as usize]);
                    seen += 1;
                    Ok::<(), SegmentError>(())
                });
                read.expect("the records are sound");
            }
            assert_eq!(seen as usize, lengths.len());
        }
    }

    #[test]
    fn a_footer_that_the_whole_reader_refuses_is_refused_here_too() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = Os.open_dir(temp.path(), false).expect("it is there");
        let name = written(&dir, &[3, 4, 5]);
        let path = temp.path().join(&name);
        let sound = std::fs::read(&path).expect("it is there");
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).expect("it can be written");
            let whole = SegmentFile::open_in(&*dir, &name, false);
            let pieces = Table::open(&*dir, &name).and_then(|table| {
                let rows: Result<Vec<_>, _> = table.rows().collect();
                rows
            });
            assert_eq!(whole.is_ok(), pieces.is_ok(), "byte {at}: {pieces:?}");
        }
        for len in 0..sound.len() {
            std::fs::write(&path, &sound[..len]).expect("it can be written");
            assert!(Table::open(&*dir, &name).is_err(), "{len} bytes");
        }
    }
}
