//! Keeps a handle attached to the right tiers: each call compares options and fields with those of
//! the last attach, and opens another cache where they changed.
//!
//! Neither the comparison nor an attach holds a lock: `Fingerprint` and log subscribers are user code,
//! which may call this cache again, or wait for a thread that does.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use torchcache_store::background::BackgroundJobs;
use torchcache_store::manifest::difference;

use super::handle::{Attached, HashedModule, OpenCache, TorchCache};
use super::methods::Method;
use super::overrides::Overrides;
use super::stats::Counters;
use super::target::Target;
use super::tiers::Tiers;
use super::warnings::Reason;
use crate::error::{Detail, Error, with_sources};
use crate::identity::{
    Fingerprinter, Identity, Seen, Snapshot, Survey, Watcher, manifest, same_options,
};
use crate::options::{Options, environment};
use crate::sync::{Progress, lock, read, write};

/// How many requests to read rows ahead wait at most.
const MAX_READ_AHEAD: usize = 32;

/// Why a call cannot use the cache of its module.
#[derive(Debug)]
pub(crate) enum Refused {
    Misuse(Error),
    /// The call bypasses the cache.
    Bypass(Reason),
}

impl From<Detail> for Refused {
    fn from(detail: Detail) -> Self {
        Refused::Misuse(detail.into())
    }
}

/// How long a call waits for another thread that attaches the same handle and does not hash meanwhile.
/// That thread may need a lock that the caller holds.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(1);

impl TorchCache {
    /// The cache that `target` uses at this call, after comparing it with the last attach.
    ///
    /// # Errors
    ///
    /// Options out of range, a parameter that requires grad, a directory that cannot be used; a
    /// field whose lock another thread holds.
    pub(crate) fn attach(&self, target: &dyn Target) -> Result<Arc<Attached>, Refused> {
        self.try_attach(target).map_err(|refused| match refused {
            Refused::Misuse(error) => {
                self.set_directory_error(error.directory());
                Refused::Misuse(error.in_module(&target.name()))
            }
            bypass => bypass,
        })
    }

    fn set_directory_error(&self, error: Option<Arc<Detail>>) {
        self.was_refused.store(error.is_some(), Relaxed);
        *lock(&self.directory_error) = error;
    }

    fn try_attach(&self, target: &dyn Target) -> Result<Arc<Attached>, Refused> {
        let start = Instant::now();
        let attached = self.still_attached(target, self.attached().as_ref());
        Counters::time(&self.counters.time.watching, start);
        // After options that were refused, those of before need a directory that can be used now.
        if let Some(attached) = attached?
            && !self.was_refused.load(Relaxed)
        {
            return Ok(attached);
        }
        let start = Instant::now();
        let attached = self.attach_in_turn(target);
        Counters::time(&self.counters.time.attaching, start);
        attached
    }

    /// Attaches, unless another thread has done so meanwhile: threads that find the same change attach
    /// once.
    fn attach_in_turn(&self, target: &dyn Target) -> Result<Arc<Attached>, Refused> {
        let turn = self.attaching.take(ATTACH_TIMEOUT);
        let before = self.attached();
        if turn.waited
            && let Some(attached) = self.still_attached(target, before.as_ref())?
        {
            return Ok(attached);
        }
        let attached = self.attach_again(target, before.as_deref(), &turn.progress)?;
        let attached = Arc::new(attached);
        if let Some(before) = &before {
            self.flush_replaced(before, &attached);
        }
        *write(&self.attached) = Some(attached.clone());
        self.set_directory_error(None);
        drop(turn);
        self.log_change(target, before.as_deref(), &attached);
        self.hint(target, before.as_deref(), &attached);
        Ok(attached)
    }

    /// `before`, if it still holds.
    fn still_attached(
        &self,
        target: &dyn Target,
        before: Option<&Arc<Attached>>,
    ) -> Result<Option<Arc<Attached>>, Refused> {
        let Some(attached) = before else {
            return Ok(None);
        };
        if attached.overrides.compare(overrides(target)).changed {
            return Ok(None);
        }
        if !attached.options.enabled() {
            return Ok(Some(attached.clone()));
        }
        let Some(cache) = &attached.cache else {
            return Ok(None);
        };
        if cache.tiers.should_retry_disk() || !self.still_hashed(target, &cache.module)? {
            return Ok(None);
        }
        Ok(Some(attached.clone()))
    }

    /// Whether a module hash still holds.
    fn still_hashed(&self, target: &dyn Target, module: &HashedModule) -> Result<bool, Refused> {
        let seen = self.compare(target, module)?;
        Ok(!seen.changed && !seen.unsampled)
    }

    /// Compares a module with what it was hashed as.
    fn compare(&self, target: &dyn Target, module: &HashedModule) -> Result<Seen, Refused> {
        if module.changes != self.changes().count() {
            return Ok(Seen {
                changed: true,
                ..Seen::default()
            });
        }
        let seen = module.fields.compare(fields(target));
        if let Some(reason) = unreadable(seen) {
            return Err(Refused::Bypass(reason));
        }
        if !seen.changed {
            self.check_frozen(target, seen)?;
        }
        Ok(seen)
    }

