//! The tiers of one cache, and the caches of this process: equal identities in one directory share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use torchcache_store::{Compression, Config, Store, StoreError};

use crate::cache::directory::{self, Unusable};
use crate::error::Problem;
use crate::identity::Identity;
use crate::memory::Memory;
use crate::options::{Eviction, Options};
use crate::sync::lock;

/// Where the rows of one identity are kept.
#[derive(Debug, Clone)]
pub(crate) struct Tiers {
    memory: Arc<Mutex<Memory>>,
    place: Place,
    pub(crate) store: Option<Store>,
    /// Why there is no store although there should be one.
    pub(crate) disk_fault: Option<DiskFault>,
}

/// What the options say of where the disk tier lies.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    persistent: bool,
    directory: Option<PathBuf>,
    /// The name of the directory in it, where that is not the identity's.
    name: Option<String>,
}

impl Place {
    fn of(options: &Options) -> Self {
        Place {
            persistent: options.persistent,
            directory: directory::named(options),
            name: options.persistent_module_hash.clone(),
        }
    }
}

/// A disk tier that could not be opened.
#[derive(Debug, Clone)]
pub(crate) struct DiskFault {
    pub(crate) reason: String,
    at: Instant,
}

impl DiskFault {
    fn now(unusable: Unusable) -> Self {
        let reason = match unusable {
            Unusable::Misuse(problem) => problem.to_string(),
            Unusable::Fault(reason) => reason,
        };
        let at = Instant::now();
        DiskFault { reason, at }
    }
}

/// How long to go on without the disk before it is tried again.
const RETRY_DISK: Duration = Duration::from_secs(10);

/// The memory tiers in use, by identity and directory.
static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

type Shared = HashMap<(String, Option<PathBuf>), Weak<Mutex<Memory>>>;

impl Tiers {
    /// The tiers of `identity`. Where no live cache has them yet, the memory of `previous` goes
    /// on, if nobody else uses it: rows are keyed by identity, so going back to an old one finds
    /// its rows again.
    ///
    /// # Errors
    ///
    /// A directory that cannot be used, unless the options named it for `previous` as well: what
    /// was no mistake then is none now, but a fault, whatever the system calls it, read-only say.
    pub(crate) fn of(
        identity: &Identity,
        options: &Options,
        previous: Option<&Tiers>,
    ) -> Result<Self, Problem> {
        let place = Place::of(options);
        let (root, store, disk_fault) = match disk(identity, options) {
            Ok(Some((root, store))) => (Some(root), Some(store), None),
            Ok(None) => (None, None, None),
            Err(Unusable::Misuse(problem)) if previous.is_none_or(|tiers| tiers.place != place) => {
                return Err(problem);
            }
            Err(unusable) => (None, None, Some(DiskFault::now(unusable))),
        };
        let memory = shared_memory((identity.hash.clone(), root), previous, options);
        Ok(Tiers {
            memory,
            place,
            store,
            disk_fault,
        })
    }

    /// Whether there is a store, or should be none.
    pub(crate) fn has_its_disk(&self) -> bool {
        self.disk_fault.is_none()
    }

    /// Whether it is time to try a disk tier again that could not be opened.
    pub(crate) fn retry_disk(&self) -> bool {
        let fault = self.disk_fault.as_ref();
        fault.is_some_and(|fault| fault.at.elapsed() > RETRY_DISK)
    }

    /// The memory tier, for a moment: no user code runs under this lock.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::dir)
    }
}

fn shared_memory(
    key: (String, Option<PathBuf>),
    previous: Option<&Tiers>,
    options: &Options,
) -> Arc<Mutex<Memory>> {
    let mut shared = lock(&SHARED);
    let shared = shared.get_or_insert_default();
    shared.retain(|_, memory| memory.strong_count() > 0);
    let (bound, eviction) = (options.max_memory_cache_size, options.eviction);
    let live = shared.get(&key).and_then(Weak::upgrade).or_else(|| {
        let own = previous.map(|tiers| &tiers.memory)?;
        (Arc::strong_count(own) == 1).then(|| own.clone())
    });
    let memory = match live {
        Some(memory) => {
            // Caches that share a memory share its bound: the latest setting holds.
            lock(&memory).reconfigure(bound, eviction);
            memory
        }
        None => Arc::new(Mutex::new(Memory::new(bound, eviction))),
    };
    shared.insert(key, Arc::downgrade(&memory));
    memory
}

/// The root and the store of a persistent cache.
fn disk(identity: &Identity, options: &Options) -> Result<Option<(PathBuf, Store)>, Unusable> {
    if !options.persistent {
        return Ok(None);
    }
    let root = directory::root(options)?;
    let directory = root.join(&identity.hash);
    let store = Store::open(&directory, config(options)).map_err(|error| match error {
        StoreError::Directory { reason, .. } => Unusable::judge(&directory, &reason),
        other => Unusable::Fault(other.to_string()),
    })?;
    Ok(Some((root, store)))
}

fn config(options: &Options) -> Config {
    Config {
        max_bytes: options.max_persistent_cache_size,
        eviction: match options.eviction {
            Eviction::Never => torchcache_store::Eviction::Never,
            _ => torchcache_store::Eviction::LeastRecentlyRead,
        },
        compression: options.zstd_compression.then_some(Compression {
            level: options.zstd_compression_level,
            threads: options.zstd_compression_threads,
        }),
        mmap: options.use_mmap_on_load,
        ..Config::default()
    }
}
