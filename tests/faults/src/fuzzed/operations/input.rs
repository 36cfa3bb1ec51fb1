//! What a fuzzer chooses: what may happen, and what does.

use std::time::Duration;

use arbitrary::Arbitrary;
use torchcache_store::{Compression, Config, Eviction};

use crate::rows::manual_flush;

#[derive(Arbitrary, Debug)]
pub(super) struct Input {
    pub(super) rules: Rules,
    pub(super) operations: Vec<Operation>,
}

/// What may happen at all. The less may happen, the more is checked.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Rules {
    /// There is a second process.
    pub(super) is_shared: bool,
    /// The size of the directory is limited.
    pub(super) is_limited: bool,
    /// Files are damaged.
    pub(super) is_damaged: bool,
    /// Calls fail.
    pub(super) is_failing: bool,
}

/// Something that happens. With one process, both are the same.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Operation {
    Put(bool, RowPattern),
    Flush(bool),
    /// Every row is looked for.
    CheckRows(bool),
    Clear(bool),
    Refresh(bool),
    Reopen(bool, Settings),
    Configure(bool, Settings),
    /// Some call of a process is going to fail.
    Fail(bool, FailingCalls),
    CutPower(u8),
    /// A file is copied.
    Double(u8),
    /// The first of two copies of a file is removed.
    Single(u8),
    Harm(u8, Harm),
    Remove(bool, RowPattern),
}

/// Rows of a batch. With the step, a row may come twice.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct RowPattern {
    pub(super) from: u8,
    pub(super) count: u8,
    pub(super) step: u8,
    pub(super) variant: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) is_compressed: bool,
    pub(super) mmap: bool,
    pub(super) evict: bool,
    pub(super) limit: u8,
    pub(super) queue: u8,
    pub(super) target: u8,
}

impl Settings {
    pub(super) fn config(self, rules: Rules) -> Config {
        let compression = Compression::new(1, 1);
        manual_flush()
            .with_max_bytes(match rules.is_limited {
                true => 2048 * (1 + u64::from(self.limit % 32)),
                false => Config::default().max_bytes,
            })
            .with_eviction(match self.evict {
                true => Eviction::LeastRecentlyRead,
                false => Eviction::Never,
            })
            .with_compression(self.is_compressed.then_some(compression))
            .with_mmap(self.mmap)
            .with_queue_bytes(256 << (self.queue % 16))
            .with_segment_bytes(4096 << (self.target % 8))
            // Longer than any input takes.
            .with_stall_timeout(Duration::from_secs(600))
    }
}

/// From the call after so many on, so many fail.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct FailingCalls {
    pub(super) call: u8,
    pub(super) after: u8,
    pub(super) times: u8,
    pub(super) how: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Harm {
    Flip(u16, u8),
    Cut(u16),
    Remove,
}
