//! [`TorchCache`]: the handle of one cache, and how it stays attached to the right tiers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tch::{Device, TchError};
use torchcache_store::manifest::difference;

use crate::argument::{SharedDigests, TensorArgument};
use crate::cache::overrides::Overrides;
use crate::cache::stats::{Counters, Stats};
use crate::cache::target::Subject;
use crate::cache::tiers::Tiers;
use crate::call::bypass::{self, Reason};
use crate::error::{Error, Problem};
use crate::identity::{Fingerprinter, Identity, Watcher, manifest};
use crate::options::Options;
use crate::sync::lock;

/// The cache of one module instance or function.
///
/// A module holds it in a field (`torchcache: TorchCache`, made with `TorchCache::default()`); a
/// function's is `name::cache()`. A module's handle is inert until the first call: only then are
/// options, identity and directory known. A function's knows them at once. Dropping it waits until
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
    state: Mutex<State>,
    attaching: Mutex<()>,
    /// Of shared tensors, out of the lock while they are in use; and how often they were given up.
    shared: Mutex<(u64, SharedDigests)>,
    /// Set by `refresh`, taken by the next call.
    refresh: AtomicBool,
    pub(crate) counters: Counters,
}

struct State {
    attached: Option<Arc<Attached>>,
    watchers: Watchers,
}

struct Watchers {
    overrides: Watcher,
    fields: Watcher,
}

/// What a handle is attached to: resolved options, identity, tiers.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) options: Options,
    /// `None` where the cache was never switched on: nothing is hashed or opened then. Switched
    /// off, it stays as it was, so that its rows are there when it is switched on again.
    cache: Option<Arc<Cache>>,
}

impl Attached {
    /// The cache, while it is switched on.
    pub(crate) fn in_use(&self) -> Option<&Cache> {
        self.cache.as_deref().filter(|_| self.options.enabled)
    }
}

/// An identity and where its rows are.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) identity: Identity,
    pub(crate) tiers: Tiers,
    /// The device of its tensors, where that is one.
    pub(crate) home: Option<Device>,
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
                watchers: Watchers {
                    overrides: Watcher::new(),
                    fields: Watcher::new(),
                },
            }),
            attaching: Mutex::new(()),
            shared: Mutex::new((0, SharedDigests::new())),
            refresh: AtomicBool::new(false),
            counters: Counters::new(),
        }
    }

    /// The identity that rows are kept under: 64 hexadecimal digits, or what
    /// `persistent_module_hash` says. It names the directory. `None` before a module's first call.
    pub fn module_hash(&self) -> Option<String> {
        self.with_cache(|cache| cache.identity.hash.clone())
    }

    /// What the cache did and holds. Calls, rows and times are this handle's; what the tiers hold
    /// is shared by all handles of this identity.
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

    /// Drops every row of the present identity, on disk and in memory; rows of earlier identities
    /// of this instance go from memory as well. Other caches keep theirs. Before a module's first
    /// call there is nothing to drop: which rows are its own is
    /// known only then.
    pub fn clear(&self) {
        self.forget_shared();
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
        options.enabled &= !bypass::switched_off();
        options
    }

    /// Computes the identity anew at the next call, and the digests of shared arguments. For changes
    /// that cannot be watched: weights written through a raw pointer, buffers of a TorchScript module.
    pub fn refresh(&self) {
        self.refresh.store(true, Relaxed);
        self.forget_shared();
    }

    fn forget_shared(&self) {
        let mut shared = lock(&self.shared);
        *shared = (shared.0 + 1, SharedDigests::new());
    }

    /// The digests of shared tensors, in their order. Those of the last calls are not hashed again.
    pub(crate) fn digests_of(&self, shared: &[TensorArgument]) -> Result<Vec<[u8; 32]>, TchError> {
        if shared.is_empty() {
            return Ok(Vec::new());
        }
        let (age, mut digests) = {
            let mut kept = lock(&self.shared);
            (kept.0, std::mem::take(&mut kept.1))
        };
        let of_these = digests.of(shared);
        let mut kept = lock(&self.shared);
        if kept.0 == age {
            kept.1 = digests;
        }
        of_these
    }

    fn with_cache<R>(&self, read: impl FnOnce(&Cache) -> R) -> Option<R> {
        let attached = lock(&self.state).attached.clone()?;
        attached.cache.as_deref().map(read)
    }

    /// Tells which cache is used from now on, where it is another one than before.
    fn announce(&self, subject: &dyn Subject, before: Option<&Attached>, after: &Attached) {
        let before = before.and_then(|before| before.cache.as_ref());
        let Some(after) = &after.cache else { return };
        if before.is_some_and(|before| Arc::ptr_eq(before, after)) {
            return;
        }
        after.announce(subject, before.map(|before| &**before));
        if let Some(fault) = &after.tiers.disk_fault {
            Counters::add(&self.counters.disk_faults, 1);
            bypass::tell_once(subject, &Reason::DiskTier(fault.reason.clone()));
        }
    }

    /// The cache that `subject` uses at this call, after noticing what changed since the last one.
    ///
    /// # Errors
    ///
    /// Options out of range, a parameter that requires grad, a directory that cannot be used.
    pub(crate) fn attach(&self, subject: &dyn Subject) -> Result<Arc<Attached>, Error> {
        // The first calls of a function from several threads attach it once.
        let fixed = subject.watched_type().is_none();
        let first = fixed && lock(&self.state).attached.is_none();
        let first = first.then(|| lock(&self.attaching));
        let (before, mut watchers) = {
            let mut state = lock(&self.state);
            let unused = Watchers {
                overrides: Watcher::new(),
                fields: Watcher::new(),
            };
            (
                state.attached.clone(),
                std::mem::replace(&mut state.watchers, unused),
            )
        };
        if self.refresh.swap(false, Relaxed) {
            watchers.fields.forget();
        }
        // `Fingerprint` may be the user's own: the watchers are out of the lock while it runs.
        let after = watchers.attach(subject, before.as_ref());
        let mut state = lock(&self.state);
        state.watchers = watchers;
        match after {
            Ok(attached) => {
                state.attached = Some(attached.clone());
                // Whoever listens to the log may call the function again.
                drop((state, first));
                self.announce(subject, before.as_deref(), &attached);
                Ok(attached)
            }
            Err(problem) => {
                // Nothing that this call saw was taken on: the next one looks at everything again.
                state.watchers.overrides.forget();
                state.watchers.fields.forget();
                drop(state);
                Err(Error::new(subject.name(), problem))
            }
        }
    }
}

