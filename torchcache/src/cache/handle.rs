//! [`TorchCache`]: the handle of one cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tch::Device;
use torchcache_store::background::BackgroundJobs;

use super::hash_changes::HashChanges;
use super::methods::{CodeDigest, Method, Methods};
use super::stats::{Counters, Stats};
use super::tiers::Tiers;
use super::warnings::Warnings;
use crate::argument::{PlainDigests, SharedDigests};
use crate::error::{Detail, Error, FlushError, Unwritten};
use crate::function::Function;
use crate::identity::{Changes, Identity, Snapshot};
use crate::options::{Options, environment};
use crate::sync::{Turn, lock, read};

/// The cache of one module instance or function.
///
/// A module holds it in a field (`torchcache: TorchCache`, made with `TorchCache::default()`); for a
/// function `embed` it is what `embed_cache()` returns. A module's handle is inert until the first
/// call, which resolves options, module hash and directory; a function's resolves them at once.
/// Dropping it waits until its rows are on disk, and so does the process at exit for handles in statics.
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
/// let stats = double_cache().stats();
/// assert_eq!((stats.misses, stats.memory.hits), (2, 2));
/// ```
pub struct TorchCache {
    /// Locked to clone the `Arc`, by any number of threads at once, and to replace it.
    pub(super) attached: RwLock<Option<Arc<Attached>>>,
    /// The thread that attaches.
    pub(super) attaching: Turn,
    /// Why the last attach could not use the directory of the disk tier.
    pub(super) directory_error: Mutex<Option<Arc<Detail>>>,
    /// Whether there is one, which calls see without its lock: the next one attaches again, even with the options of an
    /// earlier one.
    pub(super) was_refused: AtomicBool,
    /// The hash of a module that claimed it before its first call.
    pub(super) hashed_early: Mutex<Option<Arc<HashedModule>>>,
    /// The digests of shared tensors.
    pub(crate) shared: SharedDigests,
    /// The digests of plain arguments with weights.
    pub(crate) plain: PlainDigests,
    changes: Changes,
    /// Those of the module. Its methods have others.
    pub(crate) counters: Counters,
    pub(super) methods: Methods,
    pub(crate) warnings: Warnings,
    pub(super) hash_changes: Mutex<HashChanges>,
    /// In how many calls in a row the module changed while its forward ran.
    pub(super) changing_calls: AtomicU64,
    /// Rows since the last flush that the disk tier was not given, or lost before it was replaced.
    unwritten: AtomicU64,
}

/// What a handle is attached to, as of the walk that found it. Immutable: threads share it, and a
/// change makes another one.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) options: Options,
    /// The fields that override options.
    pub(super) overrides: Snapshot,
    /// `None` where the cache was never enabled: nothing is hashed or opened then. It stays while
    /// the cache is disabled, so that its rows are there when it is enabled again.
    pub(super) cache: Option<Arc<OpenCache>>,
}

impl Attached {
    /// The cache, while it is enabled.
    pub(crate) fn enabled_cache(&self) -> Option<&OpenCache> {
        self.cache.as_deref().filter(|_| self.options.enabled())
    }
}

/// A module as it was hashed, and the tiers that hold its rows.
#[derive(Debug)]
pub(crate) struct OpenCache {
    /// Rows that are read into memory ahead of calls. The jobs use the tiers: they end first.
    pub(crate) reading_ahead: BackgroundJobs,
    // They end before the claims of the module hash.
    pub(crate) tiers: Tiers,
    pub(super) module: Arc<HashedModule>,
    /// The code that the hash is claimed with.
    pub(super) claimed: RwLock<BTreeSet<CodeDigest>>,
}

impl OpenCache {
    pub(crate) fn identity(&self) -> &Identity {
        &self.module.identity
    }

    /// The device of the module's tensors, if all are on one.
    pub(crate) fn module_device(&self) -> Option<Device> {
        self.module.fields.device()
    }
}

/// The identity of a module, and the state of its fields when it was computed.
#[derive(Debug)]
pub(super) struct HashedModule {
    pub(super) identity: Identity,
    /// Those that it was hashed with.
    pub(super) options: Options,
    pub(super) fields: Snapshot,
    /// The count of changes before the fields were read.
    pub(super) changes: (u64, u64),
    /// How long hashing took.
    pub(super) hashed_in: Duration,
}

