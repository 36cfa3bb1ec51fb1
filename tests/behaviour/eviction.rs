//! Which rows full tiers keep.

use std::path::PathBuf;

use tch::nn::Module;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Eviction, Options, OptionsBuilder, Stats, TorchCache, torchcache};

use crate::support::{Ran, device, same};

/// Rows of an epoch, and how many of them fit.
const ROWS: i64 = 400;
const FIT: u64 = 200;
/// Bytes of a row in memory, with its key and bookkeeping.
const ROW_BYTES: u64 = 16 * 4 + 176;

/// Requests every row once, in a new order, in batches, and returns the hits.
fn epoch(cached: &Cached<tch::nn::Func<'_>>, xs: &Tensor) -> u64 {
    let hits = |stats: Stats| stats.memory.hits + stats.disk.hits;
    let before = hits(cached.cache().stats());
    for batch in Tensor::randperm(ROWS, (Kind::Int64, Device::Cpu)).split(32, 0) {
        let xs = xs.index_select(0, &batch.to_device(device()));
        assert!(same(&cached.forward(&xs), &(&xs * 2)));
        cached.cache().flush().unwrap();
    }
    hits(cached.cache().stats()) - before
}

#[test]
fn by_default_repeated_epochs_hit_as_many_rows_as_fit() {
    let xs = Tensor::rand([ROWS, 16], (Kind::Float, device()));
    let hits = |options: OptionsBuilder| {
        let options = options
            .max_memory_cache_size(FIT * ROW_BYTES)
            .version("epochs");
        let cached = Cached::new(tch::nn::func(|xs| xs * 2), (), options.build().unwrap()).unwrap();
        (0..6).map(|_| epoch(&cached, &xs)).last().unwrap()
    };
    let (auto, lru) = (
        hits(Options::builder()),
        hits(Options::builder().eviction(Eviction::Lru)),
    );
    assert!((FIT * 19 / 20..=FIT).contains(&auto), "{auto} of {FIT}");
    assert!(lru < FIT / 2, "{lru} of {FIT}");
}

#[test]
fn never_evicting_fills_the_disk_tier_once() {
    let directory = tempfile::tempdir().unwrap();
    let xs = Tensor::rand([ROWS, 1000], (Kind::Float, device()));
    let options = Options::builder()
        .persistent(true)
        .persistent_cache_dir(directory.path())
        .max_memory_cache_size(0)
        .max_persistent_cache_size(FIT * 4_050)
        .eviction(Eviction::Never)
        .version("kept")
        .build()
        .unwrap();
    let cached = Cached::new(tch::nn::func(|xs| xs * 2), (), options).unwrap();
    assert_eq!(epoch(&cached, &xs), 0);
    let first = cached.cache().stats();
    assert!((FIT * 9 / 10..=FIT).contains(&first.disk.rows), "{first}");
    assert_eq!(first.disk.rows + first.disk.refused, ROWS as u64);
    for _ in 0..2 {
        assert_eq!(epoch(&cached, &xs), first.disk.rows, "the same rows");
    }
    let last = cached.cache().stats();
    assert_eq!(last.disk.bytes, first.disk.bytes);
    assert_eq!((last.disk.evicted, last.faults.total()), (0, 0));
}

/// A module of one version after the other, in one directory.
#[torchcache(persistent = true, max_memory_cache_size = 0)]
#[derive(Debug)]
struct Version {
    number: i64,
    #[torchcache(skip)]
    ran: Ran,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_max_persistent_cache_size: Option<u64>,
    cache: TorchCache,
}

#[torchcache]
impl nn::Module for Version {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * self.number
    }
}

