//! Administration of caches in an object store, for the command line: lists, checks, prunes, clears and compacts them, and
//! copies rows from and to caches on disk. The remote tier uses none of it.
//!
//! All of it may run while machines use the caches. There are no locks: an object that vanished meanwhile is not an error,
//! objects are removed only once their rows are elsewhere or are not wanted, and what another program put below the prefix
//! is reported and left alone. Segments of newer format versions are left alone too; only [`RemoteRoot::clear`] removes them.
//!
//! Each request has a deadline, and is made again up to three times, after pauses, where the store does not answer or asks
//! for fewer requests. At most 16 reads are under way at a time, of at most 64 MiB together.
//!
//! # Compaction
//!
//! [`RemoteRoot::compact`] joins small segments in four steps, each of which may be the last: a later run, on any machine,
//! carries on.
//!
//! 1. The records of the sources are copied into one segment, in memory. Of several copies of a row, that of the newest
//!    source is kept. The name and the bytes depend on the sources only. Unless all sources are intact, nothing is put.
//! 2. A *compaction record* says which sources the segment joins. If another record has one of these, the compaction ends:
//!    two that run at the same time do not both join a source.
//! 3. The segment is put.
//! 4. An hour later, by the clock of the store, it is read again and checked. If it is intact and has all rows of its
//!    sources, these are removed, then the record. Until then, machines that do not know the segment yet read from the
//!    sources.

mod check;
mod clear;
mod compact;
mod discover;
mod grouping;
mod join;
mod prune;
mod pull;
mod push;
mod records;
mod remover;
mod requests;
mod summary;
mod transfer;

pub use check::RemoteCheckReport;
pub use clear::RemoteClearReport;
pub use compact::{CompactReport, JoinedSegments};
pub use discover::{RemoteCache, RemoteListing, RemoteRoot};
pub use prune::{RemoteKeep, RemotePrunePlan, RemotePruneReport, RemotePrunedCache};
pub use pull::PullReport;
pub use push::PushReport;
pub use transfer::TransferError;
