//! The tiers of one cache, and the caches of this process: equal identities in one directory share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use torchcache_store::{Compression, Config, Store, StoreError};

use crate::directory;
use crate::error::Problem;
use crate::identity::Identity;
use crate::memory::Memory;
use crate::options::Options;

/// Where the rows of one identity are kept.
#[derive(Debug, Clone)]
pub(crate) struct Tiers {
    memory: Arc<Mutex<Memory>>,
    pub(crate) store: Option<Store>,
}

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
    /// A directory that cannot be used.
    pub(crate) fn of(
        identity: &Identity,
        options: &Options,
        previous: Option<&Tiers>,
    ) -> Result<Self, Problem> {
        let root = if options.persistent {
            Some(directory::root(options)?)
        } else {
            None
        };
        let store = match &root {
            Some(root) => Some(open(&root.join(&identity.hash), options)?),
            None => None,
        };
        let memory = shared_memory((identity.hash.clone(), root), previous, options);
        Ok(Tiers { memory, store })
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

fn open(directory: &Path, options: &Options) -> Result<Store, Problem> {
    Store::open(directory, config(options)).map_err(|error| {
        let reason = match error {
            StoreError::Directory { reason, .. } => reason.to_string(),
            other => other.to_string(),
        };
        Problem::Directory {
            path: directory.to_owned(),
            reason,
        }
    })
}

fn config(options: &Options) -> Config {
    Config {
        max_bytes: options.max_persistent_cache_size,
        compression: options.zstd_compression.then_some(Compression {
            level: options.zstd_compression_level,
            threads: options.zstd_compression_threads,
        }),
        mmap: options.use_mmap_on_load,
        ..Config::default()
    }
}

/// A panic under a lock leaves nothing half done that matters: both tiers check what they read.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
