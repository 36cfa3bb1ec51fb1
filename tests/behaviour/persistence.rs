//! The disk tier: rows outlive an instance, under every option.

use std::fs;

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::{TorchCache, prefill, torchcache};

use crate::persistent_module::{Kept, kept, segments};
use crate::support::{Ran, counts, device, logged, random, same};

#[test]
fn rows_persist_under_every_storage_option() {
    let xs = Tensor::arange(300, (Kind::Float, device())).view([50, 6]) / 7.0;
    for (zstd, mmap, dtype) in [
        (false, false, None),
        (true, false, None),
        (false, true, None),
        (true, true, Some(Kind::Half)),
        (false, false, Some(Kind::BFloat16)),
    ] {
        let root = tempfile::tempdir().unwrap();
        let open = || Kept {
            torchcache_zstd_compression: zstd,
            torchcache_use_mmap_on_load: mmap,
            torchcache_cache_dtype: dtype,
            ..kept(root.path())
        };
        let first = open();
        let computed = first.forward(&xs).unwrap();
        assert_eq!(first.ran.take(), (1, 50));
        drop(first);
        assert_eq!(segments(root.path()).len(), 1, "one call, one file");
        let second = open();
        let from_disk = second.forward(&xs).unwrap();
        assert!(
            same(&from_disk, &computed),
            "zstd {zstd}, mmap {mmap}, {dtype:?}"
        );
        assert_eq!(second.ran.take(), (0, 0));
        assert_eq!(counts(&second.torchcache), (0, 0, 50));
        assert_eq!(second.torchcache.stats().disk.rows, 50);
        second.forward(&xs).unwrap();
        assert_eq!(
            counts(&second.torchcache),
            (0, 50, 50),
            "rows read are kept in memory"
        );
        // Records say how they are encoded: other options read them too.
        let third = Kept {
            torchcache_cache_dtype: dtype,
            ..kept(root.path())
        };
        assert!(same(&third.forward(&xs).unwrap(), &computed));
        assert_eq!(third.ran.take(), (0, 0));
    }
}

#[test]
fn a_batch_mixes_memory_disk_and_forward() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[30, 4]);
    kept(root.path()).forward(&xs.narrow(0, 0, 10)).unwrap();
    let model = kept(root.path());
    model.forward(&xs.narrow(0, 20, 10)).unwrap();
    model.ran.take();
    let shuffled = Tensor::randperm(30, (Kind::Int64, device()));
    let batch = xs.index_select(0, &shuffled);
    assert!(same(&model.forward(&batch).unwrap(), &(&batch * 2.0)));
    assert_eq!(model.ran.take(), (1, 10));
    assert_eq!(counts(&model.torchcache), (20, 10, 10));
}

#[test]
fn queued_rows_are_hits_without_a_memory_tier() {
    let root = tempfile::tempdir().unwrap();
    let model = Kept {
        torchcache_max_memory_cache_size: 0,
        ..kept(root.path())
    };
    let xs = random(&[20, 4]);
    model.forward(&xs).unwrap();
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (1, 20));
    model.torchcache.flush().unwrap();
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (0, 0));
    assert_eq!(model.torchcache.stats().disk.hits, 40);
}

#[test]
fn instances_in_two_directories_do_not_share() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let xs = random(&[5, 4]);
    let (first, second) = (kept(one.path()), kept(two.path()));
    first.forward(&xs).unwrap();
    second.forward(&xs).unwrap();
    assert_eq!(second.ran.take(), (1, 5));
    let third = kept(one.path());
    third.forward(&xs).unwrap();
    assert_eq!(third.ran.take(), (0, 0));
    // From the memory tier of the live instance.
    assert_eq!(counts(&third.torchcache), (0, 5, 0));
}

#[torchcache(persistent = true)]
#[derive(Debug, Default)]
struct Private {
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Private {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2
    }
}

