//! Modules that change while their forward runs: by the forward itself, or by another thread.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{Ran, counts, device, logged, random, same, warnings};

/// Adds what it was called with before, as a recurrent layer does.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Recurrent<S> {
    state: S,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_persistent_module_hash: Option<String>,
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
struct Counting {
    count: Cell<f64>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Counting {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.count.add(xs)
    }
}

impl State for Counting {
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
        torchcache_persistent_module_hash: None,
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

/// Two runs over the same inputs give what the module gives without a cache.
#[track_caller]
fn assert_plain<S: State>(state: S, mut plain: S, hash: Option<&str>) {
    let root = tempfile::tempdir().unwrap();
    let mut model = recurrent(state, root.path());
    model.torchcache_persistent_module_hash = hash.map(str::to_owned);
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
    assert_eq!((stats.calls, stats.bypassed), (12, 12));
    // A hash that the program gives does not change.
    let expected = usize::from(hash.is_none());
    assert_eq!(warnings(&log, WARNING), expected, "{log:?}");
}

const WARNING: &str = "while the forward ran";

#[test]
fn a_forward_that_changes_its_module_is_not_cached() {
    let zeros = || Tensor::zeros([4], (Kind::Float, device()));
    let inner = || Counting {
        count: Cell::new(0.0),
        torchcache: TorchCache::default(),
    };
    for hash in [None, Some("given")] {
        assert_plain(zeros(), zeros(), hash);
        assert_plain(RefCell::new(zeros()), RefCell::new(zeros()), hash);
        assert_plain(Cell::new(0.0), Cell::new(0.0), hash);
        assert_plain(inner(), inner(), hash);
    }
}

/// Each call begins with the same state, so that the module hash does not change.
#[test]
fn a_state_that_is_reset_before_each_call_is_warned_of_once() {
    let root = tempfile::tempdir().unwrap();
    let zeros = Tensor::zeros([4], (Kind::Float, device()));
    let mut of_tensor = recurrent(zeros, root.path());
    let mut of_cell = recurrent(Cell::new(0.0), root.path());
    let xs = random(&[2, 4]);
    for (calls, expected) in [(19, 0), (21, 2)] {
        let (_, log) = logged(|| {
            for _ in 0..calls {
                of_tensor.state.reset();
                assert!(same(&of_tensor.forward(&xs), &xs));
                of_cell.state.reset();
                assert!(same(&of_cell.forward(&xs), &xs));
            }
        });
        assert_eq!(warnings(&log, WARNING), expected, "{log:?}");
    }
    for stats in [of_tensor.torchcache.stats(), of_cell.torchcache.stats()] {
        let counts = (stats.bypassed, stats.misses, stats.memory.rows);
        assert_eq!(counts, (40, 80, 0));
    }
}

/// Another thread writes these values to its weight while its forward runs.
#[torchcache]
#[derive(Debug)]
struct Raced {
    weight: Tensor,
    #[torchcache(skip)]
    writes: RefCell<Vec<f64>>,
    torchcache_persistent_module_hash: Option<String>,
    torchcache: TorchCache,
}

impl Raced {
    fn write(&self) {
        if let Some(value) = self.writes.borrow_mut().pop() {
            let mut weight = self.weight.shallow_clone();
            let write = std::thread::spawn(move || drop(weight.fill_(value)));
            write.join().unwrap();
        }
    }
}

#[torchcache]
impl Module for Raced {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let first = xs * &self.weight;
        self.write();
        let sum = first + xs * &self.weight;
        self.write();
        sum
    }
}

#[test]
fn rows_of_weights_that_change_meanwhile_are_not_kept() {
    // Compared element by element, and by samples; also back to what it was before.
    for (elements, writes, hash) in [
        (4, vec![7.0], None),
        (100_000, vec![7.0], None),
        (4, vec![1.0, 7.0], None),
        (100_000, vec![1.0, 7.0], None),
        (4, vec![7.0], Some("raced".to_owned())),
    ] {
        let mut model = Raced {
            weight: Tensor::ones([elements], (Kind::Float, device())),
            writes: RefCell::new(writes),
            torchcache_persistent_module_hash: hash,
            torchcache: TorchCache::default(),
        };
        let xs = random(&[3, elements]);
        assert!(same(&model.forward(&xs), &(&xs * 1.0 + &xs * 7.0)));
        let _ = model.weight.fill_(1.0);
        for _ in 0..2 {
            assert!(same(&model.forward(&xs), &(&xs * 1.0 + &xs * 1.0)));
        }
        assert_eq!(counts(&model.torchcache), (6, 3, 0));
        assert_eq!(model.torchcache.stats().bypassed, 1);
    }
}

/// What its first forward finds out stays.
#[torchcache]
#[derive(Debug)]
struct Lazy {
    mask: OnceLock<Tensor>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Lazy {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let mask = self
            .mask
            .get_or_init(|| Tensor::ones_like(&xs.get(0)) * 2.0);
        xs * mask
    }
}

#[test]
fn what_a_first_forward_finds_out_is_no_lasting_change() {
    let model = Lazy {
        mask: OnceLock::new(),
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
