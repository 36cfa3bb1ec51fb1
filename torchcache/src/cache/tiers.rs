//! The tiers of one cache: memory, disk and remote. Caches of this process with the same module hash and
//! directory share them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use torchcache_store::remote_tier::RemoteTier;
use torchcache_store::{Compression, Config, Store, StoreError};

use super::directory::{self, Unusable};
use super::epoch::Epoch;
use super::flights::RowFlights;
use super::remote;
use crate::error::{Detail, Error};
use crate::identity::{Claim, Identity};
use crate::key::Key;
use crate::memory::Memory;
use crate::memory::budget::Budget;
use crate::memory::saved::ShortHash;
use crate::options::{Eviction, Options, environment};
use crate::sync::lock;

/// The tiers that keep the rows of one module hash.
#[derive(Debug, Clone)]
pub(crate) struct Tiers {
    memory: Arc<MemoryTier>,
    pub(super) short_hash: ShortHash,
    location: DiskLocation,
    pub(crate) store: Option<Store>,
    /// What machines share, behind the store.
    pub(crate) remote: Option<RemoteTier>,
    /// Why there is no store although one is configured.
    pub(crate) disk_fault: Option<DiskFault>,
    /// The claims of the module hash. They end after the rows in memory.
    _claims: Vec<Claim>,
}

/// What caches with the same module hash and directory share in memory.
#[derive(Debug)]
struct MemoryTier {
    rows: Mutex<Memory>,
    flights: RowFlights,
}

/// Rows are being removed on demand. Dropped also where a log subscriber panics.
struct Removing<'a>(&'a Tiers);

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.0.memory().end_removal();
    }
}

/// The options that determine where the disk tier is.
#[derive(Debug, Clone, PartialEq)]
struct DiskLocation {
    persistent: bool,
    directory: Option<PathBuf>,
    /// The name of the subdirectory, where that is not the computed module hash.
    name: Option<String>,
}

impl DiskLocation {
    fn from_options(options: &Options) -> Self {
        DiskLocation {
            persistent: options.persistent(),
            directory: directory::configured(options),
            name: options.persistent_module_hash().map(str::to_owned),
        }
    }
}

/// A disk tier that could not be opened.
#[derive(Debug, Clone)]
pub(crate) struct DiskFault {
    pub(crate) reason: Arc<Detail>,
    at: Instant,
}

/// How long a disk tier that could not be opened is left alone.
const RETRY_DISK_AFTER: Duration = Duration::from_secs(10);

/// The memory tiers in use, by module hash and directory.
static MEMORY_TIERS: Mutex<Option<MemoryTiers>> = Mutex::new(None);

type MemoryTiers = HashMap<(String, Option<PathBuf>), Weak<MemoryTier>>;

impl Tiers {
    /// Opens the tiers of `identity`. Where no live cache has them yet, the memory of `previous`
    /// is used, unless another cache shares it: rows are keyed by module hash, so going back to an
    /// earlier one finds its rows again.
    ///
    /// # Errors
    ///
    /// A directory or a remote that cannot be used, and an invalid `TORCHCACHE_MAX_DIR_SIZE`, `TORCHCACHE_MAX_MEMORY` or
    /// `TORCHCACHE_REMOTE_MODE`.
    /// Where the options named the same directory for `previous`, it was usable then: so it is a fault of
    /// the machine now, such as a disk that became read-only.
    pub(crate) fn open(
        identity: &Identity,
        options: &Options,
        previous: Option<&Tiers>,
    ) -> Result<Self, Detail> {
        let budget = Budget::of_process()?;
        let location = DiskLocation::from_options(options);
        let before = previous.and_then(|tiers| tiers.store.as_ref());
        let (root, store, disk_fault) = match disk(identity, options, &location, before) {
            Ok(Some((root, store))) => (Some(root), Some(store), None),
            Ok(None) => (None, None, None),
            Err(Unusable::Misuse(detail))
                if previous.is_none_or(|tiers| tiers.location != location) =>
            {
                return Err(detail);
            }
            Err(Unusable::Misuse(detail) | Unusable::Fault(detail)) => {
                let (reason, at) = (Arc::new(detail), Instant::now());
                // Apart from caches of this module hash that are meant to be in memory only.
                let root = location.directory.clone().unwrap_or_default();
                (Some(root), None, Some(DiskFault { reason, at }))
            }
        };
        let remote = match &store {
            Some(store) => remote::open(store, options, &identity.hash)?,
            None => None,
        };
        let memory = shared_memory((identity.hash.clone(), root), previous, options, budget);
        Ok(Tiers {
            memory,
            short_hash: ShortHash::of(&identity.hash),
            location,
            store,
            remote,
            disk_fault,
            _claims: identity.claims.clone(),
        })
    }

    /// Whether rows are found by later processes.
    pub(crate) fn outlives_the_process(&self) -> bool {
        self.store.is_some() && (self.location.directory.is_some() || self.remote.is_some())
    }

    /// Whether rows are on disk, and removed when the process ends.
    pub(crate) fn ends_with_the_process(&self) -> bool {
        self.store.is_some() && !self.outlives_the_process()
    }

    /// Whether it is time to retry a disk tier that could not be opened.
    pub(crate) fn should_retry_disk(&self) -> bool {
        let fault = self.disk_fault.as_ref();
        fault.is_some_and(|fault| fault.at.elapsed() > RETRY_DISK_AFTER)
    }

