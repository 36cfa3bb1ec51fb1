//! Reading a segment file: from untrusted bytes to rows and records. The reader never repairs and
//! never writes.
//!
//! Opening a segment checks its footer, but keeps only the row groups in memory: the row table is
//! read in pieces, and records in windows, so that a walk over a segment takes a few MB however long
//! the segment is. The index, which needs all rows at once, reads the [`Footer`](super::Footer).

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use super::ends::{Ends, corrupt};
use super::error::SegmentError;
use super::fetch::{RowRequest, check, fetch};
use super::footer::{RowCursor, parse_groups};
use super::format::{CHECKSUM_LEN, ROW_LEN, RowEntry, RowGroup, Trailer};
use super::segment_file::{SegmentFile, read_at};
use crate::fs::{Directory, FileSystem, Metadata, Os};

/// How many entries of the row table are read at once.
const PIECE_ROWS: u64 = 1024;

/// The most rows of a chunk, and the most bytes of their records, unless one row is longer.
const CHUNK_ROWS: usize = 4096;
const CHUNK_BYTES: u64 = 4 << 20;

/// Records are read in windows of this size, or of one record.
const WINDOW_BYTES: u64 = 1 << 20;

/// An open segment whose footer was checked.
#[derive(Debug)]
pub struct SegmentReader {
    source: SegmentFile,
    metadata: Metadata,
    trailer: Trailer,
    groups: Vec<RowGroup>,
}

impl SegmentReader {
    /// Opens and checks a segment; with `mmap`, [`read`](Self::read) uses a memory map.
    ///
    /// # Errors
    /// [`SegmentError`] if the file cannot be read or breaks a rule of the format.
    pub fn open(path: &Path, mmap: bool) -> Result<SegmentReader, SegmentError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename).into());
        };
        // "a.tcs" is in ".".
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        SegmentReader::open_in(&*Os.open_dir(parent, false)?, name, mmap)
    }

    /// The same in an open directory of any file system.
    ///
    /// # Errors
    /// As [`SegmentReader::open`].
    pub fn open_in(
        dir: &dyn Directory,
        name: &OsStr,
        mmap: bool,
    ) -> Result<SegmentReader, SegmentError> {
        let source = SegmentFile::open(dir, name, mmap)?;
        let metadata = source.file().metadata()?;
        let ends = Ends::read(source.file(), metadata.len)?;
        ends.check_in_pieces(source.file())?;
        let trailer = ends.trailer;
        // `Ends` found that this is no more than so many row groups can take.
        let table_len = u64::from(trailer.rows) * ROW_LEN as u64;
        let mut groups = vec![0; (trailer.footer_len - table_len) as usize];
        read_at(source.file(), &mut groups, trailer.footer_offset)?;
        Ok(SegmentReader {
            groups: parse_groups(&groups, &trailer)?,
            source,
            metadata,
            trailer,
        })
    }

    /// The format version of the file.
    pub fn version(&self) -> u32 {
        self.trailer.version
    }

    /// The row groups that rows refer to by number.
    pub fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// How many rows the segment holds.
    pub fn row_count(&self) -> u64 {
        self.trailer.rows.into()
    }

    /// The rows, in the order of their records. Each is checked when it is read; after an error there
    /// are no more rows.
    pub fn rows(&self) -> impl Iterator<Item = Result<RowEntry, SegmentError>> + '_ {
        RowEntries::new(self)
    }

    /// Reads the value of one of this segment's rows. After an error the content of `out`
    /// is unspecified.
    ///
    /// # Errors
    /// [`SegmentError`] if the file fails, the checksum is wrong, `out` is not as long as the
    /// value, or the row cannot be one of this segment's.
    pub fn read(&self, row: &RowEntry, out: &mut [u8]) -> Result<(), SegmentError> {
        let Some(group) = self.groups.get(usize::from(row.group)) else {
            return corrupt(format!("no row group {} in this segment", row.group));
        };
        // The fields of a row are public, so it may hold any numbers.
        let record_len = u64::from(row.stored_len) + CHECKSUM_LEN as u64;
        let end = row.offset.checked_add(record_len);
        if !group.allows(row.encoding, row.stored_len)
            || end.is_none_or(|end| end > self.metadata.len)
        {
            return corrupt(format!(
                "no row of {} bytes at {} in this segment",
                row.stored_len, row.offset
            ));
        }
        if out.len() != group.raw_len as usize {
            return corrupt(format!(
                "a row of {} bytes cannot be read into {} bytes",
                group.raw_len,
                out.len()
            ));
        }
        let mut request = RowRequest {
            tag: (),
            row,
            group,
            out,
            outcome: None,
        };
        fetch(&self.source, std::slice::from_mut(&mut request));
        request
            .outcome
            .unwrap_or_else(|| corrupt("the row was not read".into()))
    }

    /// What the file system knew about the file when it was opened.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The rows in chunks that are worth reading together. After an error there are no more.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Result<Chunk, SegmentError>> + '_ {
        Chunks {
            rows: RowEntries::new(self).enumerate(),
            left_over: None,
        }
    }

    /// Reads the records of a chunk and passes them to `each`, in their order. `window` is memory
    /// to be used again.
    pub(crate) fn read_records<E>(
        &self,
        chunk: &Chunk,
        window: &mut Vec<u8>,
        mut each: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = chunk.rows.last().map_or(0, |(_, row)| row.end());
        let mut window = Window {
            bytes: window,
            begin: 0,
            end,
        };
        window.bytes.clear();
        for (number, row) in &chunk.rows {
            let group = &self.groups[usize::from(row.group)];
            each(Record {
                number: *number,
                row,
                group,
                stored: window.record(&self.source, row, group),
            })?;
        }
        Ok(())
    }
}

