//! The handle that all clones of a store share. The flusher has only the [`Engine`], so that it does
//! not keep the store open.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::root::SharedRoot;
use super::{Engine, eviction, flusher};
use crate::config::Config;
use crate::events::Deferring;
use crate::fault::Fault;
use crate::fork;
use crate::fs::FileSystem;
use crate::progress::is_flusher_thread;
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, MutexGuard};

/// Dropping it writes what is queued and ends the flusher.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) engine: Arc<Engine>,
    flusher: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    pub(crate) fn open(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        root: Option<Arc<SharedRoot>>,
        config: &Config,
    ) -> Arc<Handle> {
        let engine = Arc::new(Engine::new(fs, dir, root, config));
        engine.catalog.remove_stale_temp_files();
        engine.catalog.refresh();
        if let Some(root) = &engine.root {
            root.add_member(&engine.catalog);
        }
        let handle = Handle {
            engine,
            flusher: Mutex::new(None),
        };
        handle.enforce_limit();
        Arc::new(handle)
    }

    /// Starts the flusher unless it runs. Returns whether it does.
    pub(crate) fn ensure_flusher(&self) -> bool {
        if fork::is_forked() {
            let reason = "this process was forked, and only its parent writes";
            self.engine.note(Fault::Write, reason);
            return false;
        }
        let mut flusher = self.flusher();
        if flusher.is_none() {
            match flusher::spawn(&self.engine) {
                Ok(thread) => *flusher = Some(thread),
                Err(error) => {
                    let reason = format_args!("cannot start the flusher thread: {error}");
                    self.engine.note(Fault::Write, reason);
                }
            }
        }
        flusher.is_some()
    }

    /// Has the flusher bring the directory within its limit. One that runs may be about to publish
    /// what the previous limit admitted, so it checks by itself; otherwise it is started only if the
    /// directory exceeds the limit.
    pub(crate) fn enforce_limit(&self) {
        let is_running = self.flusher().is_some();
        let Engine { catalog, root, .. } = &*self.engine;
        let exceeds = || {
            eviction::exceeds(catalog, self.engine.config().max_bytes)
                || root.as_ref().is_some_and(|root| root.exceeds())
        };
        if (is_running || exceeds()) && self.ensure_flusher() {
            self.engine.queue.request_eviction();
        }
    }

    fn flusher(&self) -> Deferring<MutexGuard<'_, Option<JoinHandle<()>>>> {
        Deferring::new(self.flusher.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let flusher = self.flusher.get_mut();
        let flusher = flusher.unwrap_or_else(PoisonError::into_inner).take();
        if fork::is_forked() {
            return std::mem::forget(flusher); // not a thread of this process
        }
        if let Some(flusher) = flusher {
            let stall_timeout = self.engine.config().stall_timeout;
            // A flusher that waits for the disk is left running. It catches its own panics. Code that a
            // flusher thread runs may drop the last handle: then the flusher ends alone.
            if self.engine.queue.close(stall_timeout).is_ok() {
                let _ = flusher.join();
            } else if !is_flusher_thread() {
                self.engine.note_stall("the store is closed without it");
            }
        }
        // A log subscriber that panics must not do so out of a drop.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let catalog = &self.engine.catalog;
            catalog.faults.log_totals(&catalog.dir);
        }));
    }
}
