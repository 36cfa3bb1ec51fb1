//! [`prefill`] and [`Prefill`]: filling a cache before training.

mod progress;

use std::borrow::Borrow;
use std::convert::Infallible;

use tch::{Tensor, nn};

use crate::cache::handle::TorchCache;
use crate::cache::stats::Stats;
use crate::cache::target::{CachedForward, CachedStruct};
use crate::cached::{Cached, Eval};
use crate::error::{FlushError, with_sources};
use crate::output::Batched;
use progress::PrefillProgress;

/// A module with a cache: structs with `#[torchcache]`, [`Cached`] and [`Eval`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no cache",
    label = "not a cached module",
    note = "put `#[torchcache]` on the struct and on the impl with its `forward`, or wrap the module in `torchcache::Cached`"
)]
pub trait HasCache {
    /// The handle of its cache.
    fn cache(&self) -> &TorchCache;

    /// The output for a batch, outside training.
    #[doc(hidden)]
    #[track_caller]
    fn forward_batch(&self, xs: &Tensor) -> Tensor
    where
        Self: nn::ModuleT + Sized,
    {
        self.forward_t(xs, false)
    }
}

impl<T: CachedForward + CachedStruct> HasCache for T {
    fn cache(&self) -> &TorchCache {
        T::cache(self)
    }

    fn forward_batch(&self, xs: &Tensor) -> Tensor
    where
        Self: nn::ModuleT,
    {
        CachedForward::forward_batch(self, xs)
    }
}

impl<M> HasCache for Cached<M> {
    fn cache(&self) -> &TorchCache {
        Cached::cache(self)
    }
}

impl<M: nn::ModuleT> HasCache for Eval<M> {
    fn cache(&self) -> &TorchCache {
        Eval::cache(self)
    }

    fn forward_batch(&self, xs: &Tensor) -> Tensor {
        nn::Module::forward(self, xs)
    }
}

/// Computes the rows of `batches` that are not cached yet, so that training finds all of them. Returns
/// the [`Stats`] of these calls alone.
///
/// Each batch is `[B, …]` and dropped after its call, so that an iterator may load them one by one. The
/// module runs without gradients and outside training. With a persistent cache all rows are on disk when
/// this returns, or a warning in the log says why not. Most are written earlier: after a kill, run it again
/// to compute the rest. With the
/// feature `progress` a bar on standard error, if that is a terminal, shows rows per second, hits, bytes
/// and the time left.
///
/// For functions, and for modules that take more than one tensor, there is [`Prefill`].
///
/// ```
/// use tch::{Tensor, nn};
/// use torchcache::{TorchCache, prefill, torchcache};
///
/// #[torchcache]
/// #[derive(Debug)]
/// struct Backbone {
///     torchcache: TorchCache,
/// }
///
/// #[torchcache]
/// impl nn::Module for Backbone {
///     fn forward(&self, xs: &Tensor) -> Tensor {
///         xs.relu()
///     }
/// }
///
/// let backbone = Backbone { torchcache: TorchCache::default() };
/// let images = Tensor::randn([100, 8], tch::kind::FLOAT_CPU);
/// let stats = prefill(&backbone, images.split(32, 0));
/// assert_eq!((stats.calls, stats.misses), (4, 100));
/// assert_eq!(prefill(&backbone, images.split(25, 0)).memory.hits, 100);
/// ```
///
/// # Panics
///
/// On misuse, with a message that says what to do: see [`ErrorKind`](crate::ErrorKind).
#[track_caller]
pub fn prefill<M, B>(module: &M, batches: impl IntoIterator<Item = B>) -> Stats
where
    M: nn::ModuleT + HasCache,
    B: Borrow<Tensor>,
{
    let batches = batches.into_iter();
    let mut run = Prefill::new(module.cache()).start(&batches);
    // Not by `Prefill::run`: in a closure, a panic would not point at the caller of this function.
    for batch in batches {
        drop(module.forward_batch(batch.borrow()));
        run.batch_done();
    }
    run.finish()
}

/// Fills a cache before training, by calls that a closure makes: see [`prefill`].
///
/// ```
/// use tch::Tensor;
/// use torchcache::{Prefill, torchcache};
///
/// #[torchcache]
/// fn embed(tokens: &Tensor, scale: f64) -> Tensor {
///     tokens * scale
/// }
///
/// let tokens = Tensor::from_slice(&[3i64, 1, 4, 1, 5]);
/// let stats = Prefill::new(embed_cache())
///     .batches(3)
///     .run(tokens.split(2, 0), |batch| embed(&batch, 0.5));
/// assert_eq!((stats.rows, stats.misses, stats.hits()), (5, 4, 1));
/// ```
#[derive(Debug)]
#[must_use]
pub struct Prefill<'c> {
    cache: &'c TorchCache,
    batches: Option<u64>,
    is_quiet: bool,
}

