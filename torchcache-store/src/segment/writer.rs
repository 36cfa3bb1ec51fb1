//! Writing a segment: under a temporary name, synced, then renamed. A segment that is not finished
//! leaves nothing behind; after a kill, its temporary file.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::builder::SegmentBuilder;
use super::footer::Footer;
use super::format::{Encoding, VERSION, header};
use crate::fs::temp_file::TempFile;
use crate::fs::{Directory, File, FileSystem, Metadata, Os};
use crate::key::Key;
use crate::progress;

/// The size of writes. It decides in what units the page cache holds the file, and so how fast the
/// file is read: a third as fast if rows of 3 KiB are written one by one (in units of 4 KiB), three
/// quarters as fast with rows of 196 KiB.
const WRITE_BYTES: usize = 1 << 20;

/// After so many bytes the disk is waited for, so that no sync takes long on a disk that is slow.
const PART_BYTES: usize = 4 << 20;

/// A segment that is being written. Dropping it removes its file.
#[derive(Debug)]
pub struct SegmentWriter {
    builder: SegmentBuilder<BufWriter<PartWriter>>,
    temp: TempFile,
}

impl SegmentWriter {
    /// Begins a segment in `dir`.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    pub fn create(dir: &Path) -> io::Result<SegmentWriter> {
        SegmentWriter::create_in(Os.open_dir(dir, false)?)
    }

    /// The same in an open directory.
    pub(crate) fn create_in(dir: Arc<dyn Directory>) -> io::Result<SegmentWriter> {
        SegmentWriter::begin(TempFile::create(dir)?)
    }

    /// The same for a segment that is published by [`FinishedSegment::publish_replacing`].
    pub(crate) fn create_replacement(dir: Arc<dyn Directory>) -> io::Result<SegmentWriter> {
        SegmentWriter::begin(TempFile::create_replacement(dir)?)
    }

    fn begin((temp, file): (TempFile, Box<dyn File>)) -> io::Result<SegmentWriter> {
        let unsynced = 0;
        let out = BufWriter::with_capacity(WRITE_BYTES, PartWriter { file, unsynced });
        let builder = SegmentBuilder::new(out)?;
        Ok(SegmentWriter { builder, temp })
    }

    /// Checks that a file can be created and written in a directory. Returns what its metadata was.
    pub(crate) fn try_in(dir: Arc<dyn Directory>) -> io::Result<Metadata> {
        let (temp, mut file) = TempFile::create(dir)?;
        file.write_all(&header(VERSION))?;
        let metadata = file.metadata()?;
        temp.remove()?;
        Ok(metadata)
    }

    /// The size that the file has if it is finished now.
    pub fn bytes(&self) -> u64 {
        self.builder.bytes()
    }

    /// Whether one more row fits within the limits of the format and of [`MOST_ROWS`](super::MOST_ROWS).
    pub(crate) fn has_room(&self, stored_len: usize) -> bool {
        self.builder.has_room(stored_len)
    }

    /// Appends a row whose value of `raw_len` bytes is stored as `stored`.
    ///
    /// # Errors
    /// If the file cannot be written, or `stored` has a length that `encoding` does not allow: a raw
    /// value must have `raw_len` bytes, a compressed one fewer. Afterwards the segment must be
    /// dropped.
    pub fn push(
        &mut self,
        key: &Key,
        schema: &Arc<[u8]>,
        raw_len: u32,
        encoding: Encoding,
        stored: &[u8],
    ) -> io::Result<()> {
        self.builder.push(key, schema, raw_len, encoding, stored)
    }

    /// Writes the footer and syncs the file.
    ///
    /// # Errors
    /// If the file cannot be written or synced; the file is removed.
    pub fn finish(self) -> io::Result<FinishedSegment> {
        let bytes = self.bytes();
        let (out, footer) = self.builder.finish()?;
        let out = out.into_inner().map_err(|error| error.into_error())?;
        let file = out.file;
        file.sync()?;
        progress::note();
        Ok(FinishedSegment {
            temp: self.temp,
            file,
            footer,
            bytes,
        })
    }
}

/// A file whose parts are synced while it is written.
#[derive(Debug)]
struct PartWriter {
    file: Box<dyn File>,
    /// The bytes of the present part.
    unsynced: usize,
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Before the write: a caller that tries again after an interruption must not write twice.
        if self.unsynced >= PART_BYTES {
            self.file.sync_part()?;
            self.unsynced = 0;
            progress::note();
        }
        let part = bytes.len().min(PART_BYTES - self.unsynced);
        let written = self.file.write(&bytes[..part])?;
        self.unsynced += written;
        progress::note();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A segment that has its name.
pub(crate) struct PublishedSegment {
    pub(crate) path: PathBuf,
    pub(crate) footer: Footer,
    /// Its lock. Where it replaces others, other processes do not count it while its sources are there.
    pub(crate) lock: Box<dyn File>,
}

/// A complete segment that has no name yet. Dropping it removes its file.
#[derive(Debug)]
pub struct FinishedSegment {
    temp: TempFile,
    file: Box<dyn File>,
    footer: Footer,
    bytes: u64,
}

impl FinishedSegment {
    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The rows of the segment and their groups.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(crate) fn file(&self) -> &dyn File {
        &*self.file
    }

    /// The directory that the segment is written to.
    pub(crate) fn dir(&self) -> &Arc<dyn Directory> {
        self.temp.dir()
    }

    /// Gives the segment its name. An existing file is never replaced. The directory is not synced.
    ///
    /// # Errors
    /// If the file cannot be renamed; the file is removed.
    pub fn publish(self) -> io::Result<PathBuf> {
        self.publish_named().map(|published| published.path)
    }

    /// Gives the segment its name in place of the segments called `sources`, which the caller removes afterwards:
    /// after it synced the directory, since names may reach the medium in any order. It keeps the lock until then.
    ///
    /// Returns `None` if a source is gone, since another process replaced or cleared it. One that clears lists the
    /// directory after removing segments, and removes [replacements](TempFile::create_replacement) as well: either it
    /// sees this one, which then has no file to rename, or the sources are gone before they are looked for. So a segment
    /// that has its name keeps it, and other processes may skip rows over it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the file to rename is gone and all sources are there: it may be tried again. A
    /// process that removes only some segments of the directory cannot tell which ones are replaced.
    pub(crate) fn publish_replacing<'n>(
        self,
        sources: impl Iterator<Item = &'n str> + Clone,
    ) -> io::Result<Option<PublishedSegment>> {
        let dir = self.dir().clone();
        let exist = || {
            let mut sources = sources.clone();
            sources.try_for_each(|name| dir.stat(name.as_ref()).map(drop))
        };
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let published = match exist().and_then(|()| self.publish_named()) {
            Err(error) if is_gone(&error) => {
                let what = "a process that removed other segments also removed the new file of this one, which stays \
                            as it was; try again";
                exist().and_then(|()| Err(io::Error::new(io::ErrorKind::WouldBlock, what)))
            }
            published => published,
        };
        match published {
            Err(error) if is_gone(&error) => Ok(None),
            published => published.map(Some),
        }
    }

    /// Gives the segment its name in place of no other. The directory is not synced.
    pub(crate) fn publish_named(self) -> io::Result<PublishedSegment> {
        let name = self.temp.unique_name().to_owned();
        Ok(PublishedSegment {
            path: self.temp.publish(&name)?,
            footer: self.footer,
            lock: self.file,
        })
    }
}
