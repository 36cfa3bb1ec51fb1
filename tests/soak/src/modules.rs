//! Modules whose outputs everybody can tell from their inputs, so that each element can be checked.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};
use torchcache_faults::Tally;

/// Elements of a row.
pub(crate) const WIDTH: i64 = 33;

/// The rows of these numbers: each element says which row it is of, and which of it.
pub(crate) fn rows(numbers: &[i64]) -> Tensor {
    let numbers = Tensor::from_slice(numbers).to_kind(Kind::Float);
    let places = Tensor::arange(WIDTH, (Kind::Float, Device::Cpu)) / 64.0;
    numbers.view([-1, 1]) + places
}

/// Counts the rows of an output that are right, and those that are not.
pub(crate) fn check(tally: &mut Tally, output: &Tensor, expected: &Tensor) {
    let rows = expected.size()[0] as u64;
    tally.rows += rows;
    if output.size() != expected.size() || output.kind() != expected.kind() {
        tally.wrong += rows;
        return;
    }
    if rows == 0 {
        return;
    }
    let differs = output
        .ne_tensor(expected)
        .view([rows as i64, -1])
        .any_dim(1, false);
    tally.wrong += u64::try_from(differs.sum(Kind::Int64).int64_value(&[])).unwrap_or(rows);
}

/// `x * factor + 1`, which panics when it is told to.
#[torchcache(persistent = true, max_memory_cache_size = "200 KB")]
#[derive(Debug)]
pub(crate) struct Scale {
    pub(crate) factor: f64,
    /// How many rows the forward has seen.
    #[torchcache(skip)]
    pub(crate) ran: Cell<i64>,
    /// Whether it panics when it has seen them.
    #[torchcache(skip)]
    pub(crate) panics: Cell<bool>,
    torchcache_persistent_cache_dir: PathBuf,
    pub(crate) torchcache: TorchCache,
}

impl Scale {
    pub(crate) fn by(factor: f64, dir: &Path) -> Scale {
        Scale {
            factor,
            ran: Cell::new(0),
            panics: Cell::new(false),
            torchcache_persistent_cache_dir: dir.to_owned(),
            torchcache: TorchCache::default(),
        }
    }

    pub(crate) fn expected(&self, xs: &Tensor) -> Tensor {
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
pub(crate) struct Outer {
    pub(crate) inner: Scale,
    #[torchcache(skip)]
    pub(crate) ran: Cell<i64>,
    torchcache_persistent_cache_dir: PathBuf,
    pub(crate) torchcache: TorchCache,
}

impl Outer {
    pub(crate) fn over(inner: Scale, dir: &Path) -> Outer {
        Outer {
            inner,
            ran: Cell::new(0),
            torchcache_persistent_cache_dir: dir.to_owned(),
            torchcache: TorchCache::default(),
        }
    }

    pub(crate) fn expected(&self, xs: &Tensor) -> Tensor {
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
