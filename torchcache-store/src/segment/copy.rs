//! Copying sound records from one segment into another, as they are stored: for compaction and
//! repair.

use std::io;

use super::error::SegmentError;
use super::format::{RowEntry, RowGroup};
use super::reader::SegmentReader;
use super::writer::SegmentWriter;

/// Why copying stopped.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The source could not be read.
    Read(SegmentError),
    /// The target could not be written.
    Write(io::Error),
}

impl CopyError {
    /// The error with the name of the segment.
    pub(crate) fn in_segment(self, name: &str) -> io::Error {
        let (kind, error) = match self {
            CopyError::Read(SegmentError::Io(error)) | CopyError::Write(error) => {
                (error.kind(), error.to_string())
            }
            CopyError::Read(error) => (io::ErrorKind::InvalidData, error.to_string()),
        };
        io::Error::new(kind, format!("{name}: {error}"))
    }
}

impl From<SegmentError> for CopyError {
    fn from(error: SegmentError) -> Self {
        CopyError::Read(error)
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        CopyError::Write(error)
    }
}

/// Copies those records whose checksum is right and which `accept` returns `true` for, given their
/// stored bytes. `skip` gets the error of each corrupt record, be it in its checksum or returned by
/// `accept`.
///
/// # Errors
/// [`CopyError`] if the row table is corrupt, or reading or writing fails: a failed read says
/// nothing about the record, which may be sound.
pub(crate) fn copy_records(
    source: &SegmentReader,
    target: &mut SegmentWriter,
    mut accept: impl FnMut(&RowEntry, &RowGroup, &[u8]) -> Result<bool, SegmentError>,
    mut skip: impl FnMut(SegmentError),
) -> Result<(), CopyError> {
    let mut window = Vec::new();
    for chunk in source.chunks() {
        source.read_records(&chunk?, &mut window, |record| {
            let (row, group) = (record.row, record.group);
            let accepted = record
                .stored
                .and_then(|stored| Ok(accept(row, group, stored)?.then_some(stored)));
            match accepted {
                Ok(Some(stored)) => {
                    target.push(&row.key, &group.schema, group.raw_len, row.encoding, stored)?
                }
                Ok(None) => {}
                Err(error @ SegmentError::Io(_)) => return Err(CopyError::Read(error)),
                Err(error) => skip(error),
            }
            Ok(())
        })?;
    }
    Ok(())
}
