//! `TorchCache::read_ahead`: a thread reads the rows of a call from the disk before that is made.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tch::Tensor;
use torchcache::{ErrorKind, Tier, TorchCache, torchcache};

use crate::persistent_module::{Kept, kept, segments};
use crate::support::{Scale, counts, random, same};

/// Waits for what the background thread does, as long as a slow machine may take.
#[track_caller]
pub(crate) fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "in vain");
        std::thread::yield_now();
    }
}

/// A module with these rows on disk and none in memory.
fn stored(root: &Path, xs: &Tensor) -> Kept {
    kept(root).forward(xs).unwrap();
    kept(root)
}

fn read_ahead(model: &Kept, xs: &Tensor) -> usize {
    model.torchcache.read_ahead(|| model.forward(xs)).unwrap()
}

fn brought(cache: &TorchCache) -> u64 {
    cache.stats().read_ahead
}

#[test]
fn rows_that_were_read_ahead_are_hits_in_memory() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[6, 4]);
    let model = stored(root.path(), &xs.narrow(0, 0, 5));
    assert_eq!(read_ahead(&model, &xs), 5, "one was never computed");
    wait_until(|| brought(&model.torchcache) == 5);
    let stats = model.torchcache.stats();
    assert_eq!((stats.memory.rows, stats.calls, stats.rows), (5, 0, 0));
    let rows = model.torchcache.peek(|| model.forward(&xs)).unwrap();
    let in_memory = rows.iter().filter(|row| row.tier == Some(Tier::Memory));
    assert_eq!(in_memory.count(), 5);
    assert_eq!(read_ahead(&model, &xs), 0);
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(counts(&model.torchcache), (1, 5, 0));
    assert_eq!(model.ran.take(), (1, 1));
    assert_eq!(brought(&model.torchcache), 5);
}

#[test]
fn an_epoch_that_reads_ahead_finds_every_row_in_memory() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[96, 4]);
    let model = stored(root.path(), &xs);
    for batch in xs.split(16, 0) {
        assert_eq!(read_ahead(&model, &batch), 16);
    }
    wait_until(|| brought(&model.torchcache) == 96);
    for batch in xs.split(16, 0) {
        assert!(same(&model.forward(&batch).unwrap(), &(&batch * 2.0)));
    }
    assert_eq!(counts(&model.torchcache), (0, 96, 0));
    assert_eq!(model.torchcache.stats().faults.total(), 0);
}

/// The thread is busy with other rows when the tiers are cleared.
#[test]
fn rows_that_are_cleared_before_they_are_read_stay_away() {
    let root = tempfile::tempdir().unwrap();
    let (large, xs) = (random(&[64, 200_000]), random(&[3, 4]));
    kept(root.path()).forward(&xs).unwrap();
    let model = stored(root.path(), &large);
    // It shares the tiers.
    let other = kept(root.path());
    other.forward(&random(&[1, 4])).unwrap();
    assert_eq!(
        (read_ahead(&model, &large), read_ahead(&model, &xs)),
        (64, 3)
    );
    model.torchcache.clear();
    // Waits for the thread.
    drop(model);
    assert_eq!(other.torchcache.stats().memory.rows, 0);
    assert!(same(&other.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(counts(&other.torchcache), (4, 0, 0));
}

#[test]
fn a_handle_that_is_dropped_ends_the_thread_and_writes_its_rows() {
    let root = tempfile::tempdir().unwrap();
    let (large, more) = (random(&[64, 100_000]), random(&[3, 4]));
    let model = stored(root.path(), &large);
    model.forward(&more).unwrap();
    for batch in large.split(8, 0) {
        assert_eq!(read_ahead(&model, &batch), 8);
    }
    assert_eq!(segments(root.path()).len(), 1);
    drop(model);
    assert_eq!(
        segments(root.path()).len(),
        2,
        "they were written meanwhile"
    );
    let reopened = kept(root.path());
    reopened.forward(&more).unwrap();
    assert_eq!(counts(&reopened.torchcache), (0, 0, 3));
}

#[test]
fn a_corrupt_row_is_a_fault_and_computed() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[4, 1000]);
    let model = stored(root.path(), &xs);
    let segment = &segments(root.path())[0];
    let mut bytes = fs::read(segment).unwrap();
    let within = bytes.len() / 4;
    bytes[within] ^= 1;
    fs::write(segment, bytes).unwrap();
    assert_eq!(read_ahead(&model, &xs), 4);
    wait_until(|| brought(&model.torchcache) == 3);
    assert_eq!(model.torchcache.stats().faults.total(), 1);
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(counts(&model.torchcache), (1, 3, 0));
}

#[test]
fn a_full_tier_that_admits_nothing_reads_nothing_ahead() {
    #[torchcache(persistent = true, eviction = "never", max_memory_cache_size = "1 MB")]
    #[derive(Debug)]
    struct Model {
        torchcache_persistent_cache_dir: std::path::PathBuf,
        cache: TorchCache,
    }
    #[torchcache]
    impl tch::nn::Module for Model {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
    let root = tempfile::tempdir().unwrap();
    let model = || Model {
        torchcache_persistent_cache_dir: root.path().to_owned(),
        cache: TorchCache::default(),
    };
    // 400 kB each.
    let xs = random(&[5, 100_000]);
    xs.apply(&model());
    let model = model();
    let read_ahead = |xs: &Tensor| model.cache.read_ahead(|| xs.apply(&model)).unwrap();
    assert_eq!(read_ahead(&xs), 5);
    wait_until(|| brought(&model.cache) > 0);
    let held = brought(&model.cache);
    assert!(held < 5, "{held}");
    assert!(same(&xs.apply(&model), &(&xs * 2)));
    assert_eq!(counts(&model.cache), (0, held, 5 - held));
}

#[test]
fn calls_without_a_disk_tier_or_keys_read_nothing() {
    let model = Scale::by(2.0);
    let xs = random(&[2, 3]);
    tch::nn::Module::forward(&model, &xs);
    let call = || tch::nn::Module::forward(&model, &xs);
    assert_eq!(model.cache.read_ahead(call).unwrap(), 0);
    let error = model.cache.read_ahead(|| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoCall);
    assert_eq!(brought(&model.cache), 0);
}
