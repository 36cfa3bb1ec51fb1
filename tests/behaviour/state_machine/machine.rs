//! The cached module of the state machine test, and its outputs without a cache.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use torchcache::{Error, Eviction, TorchCache, torchcache};

use super::model::{Identity, Place, Roomy};
use super::steps::{POOL, Setting, WEIGHTS};
use crate::support::device;

/// Two outputs whose rows do not depend on the batch: each element is computed by itself.
#[torchcache]
#[derive(Debug)]
pub(super) struct Machine {
    module: i64,
    weight: Tensor,
    /// The numbers of the rows of each run of the forward.
    #[torchcache(skip)]
    pub(super) runs: RefCell<Vec<Vec<i64>>>,
    pub(super) torchcache_enabled: bool,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_max_persistent_cache_size: u64,
    torchcache_max_memory_cache_size: u64,
    torchcache_eviction: Eviction,
    torchcache_zstd_compression: bool,
    torchcache_use_mmap_on_load: bool,
    torchcache_cache_dtype: Option<Kind>,
    torchcache_version: String,
    torchcache_verify: f64,
    pub(super) cache: TorchCache,
}

#[torchcache]
impl Machine {
    pub(super) fn forward(&self, xs: &Tensor) -> Result<(Tensor, Tensor), Error> {
        let numbers = xs.select(1, 0).to_kind(Kind::Int64);
        self.runs.borrow_mut().push(numbers.try_into().unwrap());
        Ok(outputs(xs, self.module, &self.weight))
    }
}

fn outputs(xs: &Tensor, module: i64, weight: &Tensor) -> (Tensor, Tensor) {
    let scaled = xs * weight / 7.0 + module;
    (scaled, xs.select(1, 0).to_kind(Kind::Int64) + module)
}

/// The elements of a row.
pub(super) const COLUMNS: usize = 4;

/// The rows of these numbers, which are their first elements.
pub(super) fn rows(numbers: &[i64]) -> Tensor {
    let pool = Tensor::arange(POOL, (Kind::Float, device())).unsqueeze(1);
    let pool = Tensor::cat(&[&pool, &(&pool + 0.1).sqrt(), &pool.exp(), &pool.sin()], 1);
    pool.index_select(0, &Tensor::from_slice(numbers).to_device(device()))
}

fn weight(number: usize) -> Tensor {
    Tensor::from_slice(&WEIGHTS[number]).to_device(device())
}

/// The directory of a number.
pub(super) fn directory(root: &Path, number: usize) -> PathBuf {
    root.join(["one", "two"][number])
}

/// One instance, with the identity that it should have.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) machine: Machine,
    pub(super) identity: Identity,
    pub(super) directory: Option<usize>,
    compression: bool,
}

impl Instance {
    pub(super) fn new(root: &Path, place: Place, roomy: Roomy) -> Self {
        let (identity, directory) = place;
        let machine = Machine {
            module: identity.module,
            weight: weight(identity.weight),
            runs: RefCell::default(),
            torchcache_enabled: true,
            torchcache_persistent: false,
            torchcache_persistent_cache_dir: PathBuf::from("nowhere"),
            torchcache_max_persistent_cache_size: 0,
            torchcache_max_memory_cache_size: 0,
            torchcache_eviction: Eviction::default(),
            torchcache_zstd_compression: false,
            torchcache_use_mmap_on_load: false,
            torchcache_cache_dtype: None,
            torchcache_version: String::new(),
            torchcache_verify: 0.0,
            cache: TorchCache::default(),
        };
        let mut instance = Instance {
            machine,
            identity,
            directory: None,
            compression: false,
        };
        for setting in [
            Setting::Directory(directory),
            Setting::Dtype(identity.dtype),
            Setting::Version(identity.version),
        ] {
            instance.set(&setting, root);
        }
        instance.bound(roomy);
        instance
    }

    pub(super) fn place(&self) -> Place {
        (self.identity, self.directory)
    }

    /// What a call should return: the outputs, with the cache's rounding.
    pub(super) fn expected(&self, xs: &Tensor) -> (Tensor, Tensor) {
        let (scaled, numbers) = outputs(xs, self.identity.module, &weight(self.identity.weight));
        let rounds = self.machine.torchcache_enabled && xs.size()[0] > 0;
        match self.identity.dtype.filter(|_| rounds) {
            Some(dtype) => (scaled.to_kind(dtype.kind()).to_kind(Kind::Float), numbers),
            None => (scaled, numbers),
        }
    }

    pub(super) fn edit(&mut self, number: usize, in_place: bool) {
        match in_place {
            true => self.machine.weight.copy_(&weight(number)),
            false => self.machine.weight = weight(number),
        }
        self.identity.weight = number;
    }

    /// Sets bounds for every row, or for a few.
    pub(super) fn bound(&mut self, roomy: Roomy) {
        let machine = &mut self.machine;
        machine.torchcache_max_memory_cache_size = if roomy.memory { 1_000_000 } else { 700 };
        machine.torchcache_max_persistent_cache_size = if roomy.disk { 1_000_000 } else { 500 };
    }

    pub(super) fn set(&mut self, setting: &Setting, root: &Path) {
        let machine = &mut self.machine;
        match *setting {
            Setting::Enabled(enabled) => machine.torchcache_enabled = enabled,
            Setting::Directory(number) => {
                self.directory = number;
                machine.torchcache_persistent = number.is_some();
                if let Some(number) = number {
                    machine.torchcache_persistent_cache_dir = directory(root, number);
                }
            }
            Setting::Eviction(eviction) => machine.torchcache_eviction = eviction,
            Setting::Compression(compression) => self.compression = compression,
            Setting::Mmap(mmap) => machine.torchcache_use_mmap_on_load = mmap,
            Setting::Dtype(dtype) => {
                machine.torchcache_cache_dtype = dtype.map(|dtype| dtype.kind());
                self.identity.dtype = dtype;
            }
            Setting::Version(version) => {
                machine.torchcache_version = "x".repeat(version);
                self.identity.version = version;
            }
            Setting::Verify(share) => machine.torchcache_verify = share,
        }
        machine.torchcache_zstd_compression = self.compression && machine.torchcache_persistent;
    }
}
