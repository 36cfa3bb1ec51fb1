//! Opening a segment file: from untrusted bytes to a checked footer. It never repairs and
//! never writes.

use std::ffi::OsStr;
use std::hash::Hasher;
use std::io;
use std::path::Path;

use super::error::SegmentError;
use super::fetch::{Want, fetch};
use super::footer::{Bytes, Footer};
use super::format::{
    CHECKSUM_LEN, END_MAGIC, HEADER_LEN, MAGIC, ROW_LEN, Row, TRAILER_LEN, Trailer, VERSION, header,
};
use super::source::Source;
use crate::fs::{Directory, File, FileSystem, Metadata, Os, read_exact};

/// An open segment file with its footer.
#[derive(Debug)]
pub struct SegmentFile {
    source: Source,
    footer: Footer,
    metadata: Metadata,
}

impl SegmentFile {
    /// Opens and checks a segment; with `mmap`, rows are read through a memory map.
    ///
    /// # Errors
    /// [`SegmentError`] for whatever is wrong with the file.
    pub fn open(path: &Path, mmap: bool) -> Result<SegmentFile, SegmentError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename).into());
        };
        // "a.tcs" is in ".".
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        SegmentFile::open_in(&*Os.open_dir(parent, false)?, name, mmap)
    }

    /// The same in an open directory, of any file system.
    ///
    /// # Errors
    /// As [`SegmentFile::open`].
    pub fn open_in(
        dir: &dyn Directory,
        name: &OsStr,
        mmap: bool,
    ) -> Result<SegmentFile, SegmentError> {
        let source = Source::open(dir, name, mmap)?;
        let metadata = source.file().metadata()?;
        let footer = read_footer(source.file(), metadata.len)?;
        Ok(SegmentFile {
            source,
            footer,
            metadata,
        })
    }

    /// What the segment holds.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(crate) fn into_footer(self) -> Footer {
        self.footer
    }

    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.metadata.len
    }

    /// What was known of the file when it was opened.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Where the records end, which is where the footer begins.
    pub(super) fn records_end(&self) -> u64 {
        self.bytes() - (TRAILER_LEN + self.footer.bytes().len()) as u64
    }

    /// Reads the value of one of this segment's rows. After an error the content of `out`
    /// is unspecified.
    ///
    /// # Errors
    /// [`SegmentError`] if the file fails, the checksum is wrong, `out` is not as long as the
    /// value, or the row cannot be one of this segment's.
    pub fn read(&self, row: &Row, out: &mut [u8]) -> Result<(), SegmentError> {
        let Some(group) = self.footer.groups().get(usize::from(row.group)) else {
            return Err(SegmentError::Corrupt(format!(
                "no group {} in this segment",
                row.group
            )));
        };
        // Anybody can make a row of any numbers.
        let stored_len = u64::from(row.stored_len) + CHECKSUM_LEN as u64;
        let end = row.offset.checked_add(stored_len);
        if !group.allows(row.encoding, row.stored_len) || end.is_none_or(|end| end > self.bytes()) {
            return Err(SegmentError::Corrupt(format!(
                "no row of {} bytes at {} in this segment",
                row.stored_len, row.offset
            )));
        }
        if out.len() != group.raw_len as usize {
            return Err(SegmentError::Corrupt(format!(
                "a row of {} bytes cannot be read into {} bytes",
                group.raw_len,
                out.len()
            )));
        }
        let mut want = Want {
            tag: (),
            row,
            group,
            out,
            outcome: None,
        };
        fetch(&self.source, std::slice::from_mut(&mut want));
        want.outcome
            .unwrap_or_else(|| Err(SegmentError::Corrupt("the row was not read".into())))
    }
}

/// How many rows a file says it has, no more than its footer can hold; none if it does not look
/// like a segment. Nothing is checked beyond that.
pub(crate) fn rows_claimed(dir: &dyn Directory, name: &OsStr) -> usize {
    let claimed = || -> io::Result<u64> {
        let file = dir.open(name)?;
        let bytes = file.metadata()?.len;
        let mut tail = [0; TRAILER_LEN];
        let at = bytes.saturating_sub(TRAILER_LEN as u64);
        read_exact(&*file, &mut tail, at)?;
        let trailer = Trailer::decode(&tail);
        let ends = [trailer.footer_len, TRAILER_LEN as u64]
            .iter()
            .try_fold(trailer.footer_offset, |sum, len| sum.checked_add(*len));
        Ok(if ends == Some(bytes) && tail.ends_with(&END_MAGIC) {
            u64::from(trailer.rows).min(trailer.footer_len / ROW_LEN as u64)
        } else {
            0
        })
    };
    claimed().map_or(0, |rows| rows as usize)
}

