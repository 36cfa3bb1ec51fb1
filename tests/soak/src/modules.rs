//! Modules whose outputs follow from their inputs, so that each element can be compared.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};

/// Elements of a row: more than a batch has rows, since as many would run the forward once more.
pub const WIDTH: i64 = 47;

/// The rows of these numbers: each element says which row it is of, and which of it.
pub fn rows(numbers: &[i64]) -> Tensor {
    let numbers = Tensor::from_slice(numbers).to_kind(Kind::Float);
    let places = Tensor::arange(WIDTH, (Kind::Float, Device::Cpu)) / 64.0;
    numbers.view([-1, 1]) + places
}

/// Compares every element of an output.
#[track_caller]
pub fn check(output: &Tensor, expected: &Tensor) {
    assert_eq!(
        (output.size(), output.kind()),
        (expected.size(), expected.kind())
    );
    assert!(output.equal(expected), "{output} is not {expected}");
}

/// `x * factor + 1`, which panics on demand.
#[torchcache(persistent = true, max_memory_cache_size = "200 KB")]
#[derive(Debug)]
pub struct Scale {
    /// The factor.
    pub factor: f64,
    /// How many rows the forward has seen.
    #[torchcache(skip)]
    pub ran: Cell<i64>,
    /// Whether the forward panics.
    #[torchcache(skip)]
    pub panics: Cell<bool>,
    torchcache_persistent_cache_dir: PathBuf,
    /// Its cache.
    pub torchcache: TorchCache,
}

impl Scale {
    /// A module with this factor and cache directory.
    pub fn by(factor: f64, dir: &Path) -> Scale {
        Scale {
            factor,
            ran: Cell::new(0),
            panics: Cell::new(false),
            torchcache_persistent_cache_dir: dir.to_owned(),
            torchcache: TorchCache::default(),
        }
    }

    /// The right output.
    pub fn expected(&self, xs: &Tensor) -> Tensor {
        xs * self.factor + 1.0
    }
}

#[torchcache]
impl Module for Scale {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.set(self.ran.get() + xs.size()[0]);
        assert!(!self.panics.get(), "as asked");
        xs * self.factor + 1.0
    }
}

/// A cached module that calls a cached module.
#[torchcache(persistent = true, max_memory_cache_size = "200 KB")]
#[derive(Debug)]
pub struct Outer {
    /// The module that it calls.
    pub inner: Scale,
    /// How many rows the forward has seen.
    #[torchcache(skip)]
    pub ran: Cell<i64>,
    torchcache_persistent_cache_dir: PathBuf,
    /// Its cache.
    pub torchcache: TorchCache,
}

impl Outer {
    /// A module around another one, with the same kind of cache.
    pub fn over(inner: Scale, dir: &Path) -> Outer {
        Outer {
            inner,
            ran: Cell::new(0),
            torchcache_persistent_cache_dir: dir.to_owned(),
            torchcache: TorchCache::default(),
        }
    }

    /// The right output.
    pub fn expected(&self, xs: &Tensor) -> Tensor {
        -self.inner.expected(xs)
    }
}

#[torchcache]
impl Module for Outer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.set(self.ran.get() + xs.size()[0]);
        -self.inner.forward(xs)
    }
}
