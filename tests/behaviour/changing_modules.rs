//! Modules that change while their forward runs: by the forward itself, or by another thread.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{Ran, counts, device, logged, random, same};

/// Adds what it was called with before, as a recurrent layer does.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Recurrent<S> {
    state: S,
    torchcache_persistent_cache_dir: PathBuf,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

/// A state that is added to an output, and changed.
trait State: torchcache::Fingerprint + std::fmt::Debug + Send {
    fn add(&self, xs: &Tensor) -> Tensor;
    fn reset(&mut self);
}

/// Written in place.
impl State for Tensor {
    fn add(&self, xs: &Tensor) -> Tensor {
        let sum = xs + self;
        self.shallow_clone()
            .copy_(&sum.sum_dim_intlist(0, false, Kind::Float));
        sum
    }

    fn reset(&mut self) {
        let _ = self.zero_();
    }
}

/// Replaced.
impl State for RefCell<Tensor> {
    fn add(&self, xs: &Tensor) -> Tensor {
        let sum = xs + &*self.borrow();
        self.replace(sum.sum_dim_intlist(0, false, Kind::Float));
        sum
    }

    fn reset(&mut self) {
        let zeros = self.borrow().zeros_like();
        self.replace(zeros);
    }
}

/// A number.
impl State for Cell<f64> {
    fn add(&self, xs: &Tensor) -> Tensor {
        self.set(self.get() + 1.0);
        xs * self.get()
    }

    fn reset(&mut self) {
        self.set(0.0);
    }
}

/// That of a module inside.
#[torchcache(enabled = false)]
#[derive(Debug)]
struct Inner {
    count: Cell<f64>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Inner {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.count.add(xs)
    }
}

impl State for Inner {
    fn add(&self, xs: &Tensor) -> Tensor {
        self.forward(xs)
    }

    fn reset(&mut self) {
        self.count.set(0.0);
    }
}

#[torchcache]
impl<S: State> Module for Recurrent<S> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        self.state.add(xs)
    }
}

fn recurrent<S>(state: S, directory: &Path) -> Recurrent<S> {
    Recurrent {
        state,
        torchcache_persistent_cache_dir: directory.to_owned(),
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

/// Two runs over the same inputs give what the module gives without a cache.
#[track_caller]
fn assert_plain<S: State>(state: S, mut plain: S) {
    let root = tempfile::tempdir().unwrap();
    let mut model = recurrent(state, root.path());
    let inputs = [2, 3, 2].map(|rows| random(&[rows, 4]));
    let (_, log) = logged(|| {
        for _ in 0..2 {
            model.state.reset();
            plain.reset();
            for xs in inputs.iter().chain(&inputs) {
                assert!(same(&model.forward(xs), &plain.add(xs)));
            }
        }
    });
    assert_eq!(model.ran.take(), (12, 28), "no row is found");
    model.torchcache.flush().unwrap();
    let stats = model.torchcache.stats();
    assert_eq!((stats.memory.rows, stats.disk.rows), (0, 0));
    let warned = log
        .iter()
        .filter(|line| line.contains("during the forward"));
    assert_eq!(warned.count(), 1, "{log:?}");
}

#[test]
fn a_forward_that_changes_its_module_is_not_cached() {
    let zeros = || Tensor::zeros([4], (Kind::Float, device()));
    assert_plain(zeros(), zeros());
    assert_plain(RefCell::new(zeros()), RefCell::new(zeros()));
    assert_plain(Cell::new(0.0), Cell::new(0.0));
    let inner = || Inner {
        count: Cell::new(0.0),
        torchcache: TorchCache::default(),
    };
    assert_plain(inner(), inner());
}

/// Its weight is written by another thread where it is asked for.
#[torchcache]
#[derive(Debug)]
struct Raced {
    weight: Tensor,
    #[torchcache(skip)]
    races: Cell<bool>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Raced {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let first = xs * &self.weight;
        if self.races.get() {
            let mut weight = self.weight.shallow_clone();
            let write = std::thread::spawn(move || drop(weight.fill_(7.0)));
            write.join().unwrap();
        }
        first + xs * &self.weight
    }
}

#[test]
fn rows_of_weights_that_change_meanwhile_are_not_kept() {
    // Compared element by element, and by samples.
    for elements in [4, 100_000] {
        let mut model = Raced {
            weight: Tensor::ones([elements], (Kind::Float, device())),
            races: Cell::new(true),
            torchcache: TorchCache::default(),
        };
        let xs = random(&[3, elements]);
        assert!(same(&model.forward(&xs), &(&xs * 1.0 + &xs * 7.0)));
        model.races.set(false);
        let _ = model.weight.fill_(1.0);
        for _ in 0..2 {
            assert!(same(&model.forward(&xs), &(&xs * 1.0 + &xs * 1.0)));
        }
        assert_eq!(counts(&model.torchcache), (6, 3, 0));
    }
}

/// What its first forward finds out stays.
#[torchcache]
#[derive(Debug)]
struct Lazy {
    mask: OnceLock<Tensor>,
    /// Written at each call, with the same values.
    scratch: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Lazy {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let mask = self
            .mask
            .get_or_init(|| Tensor::ones_like(&xs.get(0)) * 2.0);
        let _ = self.scratch.shallow_clone().fill_(1.0);
        xs * mask
    }
}

#[test]
fn a_module_that_is_as_before_after_its_forward_is_cached() {
    let model = Lazy {
        mask: OnceLock::new(),
        scratch: Tensor::ones([100_000], (Kind::Float, device())),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[3, 4]);
    for hits in [0, 0, 3, 6] {
        assert!(same(&model.forward(&xs), &(&xs * 2.0)));
        assert_eq!(model.torchcache.stats().memory.hits, hits);
    }
    let other = random(&[2, 4]);
    for hits in [6, 8] {
        assert!(same(&model.forward(&other), &(&other * 2.0)));
        assert_eq!(model.torchcache.stats().memory.hits, hits);
    }
}
