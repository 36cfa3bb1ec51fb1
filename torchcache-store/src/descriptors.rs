//! File descriptors, which the process has a limited number of: the store keeps a share of them, and gives
//! all that it can back where there are none left, so that the program can open files of its own.

use std::io;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::progress::{FlusherProgress, Turn, Turns};

/// The store keeps at most one of so many open between calls.
const SHARE: u64 = 4;

/// The most that it keeps open, however many there are.
const MAX_KEPT: u64 = 256;

/// A flusher that works has a few open; one of so many may be needed by all of them.
const FLUSHER_SHARE: u64 = 32;

/// How long to wait, after giving back what is not in use, for what other threads use for a moment.
const WAITS: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
];

/// How many files may stay open between reads: fewer where the process may have few.
pub(crate) fn kept_files() -> usize {
    share(SHARE).clamp(1, MAX_KEPT) as usize
}

/// This fraction of the limit of the process.
fn share(fraction: u64) -> u64 {
    getrlimit(Resource::Nofile)
        .current
        .map_or(u64::MAX, |limit| limit / fraction)
}

/// Closes what is open without being used.
static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Has `give_back` called when there is no descriptor left.
pub(crate) fn on_exhaustion(give_back: fn()) {
    let _ = GIVE_BACK.set(give_back);
}

/// An error of the operating system.
pub(crate) trait OsError {
    /// Its number.
    fn number(&self) -> Option<i32>;
}

impl OsError for io::Error {
    fn number(&self) -> Option<i32> {
        self.raw_os_error()
    }
}

impl OsError for Errno {
    fn number(&self) -> Option<i32> {
        Some(self.raw_os_error())
    }
}

/// Whether the process, or the system, has no descriptor left.
pub(crate) fn are_exhausted(error: &impl OsError) -> bool {
    matches!(error.number(), Some(libc::EMFILE | libc::ENFILE))
}

/// Opens something. Where there is no descriptor left, gives back those that are not in use and tries
/// again.
pub(crate) fn retry<T, E: OsError>(mut open: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut opened = open();
    let mut waits = WAITS.into_iter();
    while opened.as_ref().is_err_and(are_exhausted) {
        if let Some(give_back) = GIVE_BACK.get() {
            give_back();
        }
        opened = open();
        match waits.next() {
            Some(wait) if opened.as_ref().is_err_and(are_exhausted) => std::thread::sleep(wait),
            _ => break,
        }
    }
    opened
}

/// The flushers that work on files: not more at a time than there are descriptors for.
static FLUSHERS: LazyLock<Arc<Turns>> = LazyLock::new(Arc::default);

/// Waits for the turn of a flusher to work on files.
pub(crate) fn flusher_turn(progress: &Arc<FlusherProgress>) -> Turn {
    FLUSHERS.take(progress, || share(FLUSHER_SHARE))
}
