//! The background thread that makes all requests of the process.

use std::future::{Future, pending};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;
use torchcache_store::{fork, threads};

/// The most threads for calls that block: files, names of hosts, and the credentials of a profile.
const MAX_BLOCKING: usize = 32;

/// The runtime. The first call starts its thread.
fn handle() -> io::Result<Handle> {
    static RUNTIME: Mutex<Option<Handle>> = Mutex::new(None);
    // First: in a forked child the thread does not exist, and the lock may never be released.
    if fork::is_forked() {
        return Err(io::Error::other("a forked process makes no requests"));
    }
    let mut shared = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*shared {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING)
        .thread_name("torchcache-remote-file")
        .build()?;
    let handle = runtime.handle().clone();
    // The threads that it starts inherit that they handle no signals.
    threads::spawn_detached("torchcache-remote", move || {
        runtime.block_on(pending::<()>());
    })?;
    *shared = Some(handle.clone());
    Ok(handle)
}

/// Work on the background thread, which is aborted when this is dropped.
pub(crate) struct Running<T> {
    task: AbortHandle,
    results: Receiver<T>,
}

impl<T> Running<T> {
    /// Starts what `work` makes of the sender of the results.
    pub(crate) fn start<F>(work: impl FnOnce(Sender<T>) -> F) -> io::Result<Running<T>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, results) = channel();
        let task = handle()?.spawn(work(sender));
        Ok(Running {
            task: task.abort_handle(),
            results,
        })
    }

    /// The next result; `Timeout` where there is none at the deadline, `Disconnected` where there is no other one.
    pub(crate) fn next(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.results.recv_timeout(left)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
