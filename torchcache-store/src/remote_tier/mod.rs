//! The remote tier of a store: its rows in an object store that many machines share, and the thread that keeps both in
//! step. The rows of the store are found and read first; what it lacks is located here.
//!
//! * Rows that this process computed are [pushed](RemoteTier::push) after they were put into the store. The thread
//!   uploads them; the store keeps them meanwhile, and a journal next to it has their keys, so that they are uploaded
//!   after a kill as well.
//! * Rows that were read are put into the store by the caller, and never pushed.
//!
//! All that follows from requests is in [`remote`](crate::remote).

mod fill;
mod journal;
mod thread;
mod tier;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::tier::{SharedTier, Tier};
use crate::events::Deferred;
use crate::fork;
use crate::key::Key;
use crate::remote::{
    Clock, ObjectStore, RemoteFlushError, RemoteRow, RemoteStats, ReportedLosses, SystemClock,
};
use crate::store::Store;

pub use tier::RemoteTierConfig;

/// The rows of a store in an object store. Clones are the same one: their flushes report a loss once.
///
/// A thread works on it: it learns which rows there are and uploads those that were pushed. When the last clone is
/// dropped, it uploads the pending rows and ends, after ten minutes at most; dropping does not wait for that. The end of the
/// process waits for pending rows, for ten seconds at most. What is not uploaded then is uploaded by the next process that
/// opens the tier.
///
/// No fault of the object store is an error for the caller: rows are misses, faults are counted, and the first of each
/// kind is logged.
#[derive(Clone, Debug)]
pub struct RemoteTier {
    shared: Arc<SharedTier>,
    reported: Arc<ReportedLosses>,
}

type TierKey = (PathBuf, RemoteTierConfig);

/// The tiers of this process. Held for memory operations only.
static TIERS: LazyLock<Mutex<HashMap<TierKey, Weak<SharedTier>>>> = LazyLock::new(Mutex::default);

impl RemoteTier {
    /// The tier of a store with this configuration. Those of one process are one. Starts its thread, and makes no request
    /// itself. `objects` is used if there is none yet.
    pub fn open(
        store: &Store,
        objects: Arc<dyn ObjectStore>,
        config: RemoteTierConfig,
    ) -> RemoteTier {
        let key = (store.dir().to_owned(), config.clone());
        let shared = {
            let mut tiers = TIERS.lock().unwrap_or_else(PoisonError::into_inner);
            tiers.retain(|_, tier| tier.strong_count() > 0);
            let present = tiers.get(&key).and_then(Weak::upgrade);
            // Another store may have taken the place of one that was closed, or be on another file system.
            let is_same = |it: &Arc<SharedTier>| Arc::ptr_eq(&it.tier.engine, store.engine());
            if let Some(shared) = present.filter(is_same) {
                return RemoteTier::of(shared);
            }
            let shared = SharedTier::new(store, objects, Arc::new(SystemClock), config);
            tiers.insert(key, Arc::downgrade(&shared));
            shared
        };
        thread::start(&shared);
        RemoteTier::of(shared)
    }

    fn of(shared: Arc<SharedTier>) -> RemoteTier {
        let reported = Arc::new(shared.tier.remote.new_user());
        RemoteTier { shared, reported }
    }

    /// A tier without a thread, for tests: [`work`](Self::work) does what the thread does. Each call makes one.
    pub fn without_thread(
        store: &Store,
        objects: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        config: RemoteTierConfig,
    ) -> RemoteTier {
        let shared = SharedTier::new(store, objects, clock, config);
        // The end of the process does not wait for it.
        shared.tier.uploader.end();
        RemoteTier::of(shared)
    }

    /// Starts the thread of a tier that was made [without one](Self::without_thread), for tests.
    pub fn start_thread(&self) {
        thread::start(&self.shared);
    }

    fn tier(&self) -> &Tier {
        &self.shared.tier
    }

    /// Where the rows of these keys are; `None` for those that the remote is not known to have, and for all if the tier
    /// is [`WriteOnly`](crate::remote::RemoteMode::WriteOnly). The first call with time left waits until it was found out once
    /// which rows there are, or that this fails, but not beyond the deadline, and not after a call of any tier with this
    /// store did so in vain.
    pub fn locate(&self, keys: &[Key], deadline: Instant) -> Vec<Option<RemoteRow>> {
        let tier = self.tier();
        if fork::is_forked() {
            return vec![None; keys.len()];
        }
        if !tier.has_waited.load(Ordering::Relaxed) && Instant::now() < deadline {
            tier.remote.wait_for_catalog(deadline);
            tier.has_waited.store(true, Ordering::Relaxed);
        }
        tier.remote.locate(keys)
    }

    /// Reads rows into buffers of their lengths, and returns for each whether it was read: not those that are gone or
    /// damaged, or did not arrive before the deadline. Their buffers may have been written to.
    ///
    /// The caller puts the rows into the store.
    pub fn read(&self, rows: &[RemoteRow], out: &mut [&mut [u8]], deadline: Instant) -> Vec<bool> {
        let _deferred = Deferred::new();
        self.tier().remote.read(rows, out, deadline)
    }

    /// Has rows uploaded that this process computed and put into the store: their keys, and the lengths of their values.
    /// Rows that were read from a remote are not to be pushed. Does nothing if the tier is
    /// [`ReadOnly`](crate::remote::RemoteMode::ReadOnly).
    pub fn push(&self, rows: impl IntoIterator<Item = (Key, u32)>) {
        // A forked child puts no rows into the store either.
        if !fork::is_forked() {
            let tier = self.tier();
            tier.journal.append(|| tier.remote.push(rows));
        }
    }

    /// Has no copy of these rows used, from whichever process, until this process has uploaded one that was pushed later,
    /// which then replaces the others for all readers. For rows that were removed on demand: to be called once the store
    /// has removed them.
    pub fn supersede(&self, keys: &[Key]) {
        self.tier().remote.supersede(keys);
    }

    /// Uploads all rows that were pushed before. When it returns `Ok`, other machines find them until they are removed
    /// from the remote. The store is flushed first, so that rows are uploaded as it stores them.
    ///
    /// # Errors
    /// [`RemoteFlushError`] if rows were dropped since the last flush of this one or a clone, or could not be uploaded before
    /// the timeout passed. Rows that were pushed through another one of this process count as well, and are reported to both.
    /// A forked process uploads nothing: there, `Timeout` at once if rows are pending.
    pub fn flush(&self, timeout: Duration) -> Result<(), RemoteFlushError> {
        if fork::is_forked() {
            // Rows were being pushed where it is not known.
            return match self.tier().remote.pending_rows_in_fork().unwrap_or(1) {
                0 => Ok(()),
                rows => Err(RemoteFlushError::Timeout { rows, source: None }),
            };
        }
        let _deferred = Deferred::new();
        let begin = Instant::now();
        let tier = self.tier();
        tier.take_over();
        let queue = &tier.engine.queue;
        let stall_timeout = tier.engine.config().stall_timeout.min(timeout);
        // Rows that are still queued are uploaded all the same.
        let _ = queue.wait_written(queue.request_flush(), begin, stall_timeout);
        let left = timeout.saturating_sub(begin.elapsed());
        let flushed = tier.remote.flush(&*tier.engine, left, &self.reported);
        tier.settle();
        flushed
    }

    /// What the tier did and knows.
    pub fn stats(&self) -> RemoteStats {
        self.tier().remote.stats()
    }

    /// Does what is due in the background, as the thread does about once a second.
    pub fn work(&self) {
        self.tier().work(&self.shared.store);
    }
}