/// A record of a segment.
pub(crate) struct Record<'a> {
    /// The number of its row.
    pub(crate) number: u64,
    pub(crate) row: &'a RowEntry,
    pub(crate) group: &'a RowGroup,
    /// The stored bytes, if their checksum is right.
    pub(crate) stored: Result<&'a [u8], SegmentError>,
}

/// A part of the file in memory.
struct Window<'w> {
    /// The bytes of the file from `begin` on.
    bytes: &'w mut Vec<u8>,
    begin: u64,
    /// Nothing is read beyond this.
    end: u64,
}

impl Window<'_> {
    /// The stored bytes of a record that lies before `end`.
    fn record(
        &mut self,
        source: &SegmentFile,
        row: &RowEntry,
        group: &RowGroup,
    ) -> Result<&[u8], SegmentError> {
        if row.end() > self.begin + self.bytes.len() as u64 {
            // The row was checked against the length of the file, so the window is no longer.
            let end = row.end().max((row.offset + WINDOW_BYTES).min(self.end));
            self.begin = row.offset;
            self.bytes.resize((end - row.offset) as usize, 0);
            read_at(source.file(), self.bytes, row.offset).inspect_err(|_| self.bytes.clear())?;
        }
        let record = &self.bytes[(row.offset - self.begin) as usize..];
        let (stored, rest) = record.split_at(row.stored_len as usize);
        let sum: [u8; CHECKSUM_LEN] = std::array::from_fn(|i| rest[i]);
        check(row, group, stored, sum)?;
        Ok(stored)
    }
}

/// A walk over the row table, in pieces.
struct RowEntries<'r> {
    reader: &'r SegmentReader,
    cursor: RowCursor,
    /// Entries of the table from row `piece_at` on.
    piece: Vec<u8>,
    piece_at: u64,
    is_over: bool,
}

impl<'r> RowEntries<'r> {
    fn new(reader: &'r SegmentReader) -> RowEntries<'r> {
        RowEntries {
            reader,
            cursor: RowCursor::new(),
            piece: Vec::new(),
            piece_at: 0,
            is_over: false,
        }
    }

    fn load(&mut self) -> Result<RowEntry, SegmentError> {
        let SegmentReader {
            source,
            trailer,
            groups,
            ..
        } = self.reader;
        let next = self.cursor.next;
        let mut at = (next - self.piece_at) as usize * ROW_LEN;
        if at >= self.piece.len() {
            let left = u64::from(trailer.rows) - next;
            self.piece
                .resize(PIECE_ROWS.min(left) as usize * ROW_LEN, 0);
            let begin = trailer.footer_offset + trailer.footer_len - left * ROW_LEN as u64;
            read_at(source.file(), &mut self.piece, begin)?;
            (self.piece_at, at) = (next, 0);
        }
        let entry: &[u8; ROW_LEN] = self.piece[at..]
            .first_chunk()
            .expect("a piece consists of whole entries");
        self.cursor.decode(entry, groups, trailer)
    }
}

impl Iterator for RowEntries<'_> {
    type Item = Result<RowEntry, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let count = self.reader.row_count();
        if self.cursor.next == count {
            // There are no rows, so there must be no records.
            self.is_over = true;
            return self.cursor.check_end(&self.reader.trailer).err().map(Err);
        }
        let mut row = self.load();
        if self.cursor.next == count
            && let Err(error) = self.cursor.check_end(&self.reader.trailer)
        {
            row = Err(error);
        }
        self.is_over = row.is_err() || self.cursor.next == count;
        Some(row)
    }
}

