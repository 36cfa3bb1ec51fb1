//! The stores of this process: one for each directory.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::engine::Engine;
use crate::engine::handle::Handle;
use crate::events::Deferring;

/// Never held while anything waits, since the end of the process needs it.
static STORES: LazyLock<Mutex<HashMap<PathBuf, Registered>>> = LazyLock::new(Mutex::default);

/// The store of a directory.
#[derive(Default)]
struct Registered {
    /// Held while the directory is opened.
    opening: Arc<Mutex<()>>,
    handle: Weak<Handle>,
    /// The engines of this directory. One whose handle was dropped may still write, if the disk was
    /// slow.
    engines: Vec<Weak<Engine>>,
}

impl Registered {
    fn is_used(&self) -> bool {
        let is_alive = |engine: &Weak<Engine>| engine.strong_count() > 0;
        self.engines.iter().any(is_alive) || Arc::strong_count(&self.opening) > 1
    }
}

fn stores() -> MutexGuard<'static, HashMap<PathBuf, Registered>> {
    STORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store of a directory, which `open` makes if there is none. Only callers that want the same
/// directory wait meanwhile.
pub(crate) fn shared(dir: PathBuf, open: impl FnOnce(PathBuf) -> Arc<Handle>) -> Arc<Handle> {
    let opening = stores().entry(dir.clone()).or_default().opening.clone();
    let _guard = Deferring::new(opening.lock().unwrap_or_else(PoisonError::into_inner));
    let present = stores().get(&dir).and_then(|store| store.handle.upgrade());
    if let Some(handle) = present {
        return handle;
    }
    let handle = open(dir.clone());
    let mut stores = stores();
    stores.retain(|_, store| store.is_used());
    let store = stores.entry(dir).or_default();
    store.handle = Arc::downgrade(&handle);
    store.engines.retain(|engine| engine.strong_count() > 0);
    store.engines.push(Arc::downgrade(&handle.engine));
    handle
}

/// The engines of all stores. Dropping the last reference to one may run code of the caller.
pub(super) fn engines() -> Vec<Arc<Engine>> {
    let stores = stores();
    let engines = stores.values().flat_map(|store| &store.engines);
    engines.filter_map(Weak::upgrade).collect()
}

/// Waits until every store of this process has written what is queued. For programs that end in
/// another way than by `exit` or by returning from `main`, which do so by themselves. On a thread that
/// writes a store, where log subscribers may run, it does not wait.
///
/// ```
/// torchcache_store::flush_all();
/// ```
pub fn flush_all() {
    flush(&engines(), Instant::now());
}

/// Flushes stores at the same time, so that disks that make no progress are waited for together: each
/// for its stall timeout, counted from `since` or from its last progress.
pub(super) fn flush(engines: &[Arc<Engine>], since: Instant) {
    let requested = engines.iter().map(|engine| engine.queue.request_flush());
    let last: Vec<_> = requested.collect();
    for (engine, last) in engines.iter().zip(last) {
        // A log subscriber that panics must not keep the other stores from being waited for.
        let _ = catch_unwind(AssertUnwindSafe(|| engine.wait_written(last, since)));
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::fs::Os;

    #[test]
    fn a_directory_is_forgotten_once_its_store_is_gone() {
        let [gone, kept] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let open = |dir: &Path| {
            shared(dir.to_owned(), |dir| {
                Handle::open(Arc::new(Os), dir, None, &Config::default())
            })
        };
        drop(open(gone.path()));
        let _handle = open(kept.path());
        assert!(!stores().contains_key(gone.path()));
        assert!(stores().contains_key(kept.path()));
    }
}
