//! Keeps a handle attached to the right tiers: each call compares options and fields with those of
//! the last one, and opens another cache where they changed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use torchcache_store::manifest::difference;

use super::handle::{Attached, OpenCache, TorchCache, Watchers};
use super::overrides::Overrides;
use super::stats::Counters;
use super::target::Target;
use super::tiers::Tiers;
use super::warnings::Reason;
use crate::error::{Detail, Error, with_sources};
use crate::identity::{Fingerprinter, Identity, Watcher, manifest};
use crate::options::{Options, environment};
use crate::sync::lock;

impl TorchCache {
    /// The cache that `target` uses at this call, after comparing it with the last call.
    ///
    /// # Errors
    ///
    /// Options out of range, a parameter that requires grad, a directory that cannot be used.
    pub(crate) fn attach(&self, target: &dyn Target) -> Result<Arc<Attached>, Error> {
        // The first calls of a function from several threads attach it once.
        let fixed = target.watched_type().is_none();
        let first = fixed && lock(&self.state).attached.is_none();
        let first = first.then(|| lock(&self.attaching));
        let (before, mut watchers) = {
            let mut state = lock(&self.state);
            let watchers = std::mem::replace(&mut state.watchers, Watchers::new());
            (state.attached.clone(), watchers)
        };
        if self.refresh.swap(false, Relaxed) {
            watchers.fields.forget();
        }
        // `Fingerprint` may be user code: it runs while the watchers are out of the lock.
        let after = watchers.attach(target, before.as_ref());
        if let (Some(before), Ok(after)) = (&before, &after) {
            self.flush_replaced(before, after);
        }
        let mut state = lock(&self.state);
        state.watchers = watchers;
        match after {
            Ok(attached) => {
                state.attached = Some(attached.clone());
                state.directory_error = None;
                // A log subscriber may call the function again.
                drop((state, first));
                self.log_change(target, before.as_deref(), &attached);
                Ok(attached)
            }
            Err(detail) => {
                let error = Error::new(target.name(), detail);
                state.directory_error = error.directory();
                // Nothing that this call recorded is valid: the next one compares everything again.
                state.watchers.overrides.forget();
                state.watchers.fields.forget();
                drop(state);
                Err(error)
            }
        }
    }

    /// Writes what the cache of `before` has queued, if `after` has another one: later flushes do not
    /// reach it. Its losses are kept for the next flush to return.
    fn flush_replaced(&self, before: &Attached, after: &Attached) {
        let Some(replaced) = &before.cache else {
            return;
        };
        let is_kept = after
            .cache
            .as_ref()
            .is_some_and(|after| Arc::ptr_eq(replaced, after));
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
        after.log_attached(target, before.map(|before| &**before));
        if let Some(fault) = &after.tiers.disk_fault {
            Counters::add(&self.counters.faults.open, 1);
            let reason = Reason::DiskTier(with_sources(&*fault.reason));
            self.warnings.warn_once(|| target.name(), &reason);
        }
    }
}

impl Watchers {
    fn attach(
        &mut self,
        target: &dyn Target,
        before: Option<&Arc<Attached>>,
    ) -> Result<Arc<Attached>, Detail> {
        let new_options = self.changed_options(target, before)?;
        let (options, same_options) = match (&new_options, before) {
            (Some(options), _) => (options, false),
            (None, Some(before)) if !before.options.enabled() => return Ok(before.clone()),
            (None, Some(before)) => (&before.options, true),
            (None, None) => unreachable!("the first call resolves its options"),
        };
        if !options.enabled() || environment::is_disabled() {
            let cache = before.and_then(|before| before.cache.clone());
            let options = options.clone();
            return Ok(Arc::new(Attached { options, cache }));
        }
        let unchanged = !self.fields_changed(target)? && same_options;
        let before_cache = before.and_then(|before| before.cache.as_deref());
        if let (Some(before), Some(cache)) = (before, before_cache)
            && unchanged
            && !cache.tiers.should_retry_disk()
        {
            return Ok(before.clone());
        }
        let name = target.name();
        let identity = match before_cache {
            Some(cache) if unchanged => cache.identity.clone(),
            _ => Identity::compute(&name, options, |f| target.fingerprint(f)),
        };
        target.claim(&identity.hash)?;
        let previous = before_cache.map(|cache| &cache.tiers);
        let tiers = Tiers::open(&identity, options, previous)?;
        Ok(Arc::new(Attached {
            options: options.clone(),
            cache: Some(Arc::new(OpenCache {
                identity,
                tiers,
                module_device: self.fields.device(),
            })),
        }))
    }

    /// The options, where they are not those of `before`.
    fn changed_options(
        &mut self,
        target: &dyn Target,
        before: Option<&Arc<Attached>>,
    ) -> Result<Option<Options>, Detail> {
        let visit = |watcher: &mut Watcher| {
            // A handle may be moved to a module of another type, with another attribute.
            if let Some(name) = target.watched_type() {
                watcher.bytes(name.as_bytes());
            }
            target.overrides(&mut Overrides::watch(watcher));
        };
        let changed = self.overrides.compare(visit).changed;
        if before.is_some() && !changed {
            return Ok(None);
        }
        let mut options = target.options();
        target.overrides(&mut Overrides::apply(&mut options));
        let options = options.checked()?;
        self.overrides.record(visit);
        Ok(Some(options))
    }

    /// Whether a field that the output depends on changed. A parameter that requires grad is an
    /// error.
    fn fields_changed(&mut self, target: &dyn Target) -> Result<bool, Detail> {
        let visit = |watcher: &mut Watcher| target.fingerprint(&mut Fingerprinter::watch(watcher));
        let mut seen = self.fields.compare(visit);
        if seen.changed {
            // The comparison stopped at the first difference; the recording walk sees every
            // parameter.
            seen.trainable = self.fields.record(visit).trainable;
        }
        if seen.trainable {
            let mut parameter = None;
            target.fingerprint(&mut Fingerprinter::trainable(&mut parameter));
            let parameter = parameter.unwrap_or_default();
            return Err(Detail::ParameterRequiresGrad { parameter });
        }
        Ok(seen.changed)
    }
}

impl OpenCache {
    /// Logs the module hash and directory, and what changed since the hash that this handle used
    /// before, or else since the newest one in the directory.
    fn log_attached(&self, target: &dyn Target, before: Option<&OpenCache>) {
        let module = &*target.name();
        let hash = self.identity.hash.as_str();
        let directory = self.tiers.directory();
        let change = match before.filter(|before| before.identity.hash != hash) {
            Some(before) => Some(difference(&before.identity.parts, &self.identity.parts)),
            None => directory
                .and_then(Path::parent)
                .and_then(|root| manifest::explain(root, module, &self.identity)),
        };
        if let Some(change) = change {
            tracing::info!(module, hash, "the module hash changed: {change}");
        }
        let Some(directory) = directory else {
            tracing::info!(module, hash, "cache attached, in memory only");
            return;
        };
        tracing::info!(module, hash, directory = %directory.display(), "cache attached");
        if let Err(error) = manifest::write(directory, module, &self.identity, target.functions()) {
            tracing::debug!(module, %error, "the manifest could not be written");
        }
    }
}
