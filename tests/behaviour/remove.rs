//! `TorchCache::remove`, `remove_keys` and `recompute`: single rows go from all tiers, and are computed again.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use tch::nn::{self, Module, ModuleT};
use tch::{Tensor, no_grad};
use torchcache::{ErrorKind, PeekedRow, TorchCache, torchcache};

use crate::multi_process::{child, succeed};
use crate::persistent_module::{kept, segments};
use crate::support::{Scale, counts, random, same};

fn keys(rows: &[PeekedRow]) -> Vec<[u8; 32]> {
    rows.iter().map(|row| row.key).collect()
}

#[test]
fn removed_rows_are_computed_again() {
    let model = Scale::by(2.0);
    let xs = random(&[4, 3]);
    let remove = |xs: &Tensor| model.cache.remove(|| model.forward(xs)).unwrap();
    assert!(
        !remove(&xs)[0].is_cached(),
        "before the first call there are none"
    );
    model.forward(&xs);
    let before = model.cache.stats();
    let middle = Tensor::cat(
        &[&xs.narrow(0, 1, 2), &xs.narrow(0, 1, 1), &random(&[1, 3])],
        0,
    );
    let removed = remove(&middle);
    let cached: Vec<bool> = removed.iter().map(PeekedRow::is_cached).collect();
    assert_eq!(cached, [true, true, true, false]);
    let since = model.cache.stats().since(&before);
    assert_eq!((since.calls, since.hits(), since.misses), (0, 0, 0));
    assert_eq!(model.cache.stats().memory.rows, 2);
    assert_eq!(model.ran.take(), (1, 4), "no body ran");
    assert!(same(&model.forward(&xs), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (1, 2), "those that were removed");
    assert_eq!(counts(&model.cache), (6, 2, 0));
}

#[test]
fn rows_are_removed_from_the_disk_by_arguments_and_by_key() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[6, 11]);
    let first = kept(root.path());
    first.forward(&xs).unwrap();
    first.torchcache.flush().unwrap();
    // One on disk alone, one in memory as well, and one that is queued.
    let more = random(&[2, 11]);
    let model = kept(root.path());
    model.forward(&xs.narrow(0, 1, 2)).unwrap();
    model.forward(&more).unwrap();
    let call = |xs: &Tensor| model.forward(xs).unwrap();
    let removed = [xs.narrow(0, 0, 2), more.narrow(0, 0, 1)].map(|xs| {
        model.torchcache.remove(|| call(&xs)).unwrap();
        xs
    });
    let by_key = model.torchcache.peek(|| call(&xs.narrow(0, 5, 1))).unwrap();
    model.torchcache.remove_keys(&keys(&by_key)).unwrap();
    let left = Tensor::cat(&[&xs.narrow(0, 2, 3), &more.narrow(0, 1, 1)], 0);
    let gone = Tensor::cat(&[&removed[0], &removed[1], &xs.narrow(0, 5, 1)], 0);
    let fresh = kept(root.path());
    for model in [&model, &fresh] {
        let rows = |xs: &Tensor| {
            model
                .torchcache
                .peek(|| model.forward(xs).unwrap())
                .unwrap()
        };
        assert!(rows(&left).iter().all(PeekedRow::is_cached));
        assert!(!rows(&gone).iter().any(PeekedRow::is_cached));
    }
    drop((first, model, fresh));
    let reopened = kept(root.path());
    reopened.forward(&Tensor::cat(&[&left, &gone], 0)).unwrap();
    assert_eq!(reopened.ran.take(), (1, 4));
    assert_eq!(counts(&reopened.torchcache), (4, 0, 4));
    assert_eq!(reopened.torchcache.stats().faults.total(), 0);
}

#[test]
fn another_process_computes_removed_rows() {
    let root = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| succeed(child(Some(root.path()), words));
    run(&["store", "0", "20"]);
    run(&["remove", "5", "10"]);
    assert_eq!(run(&["store", "0", "20"]), "hits 10 misses 10 faults []");
    assert_eq!(run(&["store", "0", "20"]), "hits 20 misses 0 faults []");
}

