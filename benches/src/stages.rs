//! Where the time of a call goes, by the cache's own clocks: `stats()` before and after a pass.

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use tch::Tensor;
use tch::nn::Func;
use tempfile::TempDir;
use torchcache::{Cached, Options, Stats};

use crate::clock::{self, pass};
use crate::ours::{self, expect};
use crate::workload::{Batch, Workload};

/// Milliseconds a call, by stage.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    /// The whole call.
    pub call: f64,
    /// Making keys.
    pub keys: f64,
    /// Looking up and copying hits.
    pub load: f64,
    /// The cached function.
    pub forward: f64,
    /// Handing computed rows to the tiers.
    pub store: f64,
}

impl Stages {
    /// What no clock of the cache covers: checking arguments and weights, and assembling.
    pub fn rest(&self) -> f64 {
        (self.call - self.keys - self.load - self.forward - self.store).max(0.0)
    }
}

/// A workload served in each way, stage by stage; the fastest of several passes.
#[derive(Debug)]
pub struct Profile {
    /// Every row from memory.
    pub memory: Stages,
    /// Every row from disk, with no room in memory.
    pub disk: Stages,
    /// The same, compressed.
    pub disk_zstd: Stages,
    /// Every row computed, kept in memory and on disk.
    pub miss: Stages,
}

impl Profile {
    /// Times it.
    pub fn measure(workload: &Workload, data: &[Batch], passes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let persistent = |room, zstd| {
            Options::new()
                .persistent(true)
                .persistent_cache_dir(folder.path())
                .zstd_compression(zstd)
                .max_memory_cache_size(room)
        };
        let filled = |version: &str, zstd| {
            let cache = ours::cached(workload, version, persistent("8 GB", zstd));
            let stages = one_pass(&cache, data);
            expect(&cache.cache().stats(), |stats| stats.misses == stats.rows);
            assert!(cache.cache().flush(), "everything is written");
            (cache, stages)
        };
        let from_disk = |version: &str, zstd| {
            drop(filled(version, zstd));
            let cache = ours::cached(workload, version, persistent("0 B", zstd));
            let stages = best_of(passes + 1, || one_pass(&cache, data));
            expect(&cache.cache().stats(), |stats| {
                stats.disk_hits == stats.rows
            });
            stages
        };

        let miss = best_of(passes.min(3), || {
            let (cache, stages) = filled("misses", false);
            cache.cache().clear();
            stages
        });
        let (cache, _) = filled("memory", false);
        let before = cache.cache().stats();
        let memory = best_of(passes, || one_pass(&cache, data));
        expect(&cache.cache().stats(), |stats| {
            stats.memory_hits == stats.rows - before.rows
        });
        drop(cache);
        Profile {
            memory,
            disk: from_disk("raw", false),
            disk_zstd: from_disk("zstd", true),
            miss,
        }
    }
}

/// The fastest pass, with its own stages, so that they add up.
fn best_of(passes: usize, mut pass: impl FnMut() -> Stages) -> Stages {
    let passes = (0..passes).map(|_| pass());
    let fastest = passes.min_by(|one, other| one.call.total_cmp(&other.call));
    fastest.expect("at least one pass")
}

fn one_pass(cache: &Cached<Func<'static>>, data: &[Batch]) -> Stages {
    let before = cache.cache().stats();
    let call = pass(data, |xs: &Tensor| cache.forward(xs));
    let after = cache.cache().stats();
    let each = |time: fn(&Stats) -> Duration| {
        (time(&after) - time(&before)).as_secs_f64() * 1e3 / data.len() as f64
    };
    Stages {
        call,
        keys: each(|stats| stats.hashing),
        load: each(|stats| stats.loading),
        forward: each(|stats| stats.forward),
        store: each(|stats| stats.storing),
    }
}

/// A cache that serves a workload in one way, batch after batch.
pub struct Served<'a> {
    cache: Cached<Func<'static>>,
    data: &'a [Batch],
    turn: Cell<usize>,
    is_cold: bool,
    _folder: TempDir,
}

impl<'a> Served<'a> {
    /// Every row from memory.
    pub fn from_memory(workload: &Workload, data: &'a [Batch]) -> Self {
        Self::filled(workload, data, "8 GB", false)
    }

    /// Every row from disk, with no room in memory.
    pub fn from_disk(workload: &Workload, data: &'a [Batch], zstd: bool) -> Self {
        let filled = Self::filled(workload, data, "8 GB", zstd);
        let folder = filled._folder;
        drop(filled.cache);
        let cache = persistent(workload, folder.path(), "0 B", zstd);
        Served {
            cache,
            _folder: folder,
            ..filled
        }
    }

    /// Every row computed, kept in memory and on disk.
    pub fn cold(workload: &Workload, data: &'a [Batch]) -> Self {
        let filled = Self::filled(workload, data, "8 GB", false);
        Served {
            is_cold: true,
            ..filled
        }
    }

    fn filled(workload: &Workload, data: &'a [Batch], room: &str, zstd: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = persistent(workload, folder.path(), room, zstd);
        for batch in data {
            drop(cache.forward(&batch.input));
        }
        assert!(cache.cache().flush(), "everything is written");
        Served {
            cache,
            data,
            turn: Cell::new(0),
            is_cold: false,
            _folder: folder,
        }
    }

    /// Making keys.
    pub fn hashing(&self, calls: u64) -> Duration {
        self.time(calls, |before, after, _| after.hashing - before.hashing)
    }

    /// Everything else of a call: looking up, copying, assembling.
    pub fn but_for_hashing(&self, calls: u64) -> Duration {
        self.time(calls, |before, after, call| {
            call.saturating_sub(after.hashing - before.hashing)
        })
    }

    /// Of computed rows all but keys and the forward: handing them to the tiers, and assembling.
    pub fn storing(&self, calls: u64) -> Duration {
        self.time(calls, |before, after, call| {
            let hashing = after.hashing - before.hashing;
            let forward = after.forward - before.forward;
            call.saturating_sub(hashing + forward)
        })
    }

    /// What `part` gives for the statistics before and after the calls, and the time they took.
    fn time(&self, calls: u64, part: impl Fn(&Stats, &Stats, Duration) -> Duration) -> Duration {
        let cache = self.cache.cache();
        let mut total = Duration::ZERO;
        let mut left = calls;
        while left > 0 {
            // A pass at most, since after it the rows are known.
            let count = left.min(self.data.len() as u64);
            if self.is_cold {
                assert!(cache.flush(), "everything is written");
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
                let computed = after.misses - before.misses;
                computed
                    == if self.is_cold {
                        after.rows - before.rows
                    } else {
                        0
                    }
            });
            total += part(&before, &after, Duration::from_secs_f64(took / 1e3));
            left -= count;
        }
        total
    }
}

fn persistent(workload: &Workload, folder: &Path, room: &str, zstd: bool) -> Cached<Func<'static>> {
    let options = Options::new()
        .persistent(true)
        .persistent_cache_dir(folder)
        .zstd_compression(zstd)
        .max_memory_cache_size(room);
    ours::cached(workload, "stages", options)
}
