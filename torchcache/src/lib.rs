//! Caches PyTorch module outputs per sample, for users of `tch`.
//!
//! The attribute [`#[torchcache]`](macro@torchcache) goes on a module's struct and its impls, or on a
//! free function of tensors. The first dimension of every tensor is the batch. Each row has its own key, so a
//! call computes only the rows that were never computed before, in any batch, and reads the others from memory
//! or disk.
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
//! assert_eq!((stats.misses, stats.memory.hits), (100, 100));
//! ```
//!
//! # Overview
//!
//! * [`macro@torchcache`], the attribute, and [`Options`], its arguments, with a table of all of them.
//! * [`Cached`], for modules that cannot be annotated.
//! * [`TorchCache`], the handle of a cache: [`Stats`], flush, [upload](TorchCache::flush_remote), clear, module hash, directory, and
//!   [which rows are cached](TorchCache::peek), [removing](TorchCache::remove),
//!   [recomputing](TorchCache::recompute) and [importing](TorchCache::import) them, and
//!   [reading ahead](TorchCache::read_ahead).
//! * [`prefill`](fn@prefill) and [`Prefill`], which fill a cache ahead of training.
//! * [`trait@Fingerprint`] and its derive: how the type of a field becomes part of a module's identity.
//!   [`Named`]: functions and closures in fields.
//! * [`trait@Argument`], [`PlainArgument`] and [`Output`]: what cached functions take and return. [`SampleIds`],
//!   [`PaddedArgument`], [`SharedArgument`] and [`SkippedArgument`]: parameters marked `#[id]`, `#[padded]`, `#[shared]`
//!   and `#[skip]`. [`trait@Batched`] and its derive: outputs of several tensors. [`Constant`]: plain values in them.
//! * [`Error`]: misuse, and directories that cannot be used. Faults of the machine are misses, counted in
//!   [`Stats::faults`].
//!
//! # Features
//!
//! None is on by default.
//!
//! * `progress`: [`prefill`](fn@prefill) shows a progress bar on a terminal, using `indicatif`.
//! * `remote`: the option [`remote`](Options::remote), by which machines share rows through S3 or what speaks it, or
//!   through a directory, using `object_store`. `gcs` and `azure` add Google Cloud Storage and Azure Blob Storage.
//! * `doc-only`: builds without libtorch, for documentation only.
//!
//! # Environment
//!
//! `TORCHCACHE_DISABLE` disables every cache, unless it is empty, `0` or `false`. `TORCHCACHE_DIR` is the
//! directory of persistent caches whose options name none; it must be an absolute path. `TORCHCACHE_MAX_DIR_SIZE`,
//! such as `50 GB`, bounds the directory of caches that do not set `max_persistent_cache_size`, as that does.
//! `TORCHCACHE_MAX_MEMORY`, such as `8 GB`, is the bound of all memory tiers together, by default half of the memory.
//!
//! `TORCHCACHE_REMOTE` is the [`remote`](Options::remote) of persistent caches whose options name none, and
//! `TORCHCACHE_REMOTE_MODE`, which is `read-write`, `read-only` or `write-only`, takes precedence over
//! [`remote_mode`](Options::remote_mode). Empty, they count as not set.
//!
//! `TORCHCACHE_DEVICE_HASHING=on` has CUDA devices hash the tensors that they hold, where a call would copy inputs to the
//! host. It is off by default, as no GPU has run it yet.
//!
//! # Logging
//!
//! With `tracing`, or with `log` where `tracing` has no subscriber: the module hash and directory at INFO, the
//! hits and misses of each call at DEBUG, and each kind of fault, bypass and hint once at WARN.

// Shows which feature an item needs on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs)]

mod argument;
mod attempts;
mod cache;
mod cached;
mod call;
mod definition;
mod device;
mod error;
mod function;
mod identity;
mod key;
mod memory;
mod options;
mod output;
mod prefill;
mod schema;
mod sync;
mod tensor;

