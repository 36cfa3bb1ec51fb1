//! The stages of a call by the cache's own clocks: `stats()` before and after a pass.

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use tch::nn::Func;
use tempfile::TempDir;
use torchcache::{Cached, Options, Stats};

use crate::clock;
use crate::ours::{self, expect};
use crate::workload::{Batch, Workload};

/// Milliseconds per call, by stage.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    /// The whole call.
    pub call: f64,
    /// Computing keys.
    pub keys: f64,
    /// Looking up and copying hits.
    pub load: f64,
    /// The cached function.
    pub forward: f64,
    /// Storing computed rows.
    pub store: f64,
}

impl Stages {
    /// The time that no clock of the cache covers: checking arguments and weights, assembling.
    pub fn rest(&self) -> f64 {
        (self.call - self.keys - self.load - self.forward - self.store).max(0.0)
    }
}

/// A workload served in each way, by stage; the fastest of several passes.
#[derive(Debug)]
pub struct Profile {
    /// Every row from memory.
    pub memory: Stages,
    /// Every row from disk, with no room in memory.
    pub disk: Stages,
    /// The same, compressed.
    pub disk_zstd: Stages,
    /// Every row computed and stored in memory and on disk.
    pub miss: Stages,
}

impl Profile {
    /// Measures each.
    pub fn measure(workload: &Workload, data: &[Batch], passes: usize) -> Self {
        let of = |passes, served: Serving<'_>| best_of(passes, || served.pass());
        Profile {
            memory: of(passes, Serving::from_memory(workload, data)),
            disk: of(passes + 1, Serving::from_disk(workload, data, false)),
            disk_zstd: of(passes + 1, Serving::from_disk(workload, data, true)),
            miss: of(passes.min(3), Serving::cold(workload, data)),
        }
    }
}

/// The fastest pass, with its own stages, so that they add up.
fn best_of(passes: usize, mut pass: impl FnMut() -> Stages) -> Stages {
    let passes = (0..passes).map(|_| pass());
    let fastest = passes.min_by(|one, other| one.call.total_cmp(&other.call));
    fastest.expect("at least one pass")
}

/// A cache that serves a workload in one way, batch after batch.
pub struct Serving<'a> {
    cache: Cached<Func<'static>>,
    data: &'a [Batch],
    turn: Cell<usize>,
    way: Way,
    _folder: TempDir,
}

/// The source of every row.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Memory,
    Disk,
    Forward,
}

impl Way {
    /// The number of rows from this source.
    fn count(self, stats: &Stats) -> u64 {
        match self {
            Way::Memory => stats.memory.hits,
            Way::Disk => stats.disk.hits,
            Way::Forward => stats.misses,
        }
    }
}

impl<'a> Serving<'a> {
    /// Every row from memory.
    pub fn from_memory(workload: &Workload, data: &'a [Batch]) -> Self {
        Self::filled(workload, data, Way::Memory, false)
    }

    /// Every row from disk, with no room in memory.
    pub fn from_disk(workload: &Workload, data: &'a [Batch], zstd: bool) -> Self {
        let filled = Self::filled(workload, data, Way::Disk, zstd);
        // The memory tier is freed with the last handle.
        drop(filled.cache);
        Serving {
            cache: persistent(workload, filled._folder.path(), "0 B", zstd),
            ..filled
        }
    }

    /// Every row computed and stored in memory and on disk.
    pub fn cold(workload: &Workload, data: &'a [Batch]) -> Self {
        Self::filled(workload, data, Way::Forward, false)
    }

    fn filled(workload: &Workload, data: &'a [Batch], way: Way, zstd: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = persistent(workload, folder.path(), "8 GB", zstd);
        for batch in data {
            drop(cache.forward(&batch.input));
        }
        cache.cache().flush().expect("everything is written");
        Serving {
            cache,
            data,
            turn: Cell::new(0),
            way,
            _folder: folder,
        }
    }

    /// Computing keys.
    pub fn hashing(&self, calls: u64) -> Duration {
        self.time(calls, |before, after, _| {
            after.time.hashing - before.time.hashing
        })
    }

    /// Everything but keys: lookup, copies, assembly.
    pub fn except_hashing(&self, calls: u64) -> Duration {
        self.time(calls, |before, after, call| {
            call.saturating_sub(after.time.hashing - before.time.hashing)
        })
    }

    /// Of computed rows everything but keys and the forward: storing and assembly.
    pub fn storing(&self, calls: u64) -> Duration {
        self.time(calls, |before, after, call| {
            let hashing = after.time.hashing - before.time.hashing;
            let forward = after.time.forward - before.time.forward;
            call.saturating_sub(hashing + forward)
        })
    }

    /// The stages of a call, averaged over a pass.
    fn pass(&self) -> Stages {
        let calls = self.data.len();
        let (before, after, took) = self.calls(calls);
        let each = |time: fn(&Stats) -> Duration| {
            milliseconds(time(&after) - time(&before)) / calls as f64
        };
        Stages {
            call: milliseconds(took) / calls as f64,
            keys: each(|stats| stats.time.hashing),
            load: each(|stats| stats.time.loading),
            forward: each(|stats| stats.time.forward),
            store: each(|stats| stats.time.storing),
        }
    }

    /// The sum of `part` over passes, given the statistics before and after and the time they took.
    fn time(&self, calls: u64, part: impl Fn(&Stats, &Stats, Duration) -> Duration) -> Duration {
        let mut total = Duration::ZERO;
        let mut left = calls as usize;
        while left > 0 {
            // At most one pass: afterwards the rows are cached.
            let count = left.min(self.data.len());
            let (before, after, took) = self.calls(count);
            total += part(&before, &after, took);
            left -= count;
        }
        total
    }

    /// Serves `count` batches: statistics before and after, and the time.
    fn calls(&self, count: usize) -> (Stats, Stats, Duration) {
        let cache = self.cache.cache();
        if self.way == Way::Forward {
            cache.flush().expect("everything is written");
            cache.clear();
        }
        let before = cache.stats();
        let took = clock::milliseconds(clock::device(), || {
            for _ in 0..count {
                let turn = self.turn.replace((self.turn.get() + 1) % self.data.len());
                drop(black_box(self.cache.forward(&self.data[turn].input)));
            }
        });
        let after = cache.stats();
        expect(&after, |after| {
            self.way.count(after) - self.way.count(&before) == after.rows - before.rows
        });
        (before, after, Duration::from_secs_f64(took / 1e3))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn persistent(workload: &Workload, folder: &Path, room: &str, zstd: bool) -> Cached<Func<'static>> {
    let options = Options::builder()
        .persistent(true)
        .persistent_cache_dir(folder)
        .zstd_compression(zstd)
        .max_memory_cache_size(room);
    ours::cached(workload, "stages", options)
}
