//! What a store may be told: bounds, compression, how to read. Apart from the store since
//! the writer, the reader and the caller all look at it.

use std::time::Duration;

/// How a store behaves. Every field may change at run time with
/// [`Store::reconfigure`](crate::Store::reconfigure); rows on disk say themselves how they
/// are stored, so none of this decides whether an old row can be read.
///
/// ```
/// use torchcache_store::{Compression, Config};
/// let config = Config {
///     max_bytes: 2_000_000_000,
///     compression: Some(Compression { level: 3, threads: 1 }),
///     ..Config::default()
/// };
/// assert!(!config.mmap);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bound on the bytes of all segment files of the directory, whoever wrote them.
    pub max_bytes: u64,
    /// What happens when the limit is reached: the segments that were read least recently go, or,
    /// with `false`, what is there stays and new rows are refused. A lower limit holds in both
    /// cases: when a directory is opened over its limit, or the limit is set lower, the segments
    /// that were read least recently go. With `false`, processes that write at the same moment may
    /// exceed the limit by a segment each; that goes when the directory is next opened.
    pub evict: bool,
    /// How rows are compressed from now on; `None` stores them as they are.
    pub compression: Option<Compression>,
    /// Read through a memory map instead of `pread`. If another program shortens a segment
    /// file while it is mapped, the operating system ends this process with `SIGBUS`; the
    /// store itself never shortens a file.
    pub mmap: bool,
    /// Bound on the bytes that wait to be written. A caller waits while it is exceeded.
    pub queue_bytes: u64,
    /// The size at which a segment file is closed and the next one begun. At most a
    /// sixteenth of `max_bytes` is used, so that eviction is not too coarse.
    pub segment_bytes: u64,
    /// How long queued rows wait for company before a partial segment is written.
    pub linger: Duration,
    /// How long a caller waits for a disk that does nothing at all, be it for room in the queue, for
    /// a flush, or for the store to close. After that, rows that find no room are given up, at once
    /// until the disk is back; those that are queued are still written then.
    pub patience: Duration,
}

/// How rows are compressed. A row that would not shrink is kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The zstd level.
    pub level: i32,
    /// How many threads compress; 0 is one for each core.
    pub threads: u32,
}

/// Below this a segment costs more in its file than in its rows.
const MIN_SEGMENT_BYTES: u64 = 4 << 10;

/// With fewer segments than this in a full directory, eviction would be too coarse.
const MIN_SEGMENTS: u64 = 16;

impl Config {
    /// The size at which a segment is closed, given the other bounds.
    pub(crate) fn segment_target(&self) -> u64 {
        self.segment_bytes
            .min(self.max_bytes / MIN_SEGMENTS)
            .max(MIN_SEGMENT_BYTES)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_bytes: 10_000_000_000,
            evict: true,
            compression: None,
            mmap: false,
            queue_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            linger: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}
