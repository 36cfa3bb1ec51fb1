//! What all clones of a store share, and what the writer thread has of it: the thread has the
//! inside, so that it does not keep the store alive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::catalog::Catalog;
use crate::config::Config;
use crate::fault::Fault;
use crate::fs::FileSystem;
use crate::queue::{Pace, Queue};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, MutexGuard, RwLock};
use crate::{evict, writer};

/// What all clones share, and only they.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) inner: Arc<Inner>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    pub(crate) fn start(fs: Arc<dyn FileSystem>, dir: PathBuf, config: &Config) -> Arc<Handle> {
        let inner = Inner {
            catalog: Catalog::new(fs, dir),
            queue: Queue::default(),
            counters: Counters::default(),
            config: RwLock::new(Arc::new(config.clone())),
            process: std::process::id(),
        };
        inner.catalog.remove_stale_temps();
        inner.catalog.refresh();
        let handle = Handle {
            inner: Arc::new(inner),
            writer: Mutex::new(None),
        };
        handle.keep_within_limit();
        Arc::new(handle)
    }

    /// Starts the writer thread unless it runs. Returns whether there is one.
    pub(crate) fn ensure_writer(&self) -> bool {
        if self.inner.is_forked() {
            let Catalog { faults, dir, .. } = &self.inner.catalog;
            let reason =
                "this process was forked off the one whose thread writes; open it after the fork";
            faults.note(Fault::Write, dir, reason);
            return false;
        }
        let mut writer = self.writer();
        if writer.is_none() {
            match writer::spawn(&self.inner) {
                Ok(thread) => *writer = Some(thread),
                Err(error) => {
                    let reason = format_args!("cannot start the writer thread: {error}");
                    self.inner
                        .catalog
                        .faults
                        .note(Fault::Write, &self.inner.catalog.dir, reason);
                }
            }
        }
        writer.is_some()
    }

    /// Asks the writer for it. One that runs may be about to publish what the limit of before let
    /// through, so that it looks for itself; without one, it is started only if need be.
    pub(crate) fn keep_within_limit(&self) {
        if self.inner.is_forked() {
            return;
        }
        let is_running = self.writer().is_some();
        let is_over = || evict::is_over(&self.inner.catalog, self.inner.config().max_bytes);
        if (is_running || is_over()) && self.ensure_writer() {
            self.inner.queue.enforce_limit();
        }
    }

    fn writer(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let writer = self
            .writer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if self.inner.is_forked() {
            // There is nobody to wait for, and what was the thread's id may be another's by now.
            return std::mem::forget(writer);
        }
        // Rows that the writer lets go may hold the last handle: then it ends by itself.
        let is_writer = |writer: &JoinHandle<()>| writer.thread().id() == thread::current().id();
        if let Some(writer) = writer {
            let patience = match is_writer(&writer) {
                true => Duration::ZERO,
                false => self.inner.config().patience,
            };
            // A thread that waits for a disk is left to it. Its panics are caught where they happen.
            if self.inner.queue.close(patience).is_ok() {
                let _ = writer.join();
            } else if !is_writer(&writer) {
                self.inner.note_stall("the store is closed all the same");
            }
        }
        // A subscriber of the log that panics must not do so out of a drop.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.inner
                .catalog
                .faults
                .tell_totals(&self.inner.catalog.dir);
        }));
    }
}

/// The store without its handle.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) catalog: Catalog,
    pub(crate) queue: Queue,
    pub(crate) counters: Counters,
    pub(crate) config: RwLock<Arc<Config>>,
    /// The one whose thread writes: a fork of it has all of this, but not the thread.
    process: u32,
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
