//! The configuration of a store.

use std::time::Duration;

/// How a store behaves. [`Store::reconfigure`](crate::Store::reconfigure) changes any field at run
/// time. Each row on disk records how it is stored, so the configuration never decides whether a row
/// can be read.
///
/// ```
/// use torchcache_store::{Compression, Config};
/// let config = Config::default()
///     .with_max_bytes(2_000_000_000)
///     .with_compression(Some(Compression::new(3, 1)));
/// assert!(!config.mmap);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Bound on the bytes of all segment files in the directory, those of other processes included.
    /// Processes that write at the same time may exceed it until each has finished its batch.
    pub max_bytes: u64,
    /// Bound on the bytes of all caches in the directory above, this one and those of other programs
    /// included: of all segment files that are named as this crate does. The segments that were read
    /// least recently are removed, in whichever cache they are. `None` for no bound. Of the stores of a
    /// process, the largest bound holds while one has it; processes that write at the same time may exceed
    /// it by a sixteenth each.
    pub max_root_bytes: Option<u64>,
    /// What happens when `max_bytes` is reached.
    pub eviction: Eviction,
    /// How new rows are compressed; `None` stores them as they are.
    pub compression: Option<Compression>,
    /// Whether to read through a memory map in place of `pread`. If another program truncates a
    /// mapped segment file, the operating system ends this process with `SIGBUS`. The store never
    /// truncates a file.
    pub mmap: bool,
    /// Bound on the bytes of queued rows. [`Store::put`](crate::Store::put) blocks while it is
    /// exceeded.
    pub queue_bytes: u64,
    /// The size at which a segment file is closed and the next one begun. At most a sixteenth of
    /// `max_bytes` is used, so that eviction is not too coarse.
    pub segment_bytes: u64,
    /// How long queued rows are held back to fill a segment before they are written anyway.
    pub batch_delay: Duration,
    /// How long a call waits for a disk that makes no progress: for room in the queue, for a flush,
    /// or to close the store. After that, rows that find no room are dropped at once until the disk
    /// responds again; queued rows are kept and written then.
    pub stall_timeout: Duration,
}

/// What a full directory does with new rows.
///
/// In both cases, a directory that exceeds its bound when it is opened, or when the bound is
/// lowered, is brought within it by removing the segments that were read least recently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Remove the segments that were read least recently.
    #[default]
    LeastRecentlyRead,
    /// Keep what is stored and reject new rows. Processes that write at the same time may exceed
    /// the bound by a segment each, which is removed when the directory is next opened.
    Never,
}

/// How rows are compressed. A row that would not shrink is stored as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compression {
    /// The zstd level.
    pub level: i32,
    /// How many threads compress; 0 means one per core.
    pub threads: u32,
}

impl Compression {
    /// Compression of this level on so many threads.
    pub fn new(level: i32, threads: u32) -> Compression {
        Compression { level, threads }
    }
}

/// Defines a method for each field that sets it.
macro_rules! setters {
    ($($method:ident, $field:ident: $type:ty;)*) => {
        $(
            #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
            #[must_use]
            pub fn $method(mut self, $field: $type) -> Config {
                self.$field = $field;
                self
            }
        )*
    };
}

/// Smaller segments spend more bytes on the file than on their rows.
const MIN_SEGMENT_BYTES: u64 = 4 << 10;

/// With fewer segments in a full directory, eviction is too coarse.
const MIN_SEGMENTS: u64 = 16;

impl Config {
    setters! {
        with_max_bytes, max_bytes: u64;
        with_max_root_bytes, max_root_bytes: Option<u64>;
        with_eviction, eviction: Eviction;
        with_compression, compression: Option<Compression>;
        with_mmap, mmap: bool;
        with_queue_bytes, queue_bytes: u64;
        with_segment_bytes, segment_bytes: u64;
        with_batch_delay, batch_delay: Duration;
        with_stall_timeout, stall_timeout: Duration;
    }

    /// The size at which a segment is closed, given the other bounds.
    pub(crate) fn target_segment_bytes(&self) -> u64 {
        self.segment_bytes
            .min(self.max_bytes / MIN_SEGMENTS)
            .max(MIN_SEGMENT_BYTES)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_bytes: 10_000_000_000,
            max_root_bytes: None,
            eviction: Eviction::default(),
            compression: None,
            mmap: false,
            queue_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            batch_delay: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(30),
        }
    }
}