#[test]
fn a_set_bound_holds_for_all_versions_in_a_directory() {
    const BOUND: u64 = 400_000;
    let directory = tempfile::tempdir().unwrap();
    let xs = Tensor::rand([40, 1000], (Kind::Float, device()));
    let bytes = || {
        let files = |path: &std::path::Path| {
            let entries = std::fs::read_dir(path).unwrap().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let caches = files(directory.path())
            .into_iter()
            .filter(|path| path.is_dir());
        let segments = caches.flat_map(|cache| files(&cache));
        let segments = segments.filter(|path| path.extension().is_some_and(|end| end == "tcs"));
        segments
            .map(|path| path.metadata().unwrap().len())
            .sum::<u64>()
    };
    let computed = |number: i64, bound| {
        let module = Version {
            number,
            ran: Ran::default(),
            torchcache_persistent_cache_dir: directory.path().to_owned(),
            torchcache_max_persistent_cache_size: bound,
            cache: TorchCache::default(),
        };
        assert!(same(&module.forward(&xs), &(&xs * number)));
        module.cache.flush().unwrap();
        let stats = module.cache.stats();
        assert_eq!(stats.faults.total(), 0, "{stats}");
        (module.ran.take().1, module)
    };
    // Not set: each version has its own.
    (0..5).for_each(|n| assert_eq!(computed(n, None).0, 40));
    (0..5).for_each(|n| assert_eq!(computed(n, None).0, 0));
    assert!(bytes() > 2 * BOUND);
    let mut live = Vec::new();
    for n in 10..20 {
        let (rows, module) = computed(n, Some(BOUND));
        assert_eq!(rows, 40);
        assert!(bytes() <= BOUND, "version {n}: {} bytes", bytes());
        if n % 2 == 0 {
            live.push(module);
        }
    }
    assert_eq!(computed(19, Some(BOUND)).0, 0, "the newest rows stay");
    assert_eq!(computed(0, Some(BOUND)).0, 40, "the oldest are gone");
}

#[test]
fn queued_rows_do_not_reduce_the_memory_tier() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::builder()
        .persistent(true)
        .persistent_cache_dir(directory.path())
        .eviction(Eviction::Lru)
        .max_memory_cache_size(32 * ROW_BYTES)
        .version("queued")
        .build()
        .unwrap();
    let cached = Cached::new(tch::nn::func(|xs| xs * 2), (), options).unwrap();
    let rows = |width: i64| Tensor::rand([32, width], (Kind::Float, device()));
    // The disk tier's queue pins the first rows when the second ones arrive.
    cached.forward(&rows(16));
    cached.forward(&rows(16));
    let stats = cached.cache().stats();
    assert_eq!((stats.memory.rows, stats.memory.evicted), (32, 0));
    cached.cache().flush().unwrap();
    // Once they are written, rows of another width have all of the memory.
    let wide = rows(40);
    for _ in 0..3 {
        cached.forward(&wide);
        cached.cache().flush().unwrap();
    }
    let stats = cached.cache().stats();
    assert!(stats.memory.hits > 0, "{stats}");
    assert!(stats.memory.bytes <= 32 * ROW_BYTES, "{stats}");
}

#[torchcache(persistent = true, max_memory_cache_size = 0)]
fn unbounded(xs: &Tensor) -> Tensor {
    xs * 2
}

#[torchcache(
    persistent = true,
    max_memory_cache_size = 0,
    max_persistent_cache_size = "200 KB"
)]
fn bounded(xs: &Tensor) -> Tensor {
    xs * 3
}

#[test]
fn a_set_bound_leaves_others_in_the_temporary_directory() {
    let xs = Tensor::rand([100, 1000], (Kind::Float, device()));
    let _ = unbounded(&xs);
    unbounded_cache().flush().unwrap();
    for rows in xs.split(10, 0) {
        let _ = bounded(&rows);
        bounded_cache().flush().unwrap();
    }
    let stats = bounded_cache().stats();
    assert!(stats.disk.bytes <= 200_000, "{stats}");
    assert!(stats.disk.evicted > 0, "{stats}");
    assert!(same(&unbounded(&xs), &(&xs * 2)));
    let stats = unbounded_cache().stats();
    assert_eq!((stats.misses, stats.disk.hits), (100, 100), "{stats}");
}
