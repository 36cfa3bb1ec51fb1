//! What the users of a tier and its thread share.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::Instant;

use super::fill;
use super::journal::Journal;
use crate::engine::Engine;
use crate::events::Deferred;
use crate::manifest::{self, Manifest};
use crate::process::uploads::{UploadWork, Uploader};
use crate::remote::{
    BreakerState, Clock, ObjectStore, Remote, RemoteConfig, RemoteMode, local_dir,
};
use crate::store::Store;

/// Which rows of which bucket a tier is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteTierConfig {
    /// The URL of the remote: for messages, and to tell tiers apart.
    pub url: String,
    /// What all keys begin with; may be empty.
    pub prefix: String,
    /// The module hash, as the name of the local directory has it.
    pub module_hash: String,
    /// Whether rows are read and added.
    pub mode: RemoteMode,
}

/// What the users of a tier share. Its drop ends the thread.
#[derive(Debug)]
pub(super) struct SharedTier {
    pub(super) tier: Arc<Tier>,
    pub(super) store: Store,
}

/// Everything of a tier but what keeps its store open.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) remote: Remote,
    mode: RemoteMode,
    pub(super) engine: Arc<Engine>,
    pub(super) journal: Journal,
    taken_over: Once,
    /// For how many objects that were put the manifest was looked at; [`u64::MAX`] once the remote has it.
    manifest_at: AtomicU64,
    /// A call waited for the first catalog, or none has to.
    pub(super) has_waited: AtomicBool,
    pub(super) uploader: Arc<Uploader>,
}

impl SharedTier {
    pub(super) fn new(
        store: &Store,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        config: RemoteTierConfig,
    ) -> Arc<SharedTier> {
        let RemoteTierConfig {
            url,
            prefix,
            module_hash,
            mode,
        } = config;
        let engine = store.engine().clone();
        let (fs, dir) = (engine.catalog.fs.clone(), engine.catalog.dir.clone());
        let local_dir = dir.join(local_dir::name(&url, &prefix));
        let remote = RemoteConfig {
            url,
            mode,
            puts_read_marks: true,
            ..RemoteConfig::new(&prefix, &module_hash, local_dir.clone())
        };
        let tier = Arc::new_cyclic(|tier: &Weak<Tier>| Tier {
            remote: Remote::new(objects, clock, fs.clone(), remote),
            mode,
            engine,
            journal: Journal::new(fs, local_dir),
            taken_over: Once::new(),
            manifest_at: AtomicU64::new(0),
            has_waited: AtomicBool::new(mode == RemoteMode::WriteOnly),
            uploader: Uploader::new(&dir, tier.clone()),
        });
        Arc::new(SharedTier {
            tier,
            store: store.clone(),
        })
    }
}

impl UploadWork for Tier {
    fn has_work(&self) -> bool {
        self.remote.stats().breaker == BreakerState::Closed && self.remote.has_unfinished()
    }
}

impl Drop for SharedTier {
    fn drop(&mut self) {
        self.tier.uploader.wake();
    }
}

impl Tier {
    pub(super) fn work(&self, store: &Store) {
        // A log subscriber may call what this has taken.
        let _deferred = Deferred::new();
        self.take_over();
        self.remote.work(&*self.engine);
        self.settle();
        self.put_manifest();
        fill::fill(&self.remote, store, || self.uploader.is_end_requested());
    }

    /// The same where no more rows are pushed.
    pub(super) fn drain(&self) {
        let _deferred = Deferred::new();
        self.take_over();
        self.remote.drain(&*self.engine);
        self.settle();
    }

    /// Uploads what can be uploaded before the process ends.
    pub(super) fn finish(&self, until: Instant) {
        let _deferred = Deferred::new();
        self.take_over();
        if self.remote.stats().breaker == BreakerState::Closed {
            let timeout = until.saturating_duration_since(Instant::now());
            // The journal has the others.
            let _ = self.remote.finish(&*self.engine, timeout);
        }
        self.settle();
    }

    /// Takes over the rows of processes that were killed, once.
    pub(super) fn take_over(&self) {
        if self.mode != RemoteMode::ReadOnly {
            self.taken_over
                .call_once(|| self.journal.take_over(|rows| self.remote.push_again(&rows)));
        }
    }

    /// Puts the manifest once the remote has rows that this process put.
    fn put_manifest(&self) {
        let objects = self.remote.stats().uploads.objects;
        let looked_at = self.manifest_at.load(Ordering::Relaxed);
        // After a failure, and where there is no manifest yet, it is looked at after the next object.
        if looked_at == u64::MAX || looked_at == objects {
            return;
        }
        self.manifest_at.store(objects, Ordering::Relaxed);
        let read = || {
            let file = self
                .engine
                .catalog
                .open_dir()?
                .open(manifest::FILE.as_ref())?;
            let json = Manifest::bytes(&*file)?;
            Manifest::parse(&json)?;
            io::Result::Ok(json)
        };
        if let Ok(json) = read()
            && self.remote.put_manifest(json).is_ok()
        {
            self.manifest_at.store(u64::MAX, Ordering::Relaxed);
        }
    }

    pub(super) fn settle(&self) {
        self.journal.settle(self.remote.settled_rows());
    }
}