/// It has computed its rows before they are removed, and stores them afterwards.
#[test]
fn a_call_under_way_brings_no_row_back() {
    #[torchcache(persistent = true)]
    #[derive(Debug)]
    struct Model {
        torchcache_persistent_cache_dir: PathBuf,
        #[torchcache(skip)]
        removes: Cell<Option<[u8; 32]>>,
        cache: TorchCache,
    }
    #[torchcache]
    impl nn::Module for Model {
        fn forward(&self, xs: &Tensor) -> Tensor {
            let output = xs * 2;
            if let Some(key) = self.removes.take() {
                self.cache.remove_keys(&[key]).unwrap();
            }
            output
        }
    }
    let root = tempfile::tempdir().unwrap();
    let model = Model {
        torchcache_persistent_cache_dir: root.path().to_owned(),
        removes: Cell::new(None),
        cache: TorchCache::default(),
    };
    let xs = random(&[3, 2]);
    let peek = || model.cache.peek(|| model.forward(&xs)).unwrap();
    model.removes.set(Some(peek()[1].key));
    assert!(same(&model.forward(&xs), &(&xs * 2)));
    assert!(!peek().iter().any(PeekedRow::is_cached));
    model.cache.flush().unwrap();
    assert_eq!(segments(root.path()).len(), 0);
    model.forward(&xs);
    assert!(peek().iter().all(PeekedRow::is_cached));
}

/// Its rows differ from call to call.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Counting {
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_enabled: bool,
    #[torchcache(skip)]
    calls: Cell<i64>,
    #[torchcache(skip)]
    rows: Cell<i64>,
    cache: TorchCache,
}

#[torchcache]
impl nn::ModuleT for Counting {
    fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor {
        self.calls.set(self.calls.get() + 1);
        self.rows.set(self.rows.get() + xs.size()[0]);
        xs * self.calls.get()
    }
}

fn counting(root: &Path, calls: i64) -> Counting {
    Counting {
        torchcache_persistent_cache_dir: root.to_owned(),
        torchcache_enabled: true,
        calls: Cell::new(calls),
        rows: Cell::new(0),
        cache: TorchCache::default(),
    }
}

#[test]
fn recomputed_rows_replace_those_of_all_tiers() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[3, 11]);
    let first = counting(root.path(), 0);
    let call = |model: &Counting, xs: &Tensor| model.forward_t(xs, false);
    assert!(same(&call(&first, &xs), &xs));
    drop(first);
    // On disk; then in memory as well.
    let model = counting(root.path(), 6);
    let recompute = |xs: &Tensor| model.cache.recompute(|| call(&model, xs)).unwrap();
    let two = xs.narrow(0, 0, 2);
    assert!(same(&recompute(&two), &(&two * 7)));
    assert!(same(&recompute(&two), &(&two * 8)));
    assert_eq!((model.calls.get(), model.rows.get()), (8, 4));
    let stats = model.cache.stats();
    assert_eq!((stats.misses, stats.hits(), stats.bypassed), (4, 0, 0));
    let expected = Tensor::cat(&[&two * 8, xs.narrow(0, 2, 1)], 0);
    assert!(same(&call(&model, &xs), &expected));
    assert_eq!(counts(&model.cache), (4, 2, 1));
    drop(model);
    let reopened = counting(root.path(), 0);
    assert!(same(&call(&reopened, &xs), &expected));
    assert_eq!(
        (reopened.calls.get(), counts(&reopened.cache)),
        (0, (0, 0, 3))
    );
}

#[test]
fn a_recomputed_call_may_bypass_the_cache() {
    let root = tempfile::tempdir().unwrap();
    let mut model = counting(root.path(), 0);
    let xs = random(&[2, 11]);
    model.forward_t(&xs, false);
    let recompute = |model: &Counting, train| {
        let call = || model.forward_t(&xs, train);
        model.cache.recompute(call).unwrap()
    };
    assert!(same(&recompute(&model, true), &(&xs * 2)));
    model.torchcache_enabled = false;
    assert!(same(&recompute(&model, false), &(&xs * 3)));
    model.torchcache_enabled = true;
    assert!(same(&model.forward_t(&xs, false), &xs), "its rows stay");
    let empty = model
        .cache
        .recompute(|| model.forward_t(&xs.narrow(0, 0, 0), false));
    assert_eq!(empty.unwrap().size(), [0, 11]);
    assert!(same(&recompute(&model, false), &(&xs * 5)));
}