    /// Locks the memory tier. No user code may run under this lock.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory.rows)
    }

    /// The rows that are being computed.
    pub(crate) fn flights(&self) -> &RowFlights {
        &self.memory.flights
    }

    /// The epoch of a call whose lookup begins under this lock; `None` while rows are removed on demand.
    pub(crate) fn epoch(&self, memory: &Memory) -> Option<Epoch> {
        let memory = memory.epoch()?;
        let store = self.store.as_ref().map_or(0, Store::epoch);
        Some(Epoch { memory, store })
    }

    /// Has rows uploaded that were given to the store in one of its epochs, except for those that it held already:
    /// `present`, by their positions in rising order.
    pub(crate) fn upload(&self, keys: &[Key], present: &[usize], row_bytes: usize, epoch: u64) {
        let (Some(store), Some(remote)) = (&self.store, &self.remote) else {
            return;
        };
        if store.epoch() == epoch {
            let own = (0..keys.len()).filter(|row| present.binary_search(row).is_err());
            remote.push(own.map(|row| (keys[row], row_bytes as u32)));
        }
    }

    /// Removes every row, also those of calls that are under way. Those of the remote stay.
    pub(crate) fn clear(&self) {
        let _removing = self.begin_removal(None);
        if let Some(store) = &self.store {
            store.clear();
        }
    }

    /// Removes the rows of these keys; those in the remote are not found any more. Calls under way keep none of their
    /// rows, whatever the keys.
    ///
    /// # Errors
    ///
    /// A directory that cannot be used, and rows that cannot be removed from it.
    pub(crate) fn remove(&self, keys: &[Key]) -> Result<(), Error> {
        let _removing = self.begin_removal(Some(keys));
        if let Some(fault) = &self.disk_fault {
            return Err(fault.reason.clone().into());
        }
        // Before, so that none is fetched in the background while the disk removes them; and after, since copies that
        // the disk had until then may have been uploaded.
        self.supersede(keys);
        let removed = self.store.as_ref().map(|store| store.remove(keys));
        removed.transpose().map_err(Detail::NotRemoved)?;
        self.supersede(keys);
        Ok(())
    }

    fn supersede(&self, keys: &[Key]) {
        if let Some(remote) = &self.remote {
            remote.supersede(keys);
        }
    }

    /// Removes rows from memory. Until the result is dropped, calls keep no rows.
    fn begin_removal(&self, keys: Option<&[Key]>) -> Removing<'_> {
        let dropped = self.memory().begin_removal(keys);
        drop(dropped);
        Removing(self)
    }

    pub(crate) fn directory(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::dir)
    }
}

fn shared_memory(
    key: (String, Option<PathBuf>),
    previous: Option<&Tiers>,
    options: &Options,
    budget: &'static Budget,
) -> Arc<MemoryTier> {
    let mut shared = lock(&MEMORY_TIERS);
    let shared = shared.get_or_insert_default();
    shared.retain(|_, memory| memory.strong_count() > 0);
    let (bound, eviction) = (options.max_memory_cache_size(), options.eviction());
    let live = shared.get(&key).and_then(Weak::upgrade);
    let memory = live.or_else(|| {
        let own = previous.map(|tiers| &tiers.memory)?;
        (Arc::strong_count(own) == 1).then(|| own.clone())
    });
    let memory = memory.unwrap_or_else(|| {
        Arc::new(MemoryTier {
            rows: Mutex::new(Memory::new(bound, eviction, budget)),
            flights: RowFlights::default(),
        })
    });
    // Caches that share a memory tier share its bound: the latest setting holds.
    lock(&memory.rows).reconfigure(bound, eviction);
    // A tier that moved to another module hash or directory is not found under the earlier one.
    shared.retain(|_, tier| !std::ptr::eq(tier.as_ptr(), Arc::as_ptr(&memory)));
    shared.insert(key, Arc::downgrade(&memory));
    memory
}

/// The root and the store of a persistent cache. The store is the one of `before` where its directory is the same:
/// that reports what it lost.
fn disk(
    identity: &Identity,
    options: &Options,
    location: &DiskLocation,
    before: Option<&Store>,
) -> Result<Option<(PathBuf, Store)>, Unusable> {
    if !options.persistent() {
        return Ok(None);
    }
    let root = directory::root(options, location.directory.as_deref())?;
    let directory = root.join(&identity.hash);
    let config = config(options, location.directory.is_some())?;
    let store = Store::open(&directory, config).map_err(|error| match error {
        StoreError::Directory { source, .. } => Unusable::classify_below(&root, &directory, source),
        other => Unusable::Fault(Detail::directory(&directory, std::io::Error::other(other))),
    })?;
    let Some(same) = before.filter(|before| before.dir() == store.dir()) else {
        return Ok(Some((root, store)));
    };
    same.reconfigure(store.config());
    Ok(Some((root, same.clone())))
}

/// `is_named`: all caches of the process share the temporary directory, which no one named.
///
/// # Errors
///
/// An invalid `TORCHCACHE_MAX_DIR_SIZE`.
fn config(options: &Options, is_named: bool) -> Result<Config, Unusable> {
    let bound = match options.directory_bound() {
        Some(bound) => Some(bound),
        None => environment::max_dir_size().map_err(Unusable::Misuse)?,
    };
    let config = Config::default()
        .with_max_bytes(bound.unwrap_or_else(|| options.max_persistent_cache_size()))
        .with_max_root_bytes(bound.filter(|_| is_named))
        .with_eviction(match options.eviction() {
            Eviction::Never => torchcache_store::Eviction::Never,
            _ => torchcache_store::Eviction::LeastRecentlyRead,
        })
        .with_compression(options.zstd_compression().then_some(Compression::new(
            options.zstd_compression_level(),
            options.zstd_compression_threads(),
        )))
        .with_mmap(options.use_mmap_on_load());
    Ok(config)
}
