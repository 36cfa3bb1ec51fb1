//! Hints about options that do not do what they seem to do, and about modules whose rows are never found
//! again. Each is logged once per handle.

use std::sync::atomic::Ordering::Relaxed;

use torchcache_store::manifest::difference;

use super::handle::{Attached, OpenCache, TorchCache};
use super::hash_changes::MAX_CHANGES;
use super::target::Target;
use super::warnings::Reason;
use crate::sync::lock;

impl TorchCache {
    /// Logs hints about what the handle is attached to from now on.
    pub(super) fn hint(&self, target: &dyn Target, before: Option<&Attached>, after: &Attached) {
        let Some(cache) = after.enabled_cache() else {
            return;
        };
        let warn = |reason| self.warnings.warn_once(|| target.name(), &reason);
        let options = &after.options;
        if cache.tiers.ends_with_the_process() {
            warn(Reason::TemporaryDirectory);
        }
        if let Some((names, needed)) = options.without_effect() {
            warn(Reason::WithoutEffect(names, needed));
        }
        let before = before.and_then(|before| before.cache.as_deref());
        if let Some(reason) = self.repeated_change(before, cache) {
            warn(reason);
        }
    }

    /// A module hash that has changed often and in vain.
    fn repeated_change(&self, before: Option<&OpenCache>, after: &OpenCache) -> Option<Reason> {
        let (before, after) = (before?.identity(), after.identity());
        if before.hash == after.hash {
            return None;
        }
        let stats = self.counted();
        let found = stats.memory.hits + stats.disk.hits + stats.remote.hits;
        let times = lock(&self.hash_changes).add(found, stats.calls);
        (times == MAX_CHANGES).then(|| Reason::ChangingHash {
            times,
            change: difference(&before.parts, &after.parts),
            in_forward: self.changing_calls.load(Relaxed) > 0,
        })
    }
}