/// An inert handle, as [`TorchCache::new`] makes it: the clone of a module has a cache of its own. Where both have one module
/// hash, they share the tiers.
impl Clone for TorchCache {
    fn clone(&self) -> Self {
        TorchCache::new()
    }
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
            attached: RwLock::new(None),
            attaching: Turn::new(),
            directory_error: Mutex::new(None),
            was_refused: AtomicBool::new(false),
            hashed_early: Mutex::new(None),
            shared: SharedDigests::new(),
            plain: PlainDigests::new(),
            changes: Changes::new(),
            counters: Counters::new(),
            methods: Methods::new(),
            warnings: Warnings::new(),
            hash_changes: Mutex::new(HashChanges::new()),
            changing_calls: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
        }
    }

    /// The module hash, under which rows are kept and which names the directory: 64 hexadecimal
    /// digits, or the value of `persistent_module_hash`. `None` before a module's first call.
    pub fn module_hash(&self) -> Option<String> {
        self.with_cache(|cache| cache.identity().hash.clone())
    }

    /// What the cache did and holds. Calls, rows and times are this handle's; what the tiers hold
    /// is shared by all handles of this module hash.
    pub fn stats(&self) -> Stats {
        let mut stats = self.counted();
        self.with_cache(|cache| stats.add_tiers(&cache.tiers));
        stats
    }

    /// What each method that was called did, by its name: its calls, rows and times. The tiers, and the times
    /// of watching and attaching, are those of the module, and are in [`stats`](Self::stats) alone. Methods of
    /// one name, of several traits, are counted together.
    ///
    /// ```
    /// use tch::Tensor;
    /// use torchcache::{TorchCache, torchcache};
    ///
    /// #[torchcache]
    /// #[derive(Debug, Default)]
    /// struct Codec {
    ///     torchcache: TorchCache,
    /// }
    ///
    /// #[torchcache]
    /// impl Codec {
    ///     #[torchcache]
    ///     fn encode(&self, xs: &Tensor) -> Tensor {
    ///         xs * 2
    ///     }
    ///
    ///     #[torchcache]
    ///     fn decode(&self, xs: &Tensor) -> Tensor {
    ///         xs / 2
    ///     }
    /// }
    ///
    /// let codec = Codec::default();
    /// let xs = Tensor::from_slice(&[1.0f32, 2.0]);
    /// let encoded = codec.encode(&xs);
    /// assert_eq!(codec.decode(&encoded), codec.decode(&encoded));
    /// let stats = codec.torchcache.stats_by_method();
    /// assert_eq!((stats["encode"].misses, stats["encode"].hits()), (2, 0));
    /// assert_eq!((stats["decode"].misses, stats["decode"].hits()), (2, 2));
    /// ```
    pub fn stats_by_method(&self) -> BTreeMap<&'static str, Stats> {
        let counters = self.methods.counters().into_iter();
        counters
            .map(|(name, counters)| (name, counters.snapshot()))
            .collect()
    }

    /// What it knows of `function`. `module`: the name that tells its module apart from others.
    pub(crate) fn method(
        &self,
        module: impl FnOnce() -> String,
        function: &'static Function,
    ) -> Arc<Method> {
        self.methods.get(module, function)
    }

    /// What the module and all its methods counted.
    pub(super) fn counted(&self) -> Stats {
        let mut stats = self.counters.snapshot();
        for (_, counters) in self.methods.counters() {
            stats.add_counted(&counters);
        }
        stats
    }

    /// Waits until every row stored so far is on disk, those of earlier module hashes of this handle
    /// included, and rows in memory that the disk tier lost or that are older than it. Without a disk
    /// tier it returns at once.
    ///
    /// # Errors
    ///
    /// [`FlushError::Directory`] where the directory could not be used, and [`FlushError::Rows`] where
    /// rows of this handle could not be written since the last flush, or not in time. [`Stats::faults`] counts the
    /// reasons, and the log has them. Rows that the full tier refused or evicted are no error:
    /// [`Stats::disk`] counts them. Nor are rows that another process evicted or cleared.
    pub fn flush(&self) -> Result<(), FlushError> {
        let tiers = self.tiers();
        // Outside the handle's lock, since this may take as long as the disk does.
        let saved = tiers.as_ref().map_or(Ok(()), Tiers::save_all);
        let (store, fault) = tiers.map_or((None, None), |tiers| (tiers.store, tiers.disk_fault));
        if let Some(store) = store {
            let flushed = store.flush();
            flushed.map_err(|error| FlushError::Rows(Box::new(error)))?;
        }
        saved.map_err(|error| FlushError::Rows(Box::new(error)))?;
        let unwritten = self.unwritten.swap(0, Relaxed);
        let refused = lock(&self.directory_error).clone();
        match refused.or(fault.map(|fault| fault.reason)) {
            Some(reason) => Err(FlushError::Directory(reason)),
            None if unwritten > 0 => Err(FlushError::Rows(Box::new(Unwritten { rows: unwritten }))),
            None => Ok(()),
        }
    }

    /// Waits until the [remote](crate::Options::remote) has every row that this process computed or imported so far under
    /// the present module hash and that the disk tier took, but no longer than `timeout`. Then other machines find them,
    /// until they are removed from the remote. Without a remote tier it returns at once.
    ///
    /// [`flush`](Self::flush) waits for the disk alone, and reports the rows that the disk tier did not take. The end of the process uploads for ten seconds at most; the next
    /// process that opens the directory uploads the rest.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tch::Tensor;
    /// # use torchcache::torchcache;
    /// # #[torchcache]
    /// # fn embed(xs: &Tensor) -> Tensor {
    /// #     xs * 2
    /// # }
    /// // At the end of a job on a machine that is switched off.
    /// embed_cache().flush_remote(Duration::from_secs(300))?;
    /// # Ok::<(), torchcache::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotUploaded`](crate::ErrorKind::NotUploaded) with the number of rows that are not uploaded: they stay
    /// pending, or were dropped since the last call of this. [`ErrorKind::Directory`](crate::ErrorKind::Directory) where
    /// the disk tier, from which rows are uploaded, could not be used.
    pub fn flush_remote(&self, timeout: Duration) -> Result<(), Error> {
        let Some(tiers) = self.tiers() else {
            return Ok(());
        };
        if let Some(fault) = tiers.disk_fault {
            return Err(fault.reason.into());
        }
        let Some(remote) = &tiers.remote else {
            return Ok(());
        };
        // Rows in memory that the disk lacks. A failure is one of the disk, which lacks them still: `flush` returns it.
        let _ = tiers.save_all();
        Ok(remote.flush(timeout).map_err(Detail::NotUploaded)?)
    }

    /// Counts rows that the disk tier should have and has not: the next flush returns them as an error.
    pub(crate) fn add_unwritten(&self, rows: u64) {
        self.unwritten.fetch_add(rows, Relaxed);
    }

    /// Removes every row of the present module hash from disk and memory, also those of calls under way;
    /// rows of earlier hashes of this instance are removed from memory as well. Other caches keep
    /// theirs. Does nothing before a module's first call, since the module hash is not known until then.
    ///
    /// Rows in the remote stay, and are found again: `torchcache clear URL` removes them, and
    /// [`remove`](Self::remove) has this process compute them.
    pub fn clear(&self) {
        self.discard_digests();
        if let Some(tiers) = self.tiers() {
            tiers.clear();
        }
    }

    /// The options in effect: the defaults, then the attribute, then the fields of the module. Before
    /// a module's first call, the defaults. Where `TORCHCACHE_DISABLE` is set, `enabled` is false.
    pub fn effective_options(&self) -> Options {
        let options = self
            .attached()
            .map_or_else(Options::default, |attached| attached.options.clone());
        if environment::is_disabled() {
            options.disabled()
        } else {
            options
        }
    }

    /// The directory that holds the rows on disk, for the command line; a temporary one is removed at
    /// exit. `None` without a disk tier, and before a module's first call.
    pub fn directory(&self) -> Option<PathBuf> {
        self.with_cache(|cache| cache.tiers.directory().map(Path::to_owned))?
    }

    /// Computes the module hash and the digests of shared and plain arguments again at the next call. Modules around
    /// this one do so as well, and modules inside it from that call on. For changes that cannot be
    /// watched: weights written through a raw pointer, mode and buffers of a TorchScript module.
    pub fn refresh(&self) {
        self.changes.report();
        // Weights that were replaced need not stay until the next call.
        self.with_cache(|cache| cache.module.fields.release());
        self.discard_digests();
    }

    fn discard_digests(&self) {
        self.shared.discard();
        self.plain.discard();
    }

    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What it is attached to.
    pub(super) fn attached(&self) -> Option<Arc<Attached>> {
        read(&self.attached).clone()
    }

    /// The tiers of the present module hash; `None` before a module's first call.
    pub(crate) fn tiers(&self) -> Option<Tiers> {
        self.with_cache(|cache| cache.tiers.clone())
    }

    fn with_cache<R>(&self, read: impl FnOnce(&OpenCache) -> R) -> Option<R> {
        self.attached()?.cache.as_deref().map(read)
    }
}

impl std::fmt::Debug for TorchCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchCache")
            .field("module_hash", &self.module_hash())
            .finish_non_exhaustive()
    }
}