impl<'c> Prefill<'c> {
    /// A prefill of this cache.
    pub fn new(cache: &'c TorchCache) -> Self {
        Prefill {
            cache,
            batches: None,
            is_quiet: false,
        }
    }

    /// Sets the number of batches, for the time left, where their iterator does not know it.
    pub fn batches(mut self, batches: u64) -> Self {
        self.batches = Some(batches);
        self
    }

    /// Hides the progress bar.
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// Calls `forward` with each batch, without gradients, and waits until all rows are on disk if the
    /// cache is persistent. Drops what `forward` returns.
    pub fn run<B, O: Batched>(
        self,
        batches: impl IntoIterator<Item = B>,
        mut forward: impl FnMut(B) -> O,
    ) -> Stats {
        let run = self.try_run(batches, |batch| Ok::<_, Infallible>(forward(batch)));
        match run {
            Ok(stats) => stats,
            Err(never) => match never {},
        }
    }

    /// As [`run`](Self::run), for a `forward` that may fail.
    ///
    /// # Errors
    ///
    /// The error of `forward`, which ends the prefill. The rows of earlier batches stay cached.
    pub fn try_run<B, O: Batched, E>(
        self,
        batches: impl IntoIterator<Item = B>,
        mut forward: impl FnMut(B) -> Result<O, E>,
    ) -> Result<Stats, E> {
        let batches = batches.into_iter();
        let mut run = self.start(&batches);
        for batch in batches {
            forward(batch)?;
            run.batch_done();
        }
        Ok(run.finish())
    }

    fn start<B>(self, batches: &impl Iterator<Item = B>) -> PrefillRun<'c> {
        PrefillRun {
            cache: self.cache,
            before: self.cache.stats(),
            progress: (!self.is_quiet).then(|| PrefillProgress::new(self.batch_count(batches))),
            no_grad: tch::no_grad_guard(),
        }
    }

    /// The number of batches, if it is known.
    fn batch_count<B>(&self, batches: &impl Iterator<Item = B>) -> Option<u64> {
        self.batches.or_else(|| match batches.size_hint() {
            (least, Some(most)) if least == most => Some(most as u64),
            _ => None,
        })
    }
}

/// A prefill under way, without gradients.
struct PrefillRun<'c> {
    cache: &'c TorchCache,
    before: Stats,
    progress: Option<PrefillProgress>,
    no_grad: tch::NoGradGuard,
}

impl PrefillRun<'_> {
    fn batch_done(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.batch(|| self.cache.stats().since(&self.before));
        }
    }

    /// Waits until all rows are on disk.
    fn finish(self) -> Stats {
        drop((self.progress, self.no_grad));
        let flushed = self.cache.flush();
        let stats = self.cache.stats().since(&self.before);
        warn_if_incomplete(self.cache, &stats, flushed);
        stats
    }
}

/// Warns where training will not find all rows.
fn warn_if_incomplete(cache: &TorchCache, stats: &Stats, flushed: Result<(), FlushError>) {
    // Evicted rows may be others than those of the prefill.
    let wanted = stats.misses + stats.memory.hits;
    let evicted_own = stats.memory.evicted > 0 && wanted > stats.memory.rows;
    // Rows of memory may have been evicted or refused by the disk before the prefill.
    let disk = cache.stats().disk;
    let lacks_disk = stats.disk.evicted + stats.disk.refused > 0
        || (disk.evicted + disk.refused > 0 && wanted > disk.rows);
    let lacks_memory = stats.memory.refused > 0 || evicted_own;
    if stats.rows == 0 {
        tracing::warn!("prefilled nothing: the cache is disabled, or every call bypassed it");
    } else if let Err(error) = flushed {
        tracing::warn!("prefilled, but {}", with_sources(&error));
    } else if stats.bypassed > 0 {
        let bypassed = stats.bypassed;
        tracing::warn!(
            bypassed,
            "prefilled, but some calls bypassed the cache: their rows are not stored"
        );
    } else if !cache.effective_options().persistent() && lacks_memory {
        let (computed, held) = (stats.misses, stats.memory.rows);
        tracing::warn!(
            computed,
            held,
            "prefilled more rows than memory holds: raise `max_memory_cache_size`, or set `persistent`"
        );
    } else if lacks_disk {
        let (evicted, refused) = (disk.evicted, disk.refused);
        tracing::warn!(
            evicted,
            refused,
            "prefilled more rows than the disk tier holds: raise `max_persistent_cache_size`"
        );
    }
}
