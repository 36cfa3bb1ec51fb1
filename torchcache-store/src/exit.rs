//! The stores and private directories of this process: one store for each directory, and
//! what the end of the process does with them. Statics are never dropped, so the C
//! library's exit hook has to; and signals end a process without that.

use std::collections::HashMap;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::handle::Handle;
use crate::private_dir;
use crate::signals;
use crate::sys;

static STORES: OnceLock<Mutex<HashMap<PathBuf, Weak<Handle>>>> = OnceLock::new();

/// The process that registered the hook. After a fork, the child has no writer thread to
/// wait for, and the queued rows are the parent's.
static OWNER: OnceLock<u32> = OnceLock::new();

fn stores() -> MutexGuard<'static, HashMap<PathBuf, Weak<Handle>>> {
    STORES
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Registers the hook, once.
pub(crate) fn arm() {
    OWNER.get_or_init(|| {
        if !sys::at_exit(hook) {
            tracing::warn!(
                "cannot register an exit hook; drop or flush stores before the process ends"
            );
        }
        if let Err(error) = signals::arm(|| hook()) {
            tracing::warn!(%error, "a signal that ends the process will lose rows that are queued");
        }
        std::process::id()
    });
}

/// The store of a directory: the one there is, or the one that `start` makes.
pub(crate) fn shared(dir: PathBuf, start: impl FnOnce(PathBuf) -> Arc<Handle>) -> Arc<Handle> {
    arm();
    let mut stores = stores();
    if let Some(handle) = stores.get(&dir).and_then(Weak::upgrade) {
        return handle;
    }
    stores.retain(|_, handle| handle.strong_count() > 0);
    let handle = start(dir.clone());
    stores.insert(dir, Arc::downgrade(&handle));
    handle
}

fn live() -> Vec<Arc<Handle>> {
    stores().values().filter_map(Weak::upgrade).collect()
}

/// Waits until every store of this process has written what is queued. The end of the
/// process does this by itself.
///
/// ```
/// torchcache_store::flush_all();
/// ```
pub fn flush_all() {
    for handle in live() {
        handle.inner.flush_queue();
    }
}

extern "C" fn hook() {
    if OWNER.get() != Some(&std::process::id()) {
        return;
    }
    // There is nobody left to tell of a panic, and it must not reach the C library.
    let _ = catch_unwind(|| {
        for handle in live() {
            // What lies in a private directory goes with it, so it need not be written.
            if private_dir::holds(&handle.inner.catalog.dir) {
                let inner = &handle.inner;
                drop(inner.catalog.clear(|| inner.queue.drop_all()));
            }
            handle.inner.flush_queue();
        }
        private_dir::remove_all();
    });
}