/// A longer footer gets its memory only once its checksum was found right: a file with holes is as
/// long as somebody says.
const PIECE: usize = 1 << 20;

/// Both ends of a segment: what they say fits the size of the file. Whether the footer between them is
/// right, they do not tell.
pub(super) struct Ends {
    pub(super) trailer: Trailer,
    /// Its bytes, with the checksum of the footer.
    tail: [u8; TRAILER_LEN],
}

impl Ends {
    /// Reads header and trailer of a file of `bytes` bytes.
    pub(super) fn read(file: &dyn File, bytes: u64) -> Result<Ends, SegmentError> {
        let mut head = [0; HEADER_LEN];
        let body = bytes.checked_sub((HEADER_LEN + TRAILER_LEN) as u64);
        let Some(body) = body else {
            return Err(SegmentError::Truncated(format!("it has {bytes} bytes")));
        };
        read_at(file, &mut head, 0)?;
        let version = check_header(&head)?;

        let mut tail = [0; TRAILER_LEN];
        read_at(file, &mut tail, bytes - TRAILER_LEN as u64)?;
        if !tail.ends_with(&END_MAGIC) {
            return Err(SegmentError::Truncated("the end mark is missing".into()));
        }
        let trailer = Trailer::decode(&tail);
        if trailer.version != version {
            return Err(SegmentError::Corrupt(format!(
                "it begins as version {version} and ends as version {}",
                trailer.version
            )));
        }
        let begins = trailer.footer_offset.checked_sub(HEADER_LEN as u64);
        if begins.and_then(|begins| begins.checked_add(trailer.footer_len)) != Some(body) {
            return Err(SegmentError::Corrupt(
                "the trailer does not fit the size of the file".into(),
            ));
        }
        Ok(Ends { trailer, tail })
    }

    fn agree(&self, sealed: [u8; TRAILER_LEN]) -> Result<(), SegmentError> {
        match sealed == self.tail {
            true => Ok(()),
            false => Err(SegmentError::Corrupt(
                "the footer's checksum is wrong".into(),
            )),
        }
    }

    /// Whether the footer's checksum is right. Reads the footer without holding it.
    pub(super) fn check_by_pieces(&self, file: &dyn File) -> Result<(), SegmentError> {
        self.agree(sealed_by_pieces(file, &self.trailer)?)
    }
}

/// Reads and checks header, trailer and footer of a file of `bytes` bytes.
fn read_footer(file: &dyn File, bytes: u64) -> Result<Footer, SegmentError> {
    let ends = Ends::read(file, bytes)?;
    let trailer = &ends.trailer;
    let footer_len = usize::try_from(trailer.footer_len)
        .map_err(|_| SegmentError::Corrupt("the footer does not fit into memory".into()))?;
    if footer_len > PIECE {
        ends.check_by_pieces(file)?;
    }
    let mut footer = Bytes::zeroed(footer_len)?;
    read_at(file, &mut footer, trailer.footer_offset)?;
    ends.agree(trailer.encode(&footer))?;
    Footer::parse(footer, trailer)
}

/// What the trailer would be with the checksum of the footer that is there. Reads the footer without
/// holding it.
fn sealed_by_pieces(file: &dyn File, trailer: &Trailer) -> Result<[u8; TRAILER_LEN], SegmentError> {
    let mut sum = trailer.begin_sum();
    let mut piece = vec![0; PIECE];
    let (mut at, end) = (
        trailer.footer_offset,
        trailer.footer_offset + trailer.footer_len,
    );
    while at < end {
        let len = (end - at).min(PIECE as u64);
        let piece = &mut piece[..len as usize];
        read_at(file, piece, at)?;
        sum.write(piece);
        at += len;
    }
    Ok(trailer.sealed(&sum))
}

/// The version of a segment that begins so.
fn check_header(head: &[u8; HEADER_LEN]) -> Result<u32, SegmentError> {
    let [magic @ .., a, b, c, d, _, _, _, _] = *head;
    if magic != MAGIC {
        return Err(SegmentError::Corrupt(
            "it does not begin like a segment".into(),
        ));
    }
    let version = u32::from_le_bytes([a, b, c, d]);
    if version > VERSION {
        return Err(SegmentError::FutureVersion(version));
    }
    if version == 0 || *head != header(version) {
        return Err(SegmentError::Corrupt("the header is malformed".into()));
    }
    Ok(version)
}

/// Reads exactly as many bytes as `out` has, and calls an early end by its name.
pub(super) fn read_at(file: &dyn File, out: &mut [u8], offset: u64) -> Result<(), SegmentError> {
    let end = offset + out.len() as u64;
    read_exact(file, out, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            SegmentError::Truncated(format!("nothing to read at {end}"))
        }
        _ => SegmentError::Io(error),
    })
}
