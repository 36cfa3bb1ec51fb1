//! What a store does between the caller and the disk: the queue of rows to be written, the thread that
//! writes them, and reading.

pub(crate) mod compaction;
pub(crate) mod eviction;
pub(crate) mod flusher;
pub(crate) mod handle;
pub(crate) mod pending;
pub(crate) mod read;
pub(crate) mod write_queue;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use self::write_queue::{Pace, Queue};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::fault::Fault;
use crate::sync::RwLock;

/// The store without its handle.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) catalog: Catalog,
    pub(crate) queue: Queue,
    pub(crate) counters: Counters,
    pub(crate) config: RwLock<Arc<Config>>,
    /// The one whose thread writes: a fork of it has all of this, but not the thread.
    pub(crate) process: u32,
}

/// What this process did, for the statistics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) stored_rows: AtomicU64,
    pub(crate) evicted_rows: AtomicU64,
    pub(crate) refused_rows: AtomicU64,
    pub(crate) merged_segments: AtomicU64,
    pub(crate) lost_rows: AtomicU64,
    /// Lost rows that no `flush` has told of.
    pub(crate) lost_untold: AtomicU64,
}

impl Inner {
    /// Whether this process is a fork of the one that opened the store. What another thread held at
    /// the fork is held for good here, so that as few locks as can be are asked for.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes what is queued. Returns whether the disk let it.
    pub(crate) fn flush_queue(&self) -> bool {
        let since = Instant::now();
        self.await_written(self.queue.hurry(), since)
    }

    /// Waits until everything up to a batch is written. Returns whether the disk let it.
    pub(crate) fn await_written(&self, seq: u64, since: Instant) -> bool {
        let patience = self.config().patience;
        let written = self.queue.await_written(seq, since, patience);
        if written.is_err() {
            self.note_stall("a flush is given up");
        }
        written.is_ok()
    }

    pub(crate) fn note_stall(&self, what: &str) {
        let reason = format_args!("nothing was written for some time; {what}");
        self.catalog
            .faults
            .note(Fault::Stalled, &self.catalog.dir, reason);
    }

    /// Counts rows that are not kept, and warns of the first that are larger than the bound allows.
    pub(crate) fn refuse(&self, rows: usize, config: &Config) {
        let refused = &self.counters.refused_rows;
        if refused.fetch_add(rows as u64, Ordering::Relaxed) == 0 && config.evict {
            tracing::warn!(
                dir = %self.catalog.dir.display(),
                rows,
                max_bytes = config.max_bytes,
                "more rows at once than the bound of the disk tier holds; the rest is not kept"
            );
        }
    }

    /// Counts rows that could not be written.
    pub(crate) fn lose(&self, rows: usize) {
        self.counters
            .lost_rows
            .fetch_add(rows as u64, Ordering::Relaxed);
        self.counters
            .lost_untold
            .fetch_add(rows as u64, Ordering::Relaxed);
    }
}

pub(crate) fn pace(config: &Config) -> Pace {
    Pace {
        target: config.segment_target(),
        linger: config.linger,
        bound: config.queue_bytes,
        patience: config.patience,
    }
}
