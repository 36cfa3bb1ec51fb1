//! Per-sample memoisation of PyTorch modules used through `tch`.
//!
//! One attribute, [`#[torchcache]`](macro@torchcache), on a module's struct and its `forward` impl
//! or on a free tensor function, makes every sample that was ever computed come from memory or
//! disk instead of from the model. The first dimension of every tensor is the batch; each row has
//! its own key, so a batch computes only the rows that are new, whatever its size and order.
//!
//! ```
//! use tch::nn::Module;
//! use tch::{Device, Kind, Tensor, nn};
//! use torchcache::{TorchCache, torchcache};
//!
//! #[torchcache(max_memory_cache_size = "2 GB")]
//! #[derive(Debug)]
//! struct Backbone {
//!     fc: nn::Linear,
//!     #[torchcache(skip)]
//!     label: String,
//!     torchcache: TorchCache,
//! }
//!
//! #[torchcache]
//! impl nn::Module for Backbone {
//!     fn forward(&self, xs: &Tensor) -> Tensor {
//!         xs.apply(&self.fc).relu()
//!     }
//! }
//!
//! let mut vs = nn::VarStore::new(Device::Cpu);
//! let fc = nn::linear(vs.root(), 8, 4, Default::default());
//! vs.freeze(); // a cached output has no gradients, so trainable weights are refused
//! let backbone = Backbone { fc, label: "mine".into(), torchcache: TorchCache::default() };
//!
//! let xs = Tensor::randn([100, 8], (Kind::Float, Device::Cpu));
//! let first = backbone.forward(&xs);
//! assert_eq!(backbone.forward(&xs), first);
//! let stats = backbone.torchcache.stats();
//! assert_eq!((stats.misses, stats.memory_hits), (100, 100));
//! ```
//!
//! # What is where
//!
//! * [`macro@torchcache`], the attribute; its arguments are the fields of [`Options`].
//! * [`Cached`], for modules that cannot be annotated.
//! * [`TorchCache`], the handle: statistics, flush, clear, hash.
//! * [`trait@Fingerprint`], how a field's type becomes part of a module's identity, and its derive.
//! * [`Argument`] and [`Output`], what cached functions take and return.
//! * [`Error`], what misuse looks like. Faults of the machine are misses, counted in [`Stats`].
//!
//! # Environment
//!
//! `TORCHCACHE_DISABLE=1` switches every cache off. `TORCHCACHE_DIR` is the directory of
//! persistent caches that name none; it must be an absolute path.
//!
//! # Logging
//!
//! Through `tracing`: the module's hash and directory at INFO, the hits and misses of each call at
//! DEBUG, and what went wrong at WARN, each thing once.

#![deny(missing_docs)]

mod argument;
mod batch;
mod bypass;
mod bytes;
mod cached;
mod call;
mod directory;
mod error;
mod function;
mod handle;
mod identity;
mod keys;
mod memory;
mod options;
mod output;
mod overrides;
mod plain;
mod schema;
mod size;
mod slab;
mod stats;
mod subject;
mod tiers;

pub use argument::{Argument, PlainArgument};
pub use cached::{Cached, Eval, Weights};
pub use error::{Error, Problem};
pub use handle::TorchCache;
pub use identity::{Fingerprint, Fingerprinter};
pub use options::{Eviction, Options};
pub use output::{Batched, Output};
pub use overrides::Setting;
pub use size::Size;
pub use stats::Stats;
pub use torchcache_macros::{Fingerprint, torchcache};

#[doc(hidden)]
pub mod __private;