#[test]
fn a_cache_without_a_directory_gets_a_private_one() {
    use std::os::unix::fs::PermissionsExt;
    let model = Private::default();
    assert_eq!(model.torchcache.directory(), None);
    let (_, lines) = logged(|| model.forward(&random(&[2, 2])));
    let directory = model.torchcache.directory().unwrap();
    let logged = format!("directory={}", directory.display());
    assert!(
        lines.iter().any(|line| line.contains(&logged)),
        "{lines:#?}"
    );
    let private = directory.parent().unwrap();
    assert!(private.starts_with(std::env::temp_dir()), "{private:?}");
    assert_eq!(
        fs::metadata(private).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

/// Its rows may be in memory before it has a directory.
#[torchcache]
#[derive(Debug)]
struct Switched {
    factor: f64,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: std::path::PathBuf,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Switched {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * self.factor
    }
}

fn switched(directory: &std::path::Path, persistent: bool) -> Switched {
    Switched {
        factor: 2.0,
        torchcache_persistent: persistent,
        torchcache_persistent_cache_dir: directory.to_owned(),
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

/// Whether all rows of `xs` are on disk below `directory`.
fn all_on_disk(directory: &std::path::Path, xs: &Tensor) -> bool {
    let elsewhere = tempfile::tempdir().unwrap();
    copy_segments(directory, elsewhere.path());
    let model = switched(elsewhere.path(), true);
    assert!(same(&model.forward(xs), &(xs * 2.0)));
    model.ran.take() == (0, 0)
}

/// Copies the caches of a directory: a handle of this process shares the memory tier of one that uses
/// the same directory.
fn copy_segments(from: &std::path::Path, to: &std::path::Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_segments(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn rows_in_memory_follow_to_a_new_directory() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut model = switched(first.path(), false);
    let xs = random(&[100, 4]);
    model.forward(&xs);
    model.torchcache_persistent = true;
    assert!(same(&model.forward(&xs), &(&xs * 2.0)));
    model.torchcache.flush().unwrap();
    assert!(all_on_disk(first.path(), &xs), "switched on");
    model.torchcache_persistent_cache_dir = second.path().to_owned();
    // The others are written by the flush.
    model.forward(&xs.narrow(0, 0, 10));
    model.torchcache.flush().unwrap();
    assert!(all_on_disk(second.path(), &xs), "another directory");
    assert_eq!(model.ran.take(), (1, 100));
}

#[test]
fn rows_of_a_hash_that_returns_follow_to_a_new_directory() {
    let xs = random(&[100, 4]);
    // In memory alone before, or in another directory; found again before the flush, or not.
    for (persistent, found) in [(false, true), (false, false), (true, true), (true, false)] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut model = switched(first.path(), persistent);
        model.forward(&xs);
        model.factor = 3.0;
        assert!(same(&model.forward(&xs), &(&xs * 3.0)));
        model.factor = 2.0;
        model.torchcache_persistent = true;
        model.torchcache_persistent_cache_dir = second.path().to_owned();
        let called = if found { 100 } else { 2 };
        assert!(same(
            &model.forward(&xs.narrow(0, 0, called)),
            &(xs.narrow(0, 0, called) * 2.0)
        ));
        model.torchcache.flush().unwrap();
        assert_eq!(model.ran.take(), (2, 200), "it is found in memory");
        assert!(
            all_on_disk(second.path(), &xs),
            "persistent before: {persistent}, all found again: {found}"
        );
        let stats = model.torchcache.stats();
        assert_eq!(stats.disk.rows, 100, "no row of the other factor");
    }
}

#[test]
fn rows_that_a_disk_lost_are_written_by_the_next_flush() {
    let root = tempfile::tempdir().unwrap();
    let model = switched(root.path(), true);
    let xs = random(&[100, 4]);
    model.forward(&xs.narrow(0, 0, 2));
    model.torchcache.flush().unwrap();
    let directory = model.torchcache.directory().unwrap();
    let away = root.path().join("away");
    fs::rename(&directory, &away).unwrap();
    fs::write(&directory, "").unwrap();
    prefill(&model, [&xs]);
    model.torchcache.flush().expect_err("the directory is away");
    fs::remove_file(&directory).unwrap();
    fs::rename(&away, &directory).unwrap();
    prefill(&model, [&xs]);
    model.torchcache.flush().unwrap();
    assert!(all_on_disk(root.path(), &xs));
    assert_eq!(model.ran.take(), (2, 100));
}

/// `x * 2`, which clears its own cache while it runs.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Clearing {
    #[torchcache(skip)]
    clears: std::cell::Cell<bool>,
    torchcache_persistent_cache_dir: std::path::PathBuf,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Clearing {
    fn forward(&self, xs: &Tensor) -> Tensor {
        if self.clears.get() {
            self.torchcache.clear();
        }
        xs * 2.0
    }
}

#[test]
fn rows_computed_during_a_clear_are_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let model = Clearing {
        clears: false.into(),
        torchcache_persistent_cache_dir: root.path().to_owned(),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[20, 4]);
    model.forward(&xs.narrow(0, 0, 10));
    model.torchcache.flush().unwrap();
    model.clears.set(true);
    assert!(same(&model.forward(&xs), &(&xs * 2.0)));
    model.torchcache.flush().unwrap();
    let stats = model.torchcache.stats();
    assert_eq!((stats.memory.rows, stats.disk.rows), (0, 0));
    assert_eq!(segments(root.path()).len(), 0);
    model.clears.set(false);
    for misses in [40, 40] {
        assert!(same(&model.forward(&xs), &(&xs * 2.0)));
        assert_eq!(model.torchcache.stats().misses, misses);
    }
}
