//! A segment as the store knows it: where it is, what its rows share, when it was last
//! read. Row tables stay on disk; the index has what is needed of them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::file_cache;
use super::index::Inserted;
use crate::clock;
use crate::segment::{Footer, RowGroup, Source};

/// How often at most a read is told to other processes, through the file's time.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Numbers segments across all stores of the process, since open files are shared by them.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A segment that a store reads from.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) id: u32,
    pub(crate) path: PathBuf,
    /// The size of the file.
    pub(crate) bytes: u64,
    /// Rows in the file.
    pub(crate) rows: u64,
    pub(crate) groups: Vec<RowGroup>,
    /// How many entries of the index point here. Fewer than `rows` if another segment holds
    /// some of the rows as well.
    pub(crate) indexed: AtomicU64,
    /// Segments that hold some of this one's rows as well and are the ones to be read. When one
    /// of them goes, its rows are looked for here.
    pub(crate) behind: Mutex<HashSet<u32>>,
    /// Whether it could not be opened for its rows the last time.
    pub(crate) unopened: AtomicBool,
    /// Set once a merge failed over this segment, so that it is not tried for ever.
    pub(crate) unmergeable: AtomicBool,
    /// Set before this process removes the file. A read that comes too late is then a plain
    /// miss and no fault.
    pub(crate) retired: AtomicBool,
    /// Nanoseconds since 1970.
    last_read: AtomicU64,
    /// The last time that the file's own time was set.
    touched: AtomicU64,
}

impl Tracked {
    /// A segment that was read at this time, as [`clock`] tells it.
    pub(crate) fn new(path: PathBuf, bytes: u64, read: u64, footer: &Footer) -> Tracked {
        Tracked {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            path,
            bytes,
            rows: footer.row_count() as u64,
            groups: footer.groups().to_vec(),
            indexed: AtomicU64::new(0),
            behind: Mutex::default(),
            unopened: AtomicBool::new(false),
            unmergeable: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            last_read: AtomicU64::new(read),
            touched: AtomicU64::new(read),
        }
    }

    /// Whether a segment that kept rows which are here as well is not there any more.
    pub(crate) fn may_step_forward(&self, there: &HashSet<u32>) -> bool {
        !self.behind().is_subset(there)
    }

    /// Forgets those that are not there any more: their rows were looked for here.
    pub(crate) fn step_forward(&self, there: &HashSet<u32>) {
        self.behind().retain(|id| there.contains(id));
    }

    /// Whether another segment keeps rows that are here as well.
    pub(crate) fn is_behind(&self, other: u32) -> bool {
        self.behind().contains(&other)
    }

    fn behind(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what putting rows of this segment into the index did to its counts.
    pub(crate) fn count(&self, done: &Inserted) {
        let indexed = done.added + done.revived;
        self.indexed.fetch_add(indexed, Ordering::Relaxed);
        self.behind().extend(&done.behind);
    }

    /// When this segment was last read, as far as this process knows.
    pub(crate) fn last_read(&self) -> u64 {
        self.last_read.load(Ordering::Relaxed)
    }

    /// Takes over what another process says, if that is later.
    pub(crate) fn read_elsewhere(&self, modified: SystemTime) {
        if let Some(read) = clock::past(modified) {
            self.last_read.fetch_max(read, Ordering::Relaxed);
        }
    }

    /// Remembers that the segment was read, and now and then tells other processes.
    pub(crate) fn note_read(&self, source: &Source) {
        let now = clock::now();
        self.last_read.fetch_max(now, Ordering::Relaxed);
        let touched = self.touched.load(Ordering::Relaxed);
        if now.saturating_sub(touched) > TOUCH_EVERY.as_nanos() as u64
            && self
                .touched
                .compare_exchange(touched, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            // A colleague's read-only segment cannot be touched; then its owner's reads count.
            let _ = source.file().set_modified(clock::as_system(now));
        }
    }

    /// What the file is called in its directory.
    pub(crate) fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        file_cache::forget(self.id);
    }
}