    /// A parameter that requires grad is an error: a cached output has no gradient.
    fn check_frozen(&self, target: &dyn Target, seen: Seen) -> Result<(), Detail> {
        if !seen.trainable {
            return Ok(());
        }
        // A training step may change the module without a trace.
        self.changes().report();
        let mut survey = Survey::default();
        target.fingerprint(&mut Fingerprinter::survey(&mut survey));
        let parameter = survey.trainable.unwrap_or_default();
        Err(Detail::ParameterRequiresGrad { parameter })
    }

    /// Reads options and fields again, and opens their tiers.
    fn attach_again(
        &self,
        target: &dyn Target,
        before: Option<&Attached>,
        progress: &Arc<Progress>,
    ) -> Result<Attached, Refused> {
        let (overridden, _) = Snapshot::record(overrides(target));
        let mut options = target.options();
        target.overrides(&mut Overrides::apply(&mut options));
        let options = options.checked()?;
        let before_cache = before.and_then(|before| before.cache.as_ref());
        let cache = if options.enabled() && !environment::is_disabled() {
            let hashed_early = lock(&self.hashed_early).take();
            let hashed = before_cache.map(|cache| cache.module.clone());
            let module = match hashed.or(hashed_early) {
                Some(module)
                    if same_options(&module.options, &options)
                        && self.still_hashed(target, &module)? =>
                {
                    module
                }
                _ => Arc::new(self.hash(target, &options, progress)?),
            };
            let previous = before_cache.map(|cache| {
                // Its jobs share the memory, which moves to the next module hash if nothing else does.
                cache.reading_ahead.cancel();
                &cache.tiers
            });
            let tiers = Tiers::open(&module.identity, &options, previous)?;
            let claimed = RwLock::default();
            Some(Arc::new(OpenCache {
                reading_ahead: BackgroundJobs::new("torchcache-read-ahead", MAX_READ_AHEAD),
                tiers,
                module,
                claimed,
            }))
        } else {
            before_cache.cloned()
        };
        Ok(Attached {
            options,
            overrides: overridden,
            cache,
        })
    }

    /// Whether the module is still what it was hashed as, now that its forward ran.
    ///
    /// # Errors
    ///
    /// It changed meanwhile, or cannot be read now.
    pub(crate) fn check_unchanged(
        &self,
        target: &dyn Target,
        cache: &OpenCache,
    ) -> Result<(), Reason> {
        let start = Instant::now();
        let seen = self.compare(target, &cache.module);
        Counters::time(&self.counters.time.watching, start);
        match seen {
            Ok(seen) if !seen.changed && (!seen.unsampled || self.has_hash(target, cache)) => {
                // A store is shared between the processors, even of the same value.
                if self.changing_calls.load(Relaxed) > 0 {
                    self.changing_calls.store(0, Relaxed);
                }
                Ok(())
            }
            Err(Refused::Bypass(reason)) => Err(reason),
            Ok(_) | Err(Refused::Misuse(_)) => {
                let calls = self.changing_calls.fetch_add(1, Relaxed) + 1;
                Err(Reason::ModuleChanged(calls))
            }
        }
    }

    /// Whether a module that could not be compared has the hash of `cache`.
    fn has_hash(&self, target: &dyn Target, cache: &OpenCache) -> bool {
        let module = &cache.module;
        // A hash that the program gives says nothing.
        module.options.persistent_module_hash().is_none()
            && self
                .hash(target, &module.options, &Arc::default())
                .is_ok_and(|again| again.identity.hash == module.identity.hash)
    }

    /// Hashes a module before its first call, for which the hash is kept. `false` where it cannot be
    /// read now.
    pub(crate) fn hash_early(&self, target: &dyn Target, options: &Options) -> bool {
        let start = Instant::now();
        let module = {
            // A module may be wrapped before it is frozen.
            let _guard = tch::no_grad_guard();
            self.hash(target, options, &Arc::default()).ok()
        };
        Counters::time(&self.counters.time.attaching, start);
        let is_hashed = module.is_some();
        *lock(&self.hashed_early) = module.map(Arc::new);
        is_hashed
    }

    fn hash(
        &self,
        target: &dyn Target,
        options: &Options,
        progress: &Arc<Progress>,
    ) -> Result<HashedModule, Refused> {
        // All that is compared is read before it is hashed, so that the next call notices a change in
        // between.
        let changes = self.changes().count();
        let (fields, seen) = Snapshot::record(fields(target));
        if let Some(reason) = unreadable(seen) {
            return Err(Refused::Bypass(reason));
        }
        self.check_frozen(target, seen)?;
        let start = Instant::now();
        let name = target.name();
        let identity = Identity::compute(&name, options, progress, |f| target.fingerprint(f));
        let identity = identity.ok_or(Refused::Bypass(Reason::Locked))?;
        if identity.lacks_variables {
            return Err(Detail::WeightsWithoutStore.into());
        }
        Ok(HashedModule {
            identity,
            options: options.clone(),
            fields,
            changes,
            hashed_in: start.elapsed(),
        })
    }

