//! [`TorchCache`]: the handle of one cache.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tch::{Device, TchError};

use super::stats::{Counters, Stats};
use super::tiers::Tiers;
use super::warnings::Warnings;
use crate::argument::{SharedDigests, TensorArgument};
use crate::identity::{Identity, Watcher};
use crate::options::{Options, environment};
use crate::sync::lock;

/// The cache of one module instance or function.
///
/// A module holds it in a field (`torchcache: TorchCache`, made with `TorchCache::default()`); a
/// function's is `name::cache()`. A module's handle is inert until the first call, which resolves
/// options, module hash and directory; a function's resolves them at once. Dropping it waits until
/// its rows are on disk, and so does the process at exit for handles in statics.
///
/// ```
/// use tch::Tensor;
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn double(xs: &Tensor) -> Tensor {
///     xs * 2
/// }
///
/// let xs = Tensor::from_slice(&[1.0f32, 2.0]);
/// assert_eq!(double(&xs), double(&xs));
/// let stats = double::cache().stats();
/// assert_eq!((stats.misses, stats.memory_hits), (2, 2));
/// ```
pub struct TorchCache {
    pub(super) state: Mutex<State>,
    /// Held by the first call of a function while it attaches.
    pub(super) attaching: Mutex<()>,
    shared: Mutex<SharedState>,
    /// Set by `refresh`, taken by the next call.
    pub(super) refresh: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) warnings: Warnings,
}

/// What the last call saw, for the next one to compare with.
#[derive(Debug)]
pub(super) struct State {
    pub(super) attached: Option<Arc<Attached>>,
    pub(super) watchers: Watchers,
}

/// The recorded states of the override fields and of the fields in the identity.
#[derive(Debug)]
pub(super) struct Watchers {
    pub(super) overrides: Watcher,
    pub(super) fields: Watcher,
}

impl Watchers {
    pub(super) const fn new() -> Self {
        Watchers {
            overrides: Watcher::new(),
            fields: Watcher::new(),
        }
    }
}

/// The digests of shared tensors, taken out while a call uses them.
#[derive(Debug)]
struct SharedState {
    digests: SharedDigests,
    /// How often they were discarded. A call that took them out before that does not put them back.
    generation: u64,
}

/// What a handle is attached to: resolved options, and the open cache.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) options: Options,
    /// `None` where the cache was never enabled: nothing is hashed or opened then. It stays while
    /// the cache is disabled, so that its rows are there when it is enabled again.
    pub(super) cache: Option<Arc<OpenCache>>,
}

impl Attached {
    /// The cache, while it is enabled.
    pub(crate) fn enabled_cache(&self) -> Option<&OpenCache> {
        self.cache.as_deref().filter(|_| self.options.enabled)
    }
}

/// An identity and the tiers that hold its rows.
#[derive(Debug)]
pub(crate) struct OpenCache {
    pub(crate) identity: Identity,
    pub(crate) tiers: Tiers,
    /// The device of the module's tensors, if all are on one.
    pub(crate) module_device: Option<Device>,
}

impl Default for TorchCache {
    fn default() -> Self {
        Self::new()
    }
}

impl TorchCache {
    /// An inert handle.
    pub const fn new() -> Self {
        TorchCache {
            state: Mutex::new(State {
                attached: None,
                watchers: Watchers::new(),
            }),
            attaching: Mutex::new(()),
            shared: Mutex::new(SharedState {
                digests: SharedDigests::new(),
                generation: 0,
            }),
            refresh: AtomicBool::new(false),
            counters: Counters::new(),
            warnings: Warnings::new(),
        }
    }

    /// The module hash, under which rows are kept and which names the directory: 64 hexadecimal
    /// digits, or the value of `persistent_module_hash`. `None` before a module's first call.
    pub fn module_hash(&self) -> Option<String> {
        self.with_cache(|cache| cache.identity.hash.clone())
    }

    /// What the cache did and holds. Calls, rows and times are this handle's; what the tiers hold
    /// is shared by all handles of this module hash.
    pub fn stats(&self) -> Stats {
        let mut stats = self.counters.snapshot();
        self.with_cache(|cache| stats.add_tiers(&cache.tiers));
        stats
    }

    /// Waits until every row stored so far is on disk.
    ///
    /// Returns whether all of them are: `false` where some were given up because of a fault, which
    /// is counted in [`stats`](Self::stats), or where the disk tier could not be opened. Without a
    /// disk tier it is `true` at once.
    pub fn flush(&self) -> bool {
        // The store is flushed outside the handle's lock: this may take as long as the disk does.
        let tiers = self.with_cache(|cache| cache.tiers.clone());
        tiers.is_none_or(|tiers| match &tiers.store {
            Some(store) => store.flush().is_ok(),
            None => tiers.has_its_disk(),
        })
    }

    /// Removes every row of the present module hash from disk and memory; rows of earlier hashes
    /// of this instance are removed from memory as well. Other caches keep theirs. Does nothing
    /// before a module's first call, since the module hash is not known until then.
    pub fn clear(&self) {
        self.discard_shared();
        let tiers = self.with_cache(|cache| cache.tiers.clone());
        if let Some(tiers) = tiers {
            tiers.memory().clear();
            if let Some(store) = &tiers.store {
                store.clear();
            }
        }
    }

    /// The options in force: defaults, attribute and fields. Before a module's first call, the
    /// defaults. Where `TORCHCACHE_DISABLE` is set, `enabled` is false, and a module has no other.
    pub fn config(&self) -> Options {
        let attached = lock(&self.state).attached.clone();
        let mut options =
            attached.map_or_else(Options::default, |attached| attached.options.clone());
        options.enabled &= !environment::is_disabled();
        options
    }

    /// Computes the module hash and the digests of shared arguments again at the next call. For
    /// changes that cannot be watched: weights written through a raw pointer, buffers of a
    /// TorchScript module.
    pub fn refresh(&self) {
        self.refresh.store(true, Relaxed);
        self.discard_shared();
    }

    fn discard_shared(&self) {
        let mut shared = lock(&self.shared);
        shared.digests = SharedDigests::new();
        shared.generation += 1;
    }

    /// The digests of shared tensors, in their order. Those of the last calls are not hashed again.
    pub(crate) fn shared_digests(
        &self,
        tensors: &[TensorArgument],
    ) -> Result<Vec<[u8; 32]>, TchError> {
        if tensors.is_empty() {
            return Ok(Vec::new());
        }
        // Out of the lock while tensors are hashed.
        let (generation, mut known) = {
            let mut shared = lock(&self.shared);
            (shared.generation, std::mem::take(&mut shared.digests))
        };
        let digests = known.digests(tensors);
        let mut shared = lock(&self.shared);
        if shared.generation == generation {
            shared.digests = known;
        }
        digests
    }

    fn with_cache<R>(&self, read: impl FnOnce(&OpenCache) -> R) -> Option<R> {
        let attached = lock(&self.state).attached.clone()?;
        attached.cache.as_deref().map(read)
    }
}

impl std::fmt::Debug for TorchCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchCache")
            .field("module_hash", &self.module_hash())
            .finish_non_exhaustive()
    }
}
