//! The stages of a call by the cache's own clocks: `stats()` before and after a pass.

use std::path::Path;
use std::time::Duration;

use tch::nn::Func;
use torchcache::{Cached, Options, Stats};

use crate::clock;
use crate::ours::{self, expect};
use crate::workload::{Batch, Workload};

/// Milliseconds per call, by stage, in the fastest of several passes.
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
    /// The remaining time: checking arguments and weights, assembling.
    pub fn rest(&self) -> f64 {
        (self.call - self.keys - self.load - self.forward - self.store).max(0.0)
    }
}

/// The source of every row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Memory,
    /// With no room in memory.
    Disk {
        zstd: bool,
    },
    /// The forward; rows are stored in memory and on disk.
    Forward,
}

/// A workload served in each way, by stage.
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
        let serve = |source, passes| serve(workload, data, source, passes);
        Profile {
            memory: serve(Source::Memory, passes),
            disk: serve(Source::Disk { zstd: false }, passes),
            disk_zstd: serve(Source::Disk { zstd: true }, passes),
            // Everything is written between two passes, which takes longer than a pass.
            miss: serve(Source::Forward, passes.div_ceil(3)),
        }
    }
}

/// Serves every row from one source. The stages are those of one pass, so that they add up.
fn serve(workload: &Workload, data: &[Batch], source: Source, passes: usize) -> Stages {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let zstd = source == Source::Disk { zstd: true };
    let open = |room| persistent(workload, folder.path(), room, zstd);
    let mut cache = open("8 GB");
    for batch in data {
        drop(cache.forward(&batch.input));
    }
    cache.cache().flush().expect("everything is written");
    if let Source::Disk { .. } = source {
        // The memory tier is freed with the last handle.
        drop(cache);
        cache = open("0 B");
    }
    let passes = (0..passes).map(|_| pass(&cache, data, source));
    let fastest = passes.min_by(|one, other| one.call.total_cmp(&other.call));
    fastest.expect("at least one pass")
}

fn pass(cached: &Cached<Func<'static>>, data: &[Batch], source: Source) -> Stages {
    let cache = cached.cache();
    if source == Source::Forward {
        cache.flush().expect("everything is written");
        cache.clear();
    }
    let before = cache.stats();
    let call = clock::pass(data, |xs| cached.forward(xs));
    let after = cache.stats();
    let from_source = |stats: &Stats| match source {
        Source::Memory => stats.memory.hits,
        Source::Disk { .. } => stats.disk.hits,
        Source::Forward => stats.misses,
    };
    expect(&after, |after| {
        from_source(after) - from_source(&before) == after.rows - before.rows
    });
    let each = |time: fn(&Stats) -> Duration| {
        (time(&after) - time(&before)).as_secs_f64() * 1e3 / data.len() as f64
    };
    Stages {
        call,
        keys: each(|stats| stats.time.hashing),
        load: each(|stats| stats.time.loading),
        forward: each(|stats| stats.time.forward),
        store: each(|stats| stats.time.storing),
    }
}

fn persistent(workload: &Workload, folder: &Path, room: &str, zstd: bool) -> Cached<Func<'static>> {
    let options = Options::builder()
        .persistent(true)
        .persistent_cache_dir(folder)
        .zstd_compression(zstd)
        .max_memory_cache_size(room);
    ours::cached(workload, "stages", options)
}