    /// Writes what the cache of `before` has queued, if `after` has another one: later flushes do not
    /// reach it. Its losses are kept for the next flush to return.
    fn flush_replaced(&self, before: &Attached, after: &Attached) {
        let Some(replaced) = &before.cache else {
            return;
        };
        let directory = |cache: &Arc<OpenCache>| cache.tiers.directory().map(Path::to_owned);
        let is_kept = after.cache.as_ref().map(directory) == Some(directory(replaced));
        if !is_kept
            && let Some(store) = &replaced.tiers.store
            && let Err(error) = store.flush()
        {
            self.add_unwritten(error.rows());
        }
    }

    /// Logs which cache is used from now on, where it is another one than before.
    fn log_change(&self, target: &dyn Target, before: Option<&Attached>, after: &Attached) {
        let before = before.and_then(|before| before.cache.as_ref());
        let Some(after) = &after.cache else { return };
        if before.is_some_and(|before| Arc::ptr_eq(before, after)) {
            return;
        }
        let place = |cache: &OpenCache| {
            let directory = cache.tiers.directory().map(Path::to_owned);
            (cache.identity().hash.clone(), directory)
        };
        if before.map(|before| place(before)) != Some(place(after)) {
            after.log_attached(target, before.map(|before| &**before));
        }
        if after.identity().in_train_mode {
            self.warnings
                .warn_once(|| target.name(), &Reason::TrainMode);
        }
        let unknown = &after.identity().unknown_code;
        if !unknown.is_empty() && after.tiers.outlives_the_process() {
            let types: Vec<_> = unknown.iter().map(|name| format!("`{name}`")).collect();
            let reason = Reason::UnknownCode(types.join(", "));
            self.warnings.warn_once(|| target.name(), &reason);
        }
        if let Some(fault) = &after.tiers.disk_fault {
            Counters::add(&self.counters.faults.open, 1);
            let reason = Reason::DiskTier(with_sources(&*fault.reason));
            self.warnings.warn_once(|| target.name(), &reason);
        }
    }
}

/// Why a field cannot be read, if so.
fn unreadable(seen: Seen) -> Option<Reason> {
    if seen.locked {
        Some(Reason::Locked)
    } else if seen.unreadable {
        Some(Reason::Unreadable("a field is".to_owned()))
    } else {
        None
    }
}

/// Walks the options and what overrides them.
fn overrides(target: &dyn Target) -> impl FnOnce(&mut Watcher) {
    |watcher| {
        // A handle may be moved to a module of another type, with another attribute.
        if let Some(number) = target.watched_type() {
            watcher.bytes(&number.to_le_bytes());
        }
        target.overrides(&mut Overrides::watch(watcher));
    }
}

/// Walks the fields that the output depends on.
fn fields(target: &dyn Target) -> impl FnOnce(&mut Watcher) {
    |watcher| target.fingerprint(&mut Fingerprinter::watch(watcher))
}

impl OpenCache {
    /// Claims the module hash for a method, unless that was done.
    ///
    /// # Errors
    ///
    /// Another item of this process, of equal identity, has claimed it.
    pub(crate) fn claim(&self, target: &dyn Target, method: &Method) -> Result<(), Detail> {
        if !read(&self.claimed).contains(&method.digest) {
            let options = &self.module.options;
            let function = method.function;
            let (hash, version) = (&self.identity().hash, function.options.version);
            match options.persistent_module_hash() {
                // The code is not in the keys then.
                Some(_) => {
                    let names = (options.version(), function.full_name(), version);
                    target.claim(hash, function, format!("{names:?}").as_bytes())?;
                }
                None => target.claim(hash, function, &method.digest)?,
            }
            write(&self.claimed).insert(method.digest);
        }
        Ok(())
    }

    /// Logs the module hash and directory, and what changed since the hash that this handle used
    /// before, or else since the newest one in the directory.
    fn log_attached(&self, target: &dyn Target, before: Option<&OpenCache>) {
        let module = &*target.name();
        let hash = self.identity().hash.as_str();
        let directory = self.tiers.directory();
        let change = match before.filter(|before| before.identity().hash != hash) {
            Some(before) => Some(difference(&before.identity().parts, &self.identity().parts)),
            None => directory
                .and_then(Path::parent)
                .and_then(|root| manifest::explain(root, module, self.identity())),
        };
        if let Some(change) = change {
            tracing::info!(module, hash, "the module hash changed: {change}");
        }
        let hashed_in = self.module.hashed_in;
        let Some(directory) = directory else {
            tracing::info!(module, hash, ?hashed_in, "cache attached, in memory only");
            return;
        };
        tracing::info!(
            module,
            hash,
            directory = %directory.display(),
            ?hashed_in,
            "cache attached"
        );
        if let Err(error) = manifest::write(directory, module, self.identity()) {
            tracing::debug!(module, %error, "the manifest could not be written");
        }
    }
}
