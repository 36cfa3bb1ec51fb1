//! The errors of the public API. Faults of the disk are not among them: each is counted as a
//! [`Fault`](crate::Fault), and its rows are misses.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A directory or a batch that a store cannot use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory cannot hold a cache.
    #[error("cannot use {} as a cache directory; name one that can be created and written to", path.display())]
    #[non_exhaustive]
    Directory {
        /// The directory that was asked for.
        path: PathBuf,
        /// What the operating system reported, or why the permissions were rejected.
        source: io::Error,
    },
    /// The parts of a batch do not fit together.
    #[error("the rows do not make a batch: {reason}")]
    #[non_exhaustive]
    Batch {
        /// What was passed and what was expected.
        reason: String,
    },
}

/// Rows that [`Store::flush`](crate::Store::flush) could not get to the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// Rows could not be written and were dropped. They will be computed again.
    #[error(
        "{rows} rows could not be written and will be computed again; the log and the fault counts of the store say why"
    )]
    #[non_exhaustive]
    Lost {
        /// How many rows of this store were lost since it last reported any.
        rows: u64,
    },
    /// The disk did not respond in time. The rows are still queued, and are written once it does.
    #[error("the disk has not responded for {waited:?}; {rows} rows are still queued")]
    #[non_exhaustive]
    Stalled {
        /// How many rows are queued.
        rows: u64,
        /// How long the disk did not respond: [`Config::stall_timeout`](crate::Config::stall_timeout).
        waited: Duration,
    },
    /// A log subscriber or the destructor of stored rows made the call on the thread that writes a
    /// store, which cannot wait. The rows are still queued, and are written after it returns.
    #[error("a thread that writes a store cannot wait for a flush; {rows} rows are still queued")]
    #[non_exhaustive]
    FlusherThread {
        /// How many rows are queued.
        rows: u64,
    },
}

/// Why rows may be left after [`Store::remove`](crate::Store::remove).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The directory or a segment could not be read or written. Rows that are left are hits as before.
    #[error("cannot remove rows from {}", dir.display())]
    #[non_exhaustive]
    Directory {
        /// The directory of the store.
        dir: PathBuf,
        /// What the operating system reported, and of which segment.
        source: io::Error,
    },
    /// The disk did not respond in time. The rows are removed once it does.
    #[error("the disk has not responded for {waited:?}; the rows are not removed yet")]
    #[non_exhaustive]
    Stalled {
        /// How long the disk did not respond: [`Config::stall_timeout`](crate::Config::stall_timeout).
        waited: Duration,
    },
    /// A log subscriber or the destructor of stored rows made the call on the thread that writes a store, which
    /// cannot wait. The rows are removed after it returns.
    #[error("a thread that writes a store cannot wait until rows are removed")]
    FlusherThread,
}

impl FlushError {
    /// How many rows are not on disk.
    pub fn rows(&self) -> u64 {
        match self {
            FlushError::Lost { rows }
            | FlushError::Stalled { rows, .. }
            | FlushError::FlusherThread { rows } => *rows,
        }
    }
}
