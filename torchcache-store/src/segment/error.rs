//! Why a segment, or a row of it, cannot be read.

use std::io;

use super::format::VERSION;
use crate::fault::Fault;

/// Why a segment, or a row of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The operating system failed to open or read the file. Nothing is known about its bytes.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is shorter than it was written.
    #[error("the segment is cut short: {0}")]
    Truncated(String),
    /// The bytes contradict each other or their checksum.
    #[error("the segment is corrupt: {0}")]
    Corrupt(String),
    /// A user who may not write to this directory may have written the file.
    #[error("the permissions of the segment are rejected: {0}; it is left alone")]
    PermissionRejected(String),
    /// The file belongs to another program.
    #[error(
        "it is a file of another program: torchcache gives no such name, and it is no whole segment; it is left alone"
    )]
    Foreign,
    /// A newer torchcache wrote the file.
    #[error(
        "the segment is of format version {0}, this build reads up to {VERSION}; it is left alone"
    )]
    FutureVersion(u32),
}

impl SegmentError {
    /// Whether the bytes are not those that were written. A failed read, rejected permissions, a file of
    /// another program and a newer version are not corruption.
    pub fn is_corruption(&self) -> bool {
        matches!(self, SegmentError::Truncated(_) | SegmentError::Corrupt(_))
    }

    /// Whether the file does not exist (any more).
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, SegmentError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The format version of the file, if this build is too old to read it.
    pub fn newer_version(&self) -> Option<u32> {
        match self {
            SegmentError::FutureVersion(version) => Some(*version),
            _ => None,
        }
    }

    /// The kind of fault that this error is counted as.
    pub fn fault(&self) -> Fault {
        match self {
            SegmentError::Io(_) => Fault::Read,
            SegmentError::Truncated(_) => Fault::Truncated,
            SegmentError::Corrupt(_) | SegmentError::Foreign => Fault::Corrupt,
            SegmentError::PermissionRejected(_) => Fault::PermissionRejected,
            SegmentError::FutureVersion(_) => Fault::FutureVersion,
        }
    }
}