/// A process learns from the body which functions it calls, and their code is in the keys.
#[test]
fn rows_whose_callees_are_not_known_are_recomputed() {
    #[torchcache]
    fn inner(xs: &Tensor) -> Tensor {
        xs + 1
    }
    fn helper(xs: &Tensor) -> Tensor {
        inner(xs)
    }
    #[torchcache(persistent = true)]
    #[derive(Debug)]
    struct Outer {
        torchcache_persistent_cache_dir: PathBuf,
        #[torchcache(skip)]
        calls: Cell<i64>,
        cache: TorchCache,
    }
    #[torchcache]
    impl nn::Module for Outer {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.calls.set(self.calls.get() + 1);
            helper(xs) * self.calls.get()
        }
    }
    let root = tempfile::tempdir().unwrap();
    let outer = |calls| Outer {
        torchcache_persistent_cache_dir: root.path().to_owned(),
        calls: Cell::new(calls),
        cache: TorchCache::default(),
    };
    let xs = random(&[2, 11]);
    let first = outer(0);
    first.forward(&xs);
    first.forward(&xs);
    assert_eq!(first.calls.get(), 1);
    drop(first);
    let second = outer(10);
    let computed = second.cache.recompute(|| second.forward(&xs)).unwrap();
    assert!(same(&computed, &((&xs + 1) * second.calls.get())));
    assert!(same(&second.forward(&xs), &computed));
    drop(second);
    // It learns from another row.
    let third = outer(20);
    third.forward(&random(&[2, 11]));
    assert!(same(&third.forward(&xs), &computed));
    assert_eq!(third.calls.get(), 21);
}

#[test]
fn what_is_not_removed_is_an_error() {
    let model = Scale::by(2.0);
    let xs = random(&[2, 11]);
    let none = model.cache.remove_keys(&[[7; 32]]).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NoCall);
    assert!(none.to_string().contains("before the first call"), "{none}");
    for error in [
        model.cache.remove(|| ()).unwrap_err(),
        model.cache.recompute(|| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NoCall);
    }
    let trained = no_grad(|| {
        let net = counting(Path::new("/nowhere"), 0);
        net.cache.remove(|| net.forward_t(&xs, true)).unwrap_err()
    });
    assert_eq!(trained.kind(), ErrorKind::Bypassed);

    let root = tempfile::tempdir().unwrap();
    let model = kept(root.path());
    model.forward(&xs).unwrap();
    model.torchcache.flush().unwrap();
    let segment = &segments(root.path())[0];
    let sound = fs::read(segment).unwrap();
    fs::write(segment, [&sound[..sound.len() - 1], b"?"].concat()).unwrap();
    let error = model.torchcache.remove(|| model.forward(&xs).unwrap());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRemoved, "{error}");
    let text = String::from(error);
    let name = segment.file_name().unwrap().to_string_lossy();
    assert!(text.contains(&*name), "{text}");
    fs::write(segment, sound).unwrap();
    model
        .torchcache
        .remove(|| model.forward(&xs).unwrap())
        .unwrap();
    model.forward(&xs).unwrap();
    assert_eq!(model.ran.take(), (2, 4));
}

/// As where a row is peeked.
#[test]
fn a_placeholder_of_another_cache_is_not_recomputed() {
    #[torchcache]
    fn first(xs: &Tensor) -> Tensor {
        xs + 1
    }
    #[torchcache]
    fn second(#[id] ids: &[i64], list: &[Tensor]) -> Tensor {
        Tensor::from_slice(ids) * (list.len() as i64 + 1)
    }
    let xs = random(&[1, 2]);
    let call = || {
        drop(first(&xs));
        second_cache().recompute(|| second(&[3], &[])).unwrap()
    };
    first_cache().remove(call).unwrap();
    assert_eq!(second_cache().stats().memory.rows, 0);
}
