//! Detects a process that was forked off the one that uses this crate.
//!
//! Forking without `exec` is not supported: a child has the stores and locks of its parent, but none
//! of its threads. A child still writes no rows, leaves its parent's private directory alone, and ends
//! without waiting for threads that it does not have.

use std::sync::atomic::{AtomicU32, Ordering};

/// The process that started threads or made directories first; 0 before there is one.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Whether this process is a forked child. The process that calls this first is the owner, so code that
/// starts a thread or makes a directory calls it before. Safe to call in a signal handler.
///
/// ```
/// assert!(!torchcache_store::fork::is_forked());
/// ```
pub fn is_forked() -> bool {
    let process = std::process::id();
    let owner = OWNER.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
    owner.is_err_and(|owner| owner != process)
}