pub use argument::{
    Argument, PaddedArgument, PlainArgument, SampleId, SampleIds, SharedArgument, SkippedArgument,
};
pub use cache::handle::TorchCache;
pub use cache::overrides::Setting;
pub use cache::stats::{FaultStats, RemoteState, RemoteStats, Stats, TierStats, TimeStats};
pub use cached::{Cached, Eval, Forward, Weights};
pub use call::{Imported, PeekedRow, Tier};
pub use error::{Error, ErrorKind, FlushError};
pub use identity::{Fingerprint, Fingerprinter, Named};
pub use options::size::Size;
pub use options::{Eviction, Options, OptionsBuilder, RemoteFeature, RemoteMode};
pub use output::{Batched, Constant, Output};
pub use prefill::{HasCache, Prefill, prefill};
pub use torchcache_macros::{Argument, Batched, Fingerprint};
pub use torchcache_store::flush_on_signals;
pub use torchcache_store::{Fault as DiskFault, FaultCounts as DiskFaultCounts};

/// Caches the outputs of a module or a function by row.
///
/// # A module
///
/// On the struct, the attribute takes the options; the struct's fields are the identity of the cache. On an
/// impl, it wraps `forward` and `forward_t`, and the [methods](#methods) that carry it themselves. The impl is one of
/// `nn::Module` or of `nn::ModuleT`, or an impl of another trait or
/// without one whose methods take any number of [arguments](#parameters) and return an [`Output`]. Other
/// methods are left unchanged. A `bool` or `&bool` named `train`, `training` or `is_training`, of a function as
/// well, bypasses the cache if it is true.
///
/// The struct has one field of type [`TorchCache`], with any name. A field named `torchcache_<option>`
/// overrides that option for its instance; it has the option's type or an `Option` of it and is read at every
/// call. A field marked `#[torchcache(skip)]` is not part of the identity: instances that differ only there
/// share rows, so do not skip a field with weights unless their `VarStore` is in another field. The types of all
/// other fields implement [`trait@Fingerprint`].
///
/// ```
/// use tch::{Tensor, nn};
/// use torchcache::{Error, TorchCache, torchcache};
///
/// #[torchcache(cache_dtype = tch::Kind::Half, version = "2")]
/// struct Attention {
///     scale: f64,
///     #[torchcache(skip)]
///     label: String,
///     torchcache_enabled: bool,
///     cache: TorchCache,
/// }
///
/// #[torchcache]
/// impl Attention {
///     fn forward(&self, q: &Tensor, k: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, Error> {
///         let scores = q * k * self.scale;
///         Ok(mask.map_or_else(|| scores.shallow_clone(), |mask| &scores * mask))
///     }
/// }
///
/// let attention = Attention {
///     scale: 0.5,
///     label: "first".into(),
///     torchcache_enabled: true,
///     cache: TorchCache::default(),
/// };
/// let q = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
/// attention.forward(&q, &q, None)?;
/// attention.forward(&q.narrow(0, 1, 2), &q.narrow(0, 1, 2), None)?;
/// assert_eq!(attention.cache.stats().memory.hits, 2);
/// # Ok::<(), Error>(())
/// ```
///
/// # Methods
///
/// Methods other than `forward` and `forward_t` are cached if they carry the attribute, in one or several
/// annotated impls. One impl of a struct may have `forward` or `forward_t`. They take `&self`, or the module first. They share
/// the identity and the tiers of the module, and each has its own keys and [statistics](TorchCache::stats_by_method).
/// On a method, the attribute takes the options `verify`, `version` and `whole_batch`, for that method in addition
/// to those of the struct, and `single_flight_timeout`, instead of that of the struct.
///
/// ```
/// use tch::{Tensor, nn};
/// use torchcache::{TorchCache, torchcache};
///
/// #[torchcache]
/// #[derive(Debug, Default)]
/// struct Vae {
///     torchcache: TorchCache,
/// }
///
/// #[torchcache]
/// impl Vae {
///     #[torchcache]
///     fn encode(&self, images: &Tensor) -> Tensor {
///         images * 2.0
///     }
///
///     #[torchcache(whole_batch = true)]
///     fn decode(&self, latents: &Tensor, scale: f64) -> Tensor {
///         latents / scale
///     }
/// }
///
/// #[torchcache]
/// impl nn::Module for Vae {
///     fn forward(&self, images: &Tensor) -> Tensor {
///         self.decode(&self.encode(images), 2.0)
///     }
/// }
///
/// let vae = Vae::default();
/// let images = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
/// vae.encode(&images);
/// images.narrow(0, 0, 2).apply(&vae);
/// let stats = vae.torchcache.stats_by_method();
/// assert_eq!((stats["encode"].misses, stats["encode"].memory.hits), (3, 2));
/// assert_eq!((stats["forward"].misses, stats["decode"].misses), (2, 2));
/// ```
///
/// # A function
///
/// The attribute takes the options and wraps the function. Next to a function `embed` it puts `embed_cache()`, with
/// the same visibility, which returns the handle.
///
/// ```
/// use tch::{Kind, Tensor};
/// use torchcache::torchcache;
///
/// #[torchcache(max_memory_cache_size = "2 GB")]
/// fn embed(tokens: &Tensor, scale: f64) -> Tensor {
///     tokens.unsqueeze(-1).to_kind(Kind::Float) * scale
/// }
///
/// let tokens = Tensor::from_slice(&[5i64, 7, 5]);
/// assert_eq!(embed(&tokens, 0.5).size(), [3, 1]);
/// assert_eq!(embed_cache().stats().misses, 2);
/// ```
///
/// # Arguments
///
/// The options of the table in [`Options`], each as `name = value`. A size is a number or text such as
/// `"2 GB"`, `eviction` is `"lru"`, `"never"` or `"auto"`; any other value is an expression that the method of
/// [`OptionsBuilder`] takes. Two more are no options:
///
/// * `handle = "rows"`, on a function: the name of the function that returns the handle, where `embed_cache` is
///   taken, which the compiler reports as E0428 or E0255: defined multiple times;
/// * `crate = facade::torchcache`, on each item: where this library is, for crates that have it through another
///   one. A dependency with another name in `Cargo.toml` is found without it. The derives take it as
///   `#[fingerprint(crate = …)]`, `#[batched(crate = …)]` and `#[argument(crate = …)]`.
///
/// # Parameters
///
/// Each is an [`Argument`](trait@Argument), tensors that are cut into rows, or a [`PlainArgument`], which is part of
/// every key. Four attributes change that:
///
/// * `#[id] ids: &[i64]`: rows are keyed by these ids instead of their content, and with `#[id(any_shape)]` their shape
///   ([`SampleIds`]);
/// * `#[padded(0)] tokens: &Tensor`: zeros that end a row are not part of its key ([`PaddedArgument`]);
/// * `#[shared] mask: &Tensor`: a tensor without a batch, part of every key ([`SharedArgument`]);
/// * `#[skip] log: &dyn Fn(&str)`: not part of the key, so that no output may depend on it ([`SkippedArgument`]).
///
/// ```
/// use tch::Tensor;
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn project(images: &Tensor, #[id] ids: &[i64], #[shared] basis: &Tensor) -> Tensor {
///     images.matmul(basis)
/// }
///
/// let (images, basis) = (Tensor::rand([2, 8], tch::kind::FLOAT_CPU), Tensor::eye(8, tch::kind::FLOAT_CPU));
/// project(&images, &[17, 4], &basis);
/// project(&images.narrow(0, 1, 1), &[4], &basis);
/// assert_eq!(project_cache().stats().memory.hits, 1);
/// ```
///
/// # Errors and panics
///
/// Misuse that the compiler can see does not compile. Other misuse ([`ErrorKind`]) is returned as an [`Error`]
/// where the function returns `Result<_, E>` with `E: From<torchcache::Error>`, and is a panic with the same
/// message elsewhere. The panic points at the call, or into tch where tch makes it, as `Tensor::apply` does.
pub use torchcache_macros::torchcache;

#[doc(hidden)]
pub mod __private;

/// The code of the guide, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
struct Guide;
