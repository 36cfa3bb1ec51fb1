//! What all clones of a store share, and what the writer thread has of it: the thread has the
//! inside, so that it does not keep the store alive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::write_queue::Queue;
use super::{Counters, Inner, eviction, flusher};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::fault::Fault;
use crate::fs::FileSystem;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, MutexGuard, RwLock};

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
            match flusher::spawn(&self.inner) {
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
        let is_over = || eviction::is_over(&self.inner.catalog, self.inner.config().max_bytes);
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
