//! The errors of a store: misuse by the caller, and rows that could not be kept.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Misuse of a store, or rows that could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory cannot hold a cache.
    #[error("cannot use {} as a cache directory: {reason}; name a directory that can be created and written to", path.display())]
    Directory {
        /// The directory that was asked for.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// The parts of a batch do not fit together.
    #[error("the rows do not make a batch: {reason}")]
    Batch {
        /// What was got and what was expected.
        reason: String,
    },
    /// Rows that were queued could not be written and are gone.
    #[error(
        "{rows} rows could not be written and will be computed again; the log and the store's fault counts say why"
    )]
    Lost {
        /// How many rows, since the last flush.
        rows: u64,
    },
    /// The disk does not answer. The rows are still queued, and written when it does.
    #[error("the disk has not answered for {patience:?}; {rows} rows wait to be written")]
    Stalled {
        /// How many rows wait.
        rows: u64,
        /// How long was waited.
        patience: Duration,
    },
    /// This process was forked off the one that opened the store. What was queued then is written
    /// there.
    #[error(
        "{rows} rows wait to be written by the process that this one was forked off; open the store after the fork"
    )]
    Forked {
        /// How many rows waited.
        rows: u64,
    },
}
