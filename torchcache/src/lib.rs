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
//! * [`prefill`](fn@prefill) and [`Prefill`], to fill a cache ahead of training.
//! * [`trait@Fingerprint`], how a field's type becomes part of a module's identity, and its derive.
//! * [`Argument`] and [`Output`], what cached functions take and return; [`SampleIds`] and
//!   [`SharedArgument`], what parameters marked `#[id]` and `#[shared]` are; [`trait@Batched`], outputs of
//!   several tensors, and its derive.
//! * [`Error`], what misuse looks like. Faults of the machine are misses, counted in [`Stats`].
//!
//! # Features
//!
//! None is on by default.
//!
//! * `progress`: [`prefill`](fn@prefill) shows a bar on a terminal, by way of `indicatif`.
//! * `doc-only`: builds without libtorch, for documentation alone.
//!
//! # Environment
//!
//! `TORCHCACHE_DISABLE=1` switches every cache off (as does anything but `0`, `false` or nothing).
//! `TORCHCACHE_DIR` is the directory of persistent caches that name none; it must be an absolute path.
//!
//! # Logging
//!
//! Through `tracing`, or where it has no subscriber, through `log`: the module's hash and directory at
//! INFO, the hits and misses of each call at DEBUG, and what went wrong at WARN, each thing once.

#![deny(missing_docs)]

mod argument;
mod cache;
mod cached;
mod call;
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

pub use argument::{Argument, PlainArgument, SampleId, SampleIds, SharedArgument};
pub use cache::handle::TorchCache;
pub use cache::overrides::Setting;
pub use cache::stats::Stats;
pub use cached::{Cached, Eval, Weights};
pub use error::{Error, Problem};
pub use identity::{Fingerprint, Fingerprinter};
pub use options::size::Size;
pub use options::{Eviction, Options};
pub use output::{Batched, Output};
pub use prefill::{HasCache, Prefill, prefill};
pub use torchcache_macros::torchcache;
pub use torchcache_macros::{Batched, Fingerprint};
/// The attribute that caches a module or a function, row by row.
///
/// # A module
///
/// On the struct it takes the options and gives the cache its identity, on the impl it wraps
/// `forward`. The impl is of `nn::Module` or `nn::ModuleT` (`train == true` goes past the cache),
/// or an inherent one whose `forward` or `forward_t` takes any number of [`Argument`]s and returns
/// an [`Output`]. Other methods of the impl are left alone.
///
/// The struct has one field of type [`TorchCache`], of any name. Fields named
/// `torchcache_<option>` override that option for their instance: the option's type or an `Option`
/// of it, read at every call. Fields marked `#[torchcache(skip)]` are not part of the identity, and
/// instances that differ in these alone share their rows: so never what holds weights, unless their
/// `VarStore` is in another field. The types of all others implement [`trait@Fingerprint`].
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
/// assert_eq!(attention.cache.stats().memory_hits, 2);
/// # Ok::<(), Error>(())
/// ```
///
/// # A function
///
/// It takes the options and wraps the function; `name::cache()` is the handle.
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
/// assert_eq!(embed::cache().stats().misses, 2);
/// ```
///
/// # Arguments
///
/// Those of [`Options`], each written as `name = value`. Sizes are numbers or text such as
/// `"2 GB"`, `eviction` is `"lru"`, `"never"` or `"auto"`; every other value is what the method of [`Options`]
/// takes.
///
/// # Parameters
///
/// Each is an [`Argument`]: a tensor that is cut into rows, or a plain value. Two marks change that:
///
/// * `#[id] ids: &[i64]`: rows are known by these ids instead of their content, and not hashed
///   ([`SampleIds`]);
/// * `#[shared] mask: &Tensor`: a tensor without a batch, passed on as it is ([`SharedArgument`]).
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
/// assert_eq!(project::cache().stats().memory_hits, 1);
/// ```
///
/// # Errors and panics
///
/// What the compiler can see does not compile. Other misuse is an `Err` where the function returns
/// `Result<_, E>` with `E: From<torchcache::Error>`, and else a panic with the same message: see
/// [`Problem`].
pub use torchcache_store::flush_on_signals;

#[doc(hidden)]
pub mod __private;

/// The code of the guide, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
struct Guide;
