//! The stores of this process: one for each directory. Statics are never dropped, so that `shutdown`
//! asks here which stores there are.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::engine::Inner;
use crate::engine::handle::Handle;

/// Never held over anything that waits: the end of the process needs it.
static PLACES: LazyLock<Mutex<HashMap<PathBuf, Place>>> = LazyLock::new(Mutex::default);

/// A directory, and the store that this process has for it.
#[derive(Default)]
struct Place {
    /// Held while the directory is opened, by whoever is the first to want it.
    opening: Arc<Mutex<()>>,
    handle: Weak<Handle>,
    /// Of a handle that is being dropped, or was while the disk did not answer, this is still there.
    inners: Vec<Weak<Inner>>,
}

impl Place {
    fn is_used(&self) -> bool {
        let is_there = |inner: &Weak<Inner>| inner.strong_count() > 0;
        self.inners.iter().any(is_there) || Arc::strong_count(&self.opening) > 1
    }
}

fn places() -> MutexGuard<'static, HashMap<PathBuf, Place>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store of a directory: the one there is, or the one that `start` makes. While it is made,
/// only those wait who want the same directory.
pub(crate) fn shared(dir: PathBuf, start: impl FnOnce(PathBuf) -> Arc<Handle>) -> Arc<Handle> {
    let opening = places().entry(dir.clone()).or_default().opening.clone();
    let _first = opening.lock().unwrap_or_else(PoisonError::into_inner);
    let there = places().get(&dir).and_then(|place| place.handle.upgrade());
    if let Some(handle) = there.filter(|handle| !handle.inner.is_forked()) {
        return handle;
    }
    let handle = start(dir.clone());
    let mut places = places();
    places.retain(|_, place| place.is_used());
    let place = places.entry(dir).or_default();
    place.handle = Arc::downgrade(&handle);
    place.inners.retain(|inner| inner.strong_count() > 0);
    place.inners.push(Arc::downgrade(&handle.inner));
    handle
}

/// The stores that this process has opened itself.
pub(super) fn live() -> Vec<Arc<Inner>> {
    let mut stores: Vec<Arc<Inner>> = {
        let places = places();
        let inners = places.values().flat_map(|place| &place.inners);
        inners.filter_map(Weak::upgrade).collect()
    };
    // Whoever drops the last of a store may run code of the user's, so that it is done here.
    stores.retain(|store| !store.is_forked());
    stores
}

/// Waits until every store of this process has written what is queued. The end of the
/// process does this by itself.
///
/// ```
/// torchcache_store::flush_all();
/// ```
pub fn flush_all() {
    flush(&live(), Instant::now());
}

/// Has all stores write at the same time, so that disks that do not answer are waited for together:
/// each for as long as it may be, from `since` or from when it last did something.
pub(super) fn flush(stores: &[Arc<Inner>], since: Instant) {
    let asked: Vec<_> = stores.iter().map(|store| store.queue.hurry()).collect();
    for (store, last) in stores.iter().zip(asked) {
        // The user's log may panic over a disk that does not answer; the others are waited for.
        let _ = catch_unwind(AssertUnwindSafe(|| store.await_written(last, since)));
    }
}