impl std::fmt::Debug for TorchCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchCache")
            .field("module_hash", &self.module_hash())
            .finish_non_exhaustive()
    }
}

impl Watchers {
    fn attach(
        &mut self,
        subject: &dyn Subject,
        before: Option<&Arc<Attached>>,
    ) -> Result<Arc<Attached>, Problem> {
        let new_options = self.options(subject, before)?;
        let (options, same_options) = match (&new_options, before) {
            (Some(options), _) => (options, false),
            (None, Some(before)) if !before.options.enabled => return Ok(before.clone()),
            (None, Some(before)) => (&before.options, true),
            (None, None) => unreachable!("without a state before, options are resolved anew"),
        };
        if !options.enabled || bypass::switched_off() {
            let cache = before.and_then(|before| before.cache.clone());
            let options = options.clone();
            return Ok(Arc::new(Attached { options, cache }));
        }
        let unchanged = !self.fields(subject)? && same_options;
        let before_cache = before.and_then(|before| before.cache.as_deref());
        if let (Some(before), Some(cache)) = (before, before_cache)
            && unchanged
            && !cache.tiers.retry_disk()
        {
            return Ok(before.clone());
        }
        let name = subject.name();
        let identity = match before_cache {
            Some(cache) if unchanged => cache.identity.clone(),
            _ => Identity::compute(&name, options, |f| subject.fingerprint(f)),
        };
        subject.claim(&identity.hash)?;
        let previous = before_cache.map(|cache| &cache.tiers);
        let tiers = Tiers::of(&identity, options, previous)?;
        Ok(Arc::new(Attached {
            options: options.clone(),
            cache: Some(Arc::new(Cache {
                identity,
                tiers,
                home: self.fields.home(),
            })),
        }))
    }

    /// The options, where they are not those of `before`.
    fn options(
        &mut self,
        subject: &dyn Subject,
        before: Option<&Arc<Attached>>,
    ) -> Result<Option<Options>, Problem> {
        self.overrides.compare();
        self.watch_overrides(subject);
        if before.is_some() && !self.overrides.finish().changed {
            return Ok(None);
        }
        let mut options = subject.options();
        subject.overrides(&mut Overrides::apply(&mut options));
        options.check()?;
        self.overrides.record();
        self.watch_overrides(subject);
        Ok(Some(options))
    }

    /// A handle may be moved to a module of another type, whose attribute says something else.
    fn watch_overrides(&mut self, subject: &dyn Subject) {
        if let Some(name) = subject.watched_type() {
            self.overrides.bytes(name.as_bytes());
        }
        subject.overrides(&mut Overrides::watch(&mut self.overrides));
    }

    /// Whether what the output depends on changed. A parameter that requires grad is refused.
    fn fields(&mut self, subject: &dyn Subject) -> Result<bool, Problem> {
        self.fields.compare();
        self.watch_fields(subject);
        let mut seen = self.fields.finish();
        if seen.changed {
            // A comparison stops at the first difference, which is no reason to miss a parameter.
            self.record(subject);
            seen.trainable = self.fields.finish().trainable;
        }
        if seen.trainable {
            let mut parameter = None;
            subject.fingerprint(&mut Fingerprinter::trainable(&mut parameter));
            let parameter = parameter.unwrap_or_default();
            return Err(Problem::RequiresGrad { parameter });
        }
        Ok(seen.changed)
    }

    fn record(&mut self, subject: &dyn Subject) {
        self.fields.record();
        self.watch_fields(subject);
    }

    fn watch_fields(&mut self, subject: &dyn Subject) {
        subject.fingerprint(&mut Fingerprinter::watch(&mut self.fields));
    }
}

impl Cache {
    /// Tells the hash and directory, and why they are others than before: in this handle, or in
    /// the directory.
    fn announce(&self, subject: &dyn Subject, before: Option<&Cache>) {
        let module = &*subject.name();
        let hash = self.identity.hash.as_str();
        let directory = self.tiers.directory();
        let reason = match before.filter(|before| before.identity.hash != hash) {
            Some(before) => Some(difference(&before.identity.parts, &self.identity.parts)),
            None => directory
                .and_then(Path::parent)
                .and_then(|root| manifest::explain(root, module, &self.identity)),
        };
        if let Some(reason) = reason {
            tracing::info!(module, hash, "another identity than before: {reason}");
        }
        let Some(directory) = directory else {
            tracing::info!(module, hash, "cache attached, in memory only");
            return;
        };
        tracing::info!(module, hash, directory = %directory.display(), "cache attached");
        if let Err(error) = manifest::write(directory, module, &self.identity, subject.functions())
        {
            tracing::debug!(module, %error, "the manifest could not be written");
        }
    }
}