/// Rows that follow each other in a segment.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The rows with their numbers.
    pub(crate) rows: Vec<(u64, RowEntry)>,
}

impl Chunk {
    /// How many bytes of the file their records take.
    pub(crate) fn bytes(&self) -> u64 {
        let ends = self.rows.first().zip(self.rows.last());
        ends.map_or(0, |((_, first), (_, last))| last.end() - first.offset)
    }
}

/// A walk over the row table in chunks.
struct Chunks<'r> {
    rows: std::iter::Enumerate<RowEntries<'r>>,
    /// The first row of the next chunk.
    left_over: Option<(u64, RowEntry)>,
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rows: Vec<_> = self.left_over.take().into_iter().collect();
        for (number, row) in self.rows.by_ref() {
            let row = match row {
                Ok(row) => (number as u64, row),
                Err(error) => return Some(Err(error)),
            };
            let begin = rows.first().map_or(row.1.offset, |(_, first)| first.offset);
            let is_long = row.1.end() - begin > CHUNK_BYTES && !rows.is_empty();
            if is_long || rows.len() == CHUNK_ROWS {
                self.left_over = Some(row);
                break;
            }
            rows.push(row);
        }
        (!rows.is_empty()).then_some(Ok(Chunk { rows }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Encoding, Footer, SegmentWriter};
    use super::*;
    use crate::fs::{FileSystem, Os};

    /// Writes a segment with values of these lengths, in two row groups.
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
    fn rows_are_those_of_the_footer_and_chunks_are_bounded() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = Os.open_dir(temp.path(), false).expect("it exists");
        let long = CHUNK_BYTES as usize + 1;
        let many: Vec<usize> = (0..2 * CHUNK_ROWS + 500).map(|n| n % 7).collect();
        for lengths in [&[][..], &[0], &[5, 6, 7], &many, &[1, long, 1, long, long]] {
            let name = written(&dir, lengths);
            let (footer, _) = Footer::read(&*dir, &name).expect("it is sound");
            let reader = SegmentReader::open_in(&*dir, &name, false).expect("it is sound");
            let rows: Result<Vec<_>, _> = reader.rows().collect();
            let expected: Vec<_> = footer.rows().collect();
            assert_eq!(rows.expect("they are sound"), expected);

            let mut window = Vec::new();
            let mut seen = 0;
            for chunk in reader.chunks() {
                let chunk = chunk.expect("it is sound");
                let is_single = chunk.rows.len() == 1;
                assert!(
                    is_single || chunk.bytes() <= CHUNK_BYTES,
                    "{}",
                    chunk.bytes()
                );
                let read = reader.read_records(&chunk, &mut window, |record| {
                    assert_eq!(record.number, seen);
                    assert_eq!(*record.row, expected[seen as usize]);
                    assert_eq!(*record.group.schema, [b'a' + (seen % 2) as u8]);
                    let stored = record.stored?;
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
    fn reader_and_footer_refuse_the_same_files() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = Os.open_dir(temp.path(), false).expect("it exists");
        let name = written(&dir, &[3, 4, 5]);
        let path = temp.path().join(&name);
        let sound = std::fs::read(&path).expect("it can be read");
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).expect("it can be written");
            let whole = Footer::read(&*dir, &name);
            let reader = SegmentReader::open_in(&*dir, &name, false)
                .and_then(|reader| reader.rows().collect::<Result<Vec<_>, _>>());
            assert_eq!(whole.is_ok(), reader.is_ok(), "byte {at}: {reader:?}");
        }
        for len in 0..sound.len() {
            std::fs::write(&path, &sound[..len]).expect("it can be written");
            let opened = SegmentReader::open_in(&*dir, &name, false);
            assert!(opened.is_err(), "{len} bytes");
        }
    }
}
