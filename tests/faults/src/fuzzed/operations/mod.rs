//! Any sequence of what callers, a second process and the medium may do, against a model: a row is
//! one that was put or a miss, and a miss only where something took it away.

mod checks;
mod life;
mod model;
mod world;

use std::time::Duration;

use arbitrary::Arbitrary;
use torchcache_store::{Compression, Config, Eviction};

use super::derived;
use crate::rows::manual_flush;
use world::World;

/// Does what the bytes say.
///
/// # Panics
/// If a row is wrong, or missing without a reason, or a counter is not right.
pub fn run(bytes: &[u8]) {
    derived(bytes, |input: &Input| {
        World::new(input.rules).play(input.operations.iter().take(MOST));
    });
}

/// Longer sequences find nothing that two shorter ones do not.
const MOST: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    rules: Rules,
    operations: Vec<Operation>,
}

/// What may happen at all. The less may, the more is promised.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Rules {
    /// There is a second process.
    is_shared: bool,
    /// The size of the directory is limited.
    is_limited: bool,
    /// Files are damaged.
    is_damaged: bool,
    /// Calls fail.
    is_failing: bool,
}

/// Something that happens. With one process, both are the same.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Operation {
    Put(bool, Rows),
    Flush(bool),
    /// Every row is looked for.
    Look(bool),
    Clear(bool),
    Refresh(bool),
    Reopen(bool, Settings),
    Configure(bool, Settings),
    /// Some call of a process is going to fail.
    Fail(bool, Failure),
    CutPower(u8),
    /// A file is there twice.
    Double(u8),
    /// Of a file that is there twice, the first goes.
    Single(u8),
    Harm(u8, Harm),
}

/// Rows of a batch: every so many numbers, so that a row may come twice.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Rows {
    from: u8,
    count: u8,
    step: u8,
    variant: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Settings {
    is_compressed: bool,
    mmap: bool,
    evict: bool,
    limit: u8,
    queue: u8,
    target: u8,
}

impl Settings {
    fn config(self, rules: Rules) -> Config {
        let compression = Compression {
            level: 1,
            threads: 1,
        };
        Config {
            max_bytes: match rules.is_limited {
                true => 2048 * (1 + u64::from(self.limit % 32)),
                false => Config::default().max_bytes,
            },
            eviction: match self.evict {
                true => Eviction::LeastRecentlyRead,
                false => Eviction::Never,
            },
            compression: self.is_compressed.then_some(compression),
            mmap: self.mmap,
            queue_bytes: 256 << (self.queue % 16),
            segment_bytes: 4096 << (self.target % 8),
            // Longer than any input takes: there is no disk to wait for.
            stall_timeout: Duration::from_secs(600),
            ..manual_flush()
        }
    }
}

/// From the call after so many on, so many fail.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Failure {
    call: u8,
    after: u8,
    times: u8,
    how: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Harm {
    Flip(u16, u8),
    Cut(u16),
    Remove,
}
