//! What a store does between the caller and the disk: it queues rows, writes them on a background
//! thread, keeps the directory within its bound, and reads.
//!
//! [`Engine`] is shared by the callers and the flusher. The callers hold it through a
//! [`Handle`](handle::Handle), which ends the flusher when it is dropped.

pub(crate) mod compaction;
pub(crate) mod eviction;
pub(crate) mod flusher;
pub(crate) mod handle;
pub(crate) mod pending;
pub(crate) mod read;
#[cfg(feature = "unstable")]
mod records;
pub(crate) mod removal;
pub(crate) mod root;
pub(crate) mod root_eviction;
pub(crate) mod write_queue;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use self::root::SharedRoot;
use self::write_queue::{QueueLimits, WriteQueue};
use crate::catalog::Catalog;
use crate::config::{Config, Eviction};
use crate::events;
use crate::fault::Fault;
use crate::fs::FileSystem;
use crate::progress::is_flusher_thread;
use crate::sync::RwLock;

/// Everything of a store but the handle that its users share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) queue: WriteQueue,
    pub(crate) counters: StoreCounters,
    /// The directory above; `None` for one that has none.
    pub(crate) root: Option<Arc<SharedRoot>>,
    config: RwLock<Arc<Config>>,
}

/// What this process did, for the statistics.
#[derive(Debug, Default)]
pub(crate) struct StoreCounters {
    pub(crate) stored_rows: AtomicU64,
    pub(crate) refused_rows: AtomicU64,
    pub(crate) compacted_segments: AtomicU64,
    pub(crate) lost_rows: AtomicU64,
}

impl Engine {
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        root: Option<Arc<SharedRoot>>,
        config: &Config,
    ) -> Engine {
        Engine {
            catalog: Arc::new(Catalog::new(fs, dir)),
            queue: WriteQueue::default(),
            counters: StoreCounters::default(),
            root,
            config: RwLock::new(Arc::new(config.clone())),
        }
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        let config = self.config.read();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the configuration and returns the one before.
    pub(crate) fn set_config(&self, config: Config) -> Arc<Config> {
        let present = self.config.write();
        let mut present = present.unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *present, Arc::new(config))
    }

    pub(crate) fn queue_limits(&self) -> QueueLimits {
        let config = self.config();
        QueueLimits {
            target_bytes: config.target_segment_bytes(),
            batch_delay: config.batch_delay,
            max_bytes: config.queue_bytes,
            stall_timeout: config.stall_timeout,
        }
    }

    /// Has the queue written and waits for it. Returns whether the disk made progress.
    pub(crate) fn flush_queue(&self) -> bool {
        let since = Instant::now();
        self.wait_written(self.queue.request_flush(), since)
    }

    /// Waits until everything up to a batch is written. Returns whether the disk made progress; `false`
    /// on a flusher thread, which does not wait.
    pub(crate) fn wait_written(&self, seq: u64, since: Instant) -> bool {
        let stall_timeout = self.config().stall_timeout;
        let written = self.queue.wait_written(seq, since, stall_timeout);
        if written.is_err() && !is_flusher_thread() {
            self.note_stall("the flush does not wait any longer");
        }
        written.is_ok()
    }

    /// Counts a fault of the directory as a whole.
    pub(crate) fn note(&self, fault: Fault, reason: impl Display) {
        self.catalog.faults.note(fault, &self.catalog.dir, reason);
    }

    /// Counts that a queue without room made rows be dropped.
    pub(crate) fn note_no_room(&self) {
        match is_flusher_thread() {
            true => self.note(
                Fault::Write,
                "the queue is full, and the flusher thread cannot wait for room",
            ),
            false => self.note_stall("the queue is full, and rows are dropped"),
        }
    }

    pub(crate) fn note_stall(&self, consequence: &str) {
        let reason = format_args!("the disk makes no progress; {consequence}");
        self.note(Fault::Stalled, reason);
    }

    /// Counts rows that are not kept. Logs the first that exceed the bound by themselves.
    pub(crate) fn refuse(&self, rows: usize, config: &Config) {
        let refused = &self.counters.refused_rows;
        let is_first = refused.fetch_add(rows as u64, Ordering::Relaxed) == 0;
        if is_first && config.eviction != Eviction::Never {
            let (dir, max_bytes) = (self.catalog.dir.clone(), config.max_bytes);
            events::emit(move || {
                tracing::warn!(
                    dir = %dir.display(),
                    rows,
                    max_bytes,
                    "rows are not kept: one call stores more than the disk tier may hold, or files that \
                     cannot be removed fill it"
                );
            });
        }
    }

    /// Counts rows that could not be written.
    pub(crate) fn lose(&self, rows: usize) {
        let lost = &self.counters.lost_rows;
        lost.fetch_add(rows as u64, Ordering::Relaxed);
    }
}
