//! What the users of a tier and its thread share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};
use std::time::Instant;

use super::journal::Journal;
use crate::engine::Engine;
use crate::process::uploads::Uploader;
use crate::remote::{BreakerState, Clock, ObjectStore, Remote, RemoteConfig, RemoteMode};
use crate::store::Store;

/// The start of the name of the local directory of a tier, in that of its store.
const LOCAL_DIR_PREFIX: &str = "remote-";

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
        let local_dir = dir.join(local_dir_name(&url, &prefix));
        let remote = RemoteConfig {
            url,
            mode,
            ..RemoteConfig::new(&prefix, &module_hash, local_dir.clone())
        };
        let tier = Tier {
            remote: Remote::new(objects, clock, fs.clone(), remote),
            mode,
            engine,
            journal: Journal::new(fs, local_dir),
            taken_over: Once::new(),
            has_waited: AtomicBool::new(mode == RemoteMode::WriteOnly),
            uploader: Uploader::new(&dir),
        };
        Arc::new(SharedTier {
            tier: Arc::new(tier),
            store: store.clone(),
        })
    }
}

impl Drop for SharedTier {
    fn drop(&mut self) {
        self.tier.uploader.wake();
    }
}

impl Tier {
    pub(super) fn work(&self) {
        self.take_over();
        self.remote.work(&*self.engine);
        self.settle();
    }

    /// The same where no more rows are pushed.
    pub(super) fn drain(&self) {
        self.take_over();
        self.remote.drain(&*self.engine);
        self.settle();
    }

    /// Uploads what can be uploaded before the process ends.
    pub(super) fn finish(&self, until: Instant) {
        self.take_over();
        if self.remote.stats().breaker == BreakerState::Closed {
            let timeout = until.saturating_duration_since(Instant::now());
            // What is left is in the journal.
            let _ = self.remote.finish(&*self.engine, timeout);
        }
        self.settle();
    }

    pub(super) fn has_pending(&self) -> bool {
        self.remote.stats().uploads.pending_rows > 0
    }

    /// Takes over the rows of processes that were killed, once.
    pub(super) fn take_over(&self) {
        if self.mode != RemoteMode::ReadOnly {
            self.taken_over
                .call_once(|| self.journal.take_over(|rows| self.remote.push(rows)));
        }
    }

    pub(super) fn settle(&self) {
        self.journal.settle(self.remote.settled_rows());
    }
}

/// The name of the local directory of a tier.
fn local_dir_name(url: &str, prefix: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in [url, prefix] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let digest = hasher.finalize();
    format!("{LOCAL_DIR_PREFIX}{}", hex::encode(&digest.as_bytes()[..8]))
}
