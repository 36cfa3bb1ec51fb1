//! What a process knows of a root: the directory above, with the caches of other modules and versions next
//! to this one, and the bound of all of them together.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, PoisonError, Weak};

use crate::catalog::Catalog;
use crate::fs::FileSystem;
use crate::progress::Turns;
use crate::size::sum;
use crate::sync::{Mutex, MutexGuard};

/// The root is listed again when this fraction of its bound was written, and brought below the bound by
/// as much.
pub(super) const SLACK_FRACTION: u64 = 16;

/// The roots of the stores on the file system of the operating system.
static ROOTS: LazyLock<std::sync::Mutex<HashMap<PathBuf, Weak<SharedRoot>>>> =
    LazyLock::new(std::sync::Mutex::default);

/// What a process knows of a root.
#[derive(Debug)]
pub(crate) struct SharedRoot {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) path: PathBuf,
    state: Mutex<RootState>,
    /// One flusher at a time lists the root and removes segments.
    pub(super) enforcing: Arc<Turns>,
}

#[derive(Debug, Default)]
struct RootState {
    /// The bounds of live stores, and how many have each. The largest holds.
    bounds: BTreeMap<u64, usize>,
    /// The stores of this process.
    members: HashMap<OsString, Weak<Catalog>>,
    /// The bytes of each cache.
    caches: HashMap<OsString, u64>,
    /// Their sum, or less if not all that exceeded the bound could be removed.
    total: u64,
    /// What was added since the last listing; `None` before the first.
    added: Option<u64>,
}

impl RootState {
    fn bound(&self) -> Option<u64> {
        self.bounds.last_key_value().map(|(bytes, _)| *bytes)
    }

    fn record(&mut self, cache: &OsStr, bytes: u64) {
        let before = self.caches.insert(cache.to_owned(), bytes).unwrap_or(0);
        self.total = (self.total + bytes).saturating_sub(before);
        if let Some(added) = &mut self.added {
            *added += bytes.saturating_sub(before);
        }
    }

    /// The bound, if the root has to be listed.
    fn due(&self) -> Option<u64> {
        let bound = self.bound()?;
        let is_listed = |added| added <= bound / SLACK_FRACTION && self.total <= bound;
        (!self.added.is_some_and(is_listed)).then_some(bound)
    }
}

/// Bounds a root while it exists.
#[derive(Debug)]
pub(crate) struct RootClaim {
    root: Arc<SharedRoot>,
    bytes: u64,
}

impl RootClaim {
    pub(crate) fn new(root: &Arc<SharedRoot>, bytes: u64) -> RootClaim {
        let mut state = root.state();
        if state.bounds.is_empty() {
            state.added = None; // what happened without a bound was not recorded
        }
        *state.bounds.entry(bytes).or_default() += 1;
        let root = root.clone();
        RootClaim { root, bytes }
    }
}

impl Drop for RootClaim {
    fn drop(&mut self) {
        let mut state = self.root.state();
        if let Some(count) = state.bounds.get_mut(&self.bytes) {
            *count -= 1;
        }
        state.bounds.retain(|_, count| *count > 0);
    }
}

impl SharedRoot {
    /// The root of a directory; each call makes one.
    pub(crate) fn above(fs: Arc<dyn FileSystem>, dir: &Path) -> Option<Arc<SharedRoot>> {
        let path = dir.parent()?.to_owned();
        Some(Arc::new(SharedRoot {
            fs,
            path,
            state: Mutex::default(),
            enforcing: Arc::default(),
        }))
    }

    /// The root of a directory, which all stores below it share.
    pub(crate) fn shared(fs: Arc<dyn FileSystem>, dir: &Path) -> Option<Arc<SharedRoot>> {
        let mut roots = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = dir.parent().and_then(|path| roots.get(path)?.upgrade()) {
            return Some(root);
        }
        let root = SharedRoot::above(fs, dir)?;
        roots.retain(|_, root| root.strong_count() > 0);
        roots.insert(root.path.clone(), Arc::downgrade(&root));
        Some(root)
    }

    fn state(&self) -> MutexGuard<'_, RootState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a store of this process.
    pub(crate) fn add_member(&self, catalog: &Arc<Catalog>) {
        let mut state = self.state();
        state.members.retain(|_, member| member.strong_count() > 0);
        let name = catalog.dir.file_name().unwrap_or_default().to_owned();
        state.members.insert(name, Arc::downgrade(catalog));
    }

    /// The store of this process for a cache.
    pub(super) fn member(&self, cache: &OsStr) -> Option<Arc<Catalog>> {
        self.state().members.get(cache)?.upgrade()
    }

    /// Notes what a cache has now. Returns the bound, if the root has to be listed.
    pub(super) fn record(&self, cache: &OsStr, bytes: u64) -> Option<u64> {
        let mut state = self.state();
        state.bound()?;
        state.record(cache, bytes);
        state.due()
    }

    /// Takes over a listing: the bytes of each cache. Returns their sum.
    pub(super) fn set_listed(&self, caches: HashMap<OsString, u64>) -> u64 {
        let mut state = self.state();
        state.total = sum(caches.values().copied());
        state.caches = caches;
        state.added = Some(0);
        state.total
    }

    /// The root could not be listed: only the stores of this process count, until the next listing.
    pub(super) fn set_unlisted(&self) {
        self.state().added = Some(0);
    }

    /// Ends an eviction down to `target` bytes. What could not be removed does not have the root listed at
    /// each write.
    pub(super) fn set_evicted(&self, target: u64) {
        let mut state = self.state();
        state.total = state.total.min(target);
        state.added = Some(0);
    }

    /// How many bytes the caches may take in addition.
    pub(super) fn room(&self) -> u64 {
        let state = self.state();
        let room = |bound: u64| bound.saturating_sub(state.total);
        state.bound().map_or(u64::MAX, room)
    }

    /// Whether the caches are known to exceed the bound.
    pub(crate) fn exceeds(&self) -> bool {
        let state = self.state();
        let exceeds = |bound| state.added.is_some() && state.total > bound;
        state.bound().is_some_and(exceeds)
    }
}
