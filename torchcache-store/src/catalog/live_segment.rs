//! A segment that a store reads from: what its rows share, when it was last read, and which segments
//! shadow its rows. Its row table stays on disk; the index has what is needed of it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::file_cache;
use super::index::Inserted;
use crate::clock;
use crate::fs::Directory;
use crate::fs::temp_file::is_locked;
use crate::progress;
use crate::segment::{Footer, RowGroup, SegmentFile};

/// How often at most the time of a file is set, so that other processes see that it was read.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// The number of no segment.
pub(super) const GONE: u32 = 0;

/// No process looked at the lock of a segment yet.
const UNSEEN: u8 = 0;

/// Its writer had it locked at the last look.
const LOCKED: u8 = 1;

/// It was not locked, or that cannot be seen. It will not be locked.
const FREE: u8 = 2;

/// Numbers the segments of all stores of the process, which share one cache of open files.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// After each failure, twice as many turns pass until the next attempt.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    /// How many turns are left; [`u32::MAX`] for all.
    pause: AtomicU32,
    failures: AtomicU32,
}

impl Retry {
    /// The most turns that pass, as a power of two.
    const MAX_PAUSE: u32 = 6;

    /// Whether the next attempt may be made.
    pub(crate) fn is_due(&self) -> bool {
        self.pause.load(Ordering::Relaxed) == 0
    }

    /// A turn passes.
    pub(crate) fn next_turn(&self) {
        let next = |pause: u32| (1..u32::MAX).contains(&pause).then(|| pause - 1);
        let _ = self
            .pause
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// An attempt failed for a reason that may pass.
    pub(crate) fn pause(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let pause = 1 << failures.min(Retry::MAX_PAUSE);
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// No attempt can succeed.
    pub(crate) fn give_up(&self) {
        self.pause.store(u32::MAX, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct LiveSegment {
    pub(crate) id: u32,
    pub(crate) path: PathBuf,
    /// The size of the file.
    pub(crate) bytes: u64,
    /// How many rows the file has.
    pub(crate) rows: u64,
    pub(crate) groups: Vec<RowGroup>,
    /// How many entries of the index point here. Fewer than `rows` if other segments shadow some.
    pub(crate) indexed: AtomicU64,
    /// Segments that have some of these rows as well, and from which those are read, with the fingerprints of the
    /// rows. When one of them is removed, its rows are looked for here.
    shadowed_by: Mutex<HashMap<u32, Vec<u64>>>,
    /// What was seen of the lock of its writer: one of [`UNSEEN`], [`LOCKED`] and [`FREE`].
    lock: AtomicU8,
    /// The name of the file survives a power loss. Until this process synced the directory, that of another
    /// process's segment may not.
    pub(crate) is_synced: AtomicBool,
    /// The footer could not be read at the last attempt.
    pub(super) footer_failed: AtomicBool,
    /// When it may be compacted, after compactions of it failed.
    pub(crate) compaction: Retry,
    /// Set before this process removes the file. A read that comes too late is then a plain miss and
    /// no fault.
    pub(crate) is_deleted: AtomicBool,
    /// Nanoseconds since 1970.
    last_read: AtomicU64,
    /// The time that was last set on the file.
    touched: AtomicU64,
}

impl LiveSegment {
    /// A segment that was last read at this time of [`clock`].
    pub(super) fn new(path: PathBuf, bytes: u64, read: u64, footer: &Footer) -> LiveSegment {
        LiveSegment {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            path,
            bytes,
            rows: footer.row_count() as u64,
            groups: footer.groups().to_vec(),
            indexed: AtomicU64::new(0),
            shadowed_by: Mutex::default(),
            lock: AtomicU8::new(UNSEEN),
            is_synced: AtomicBool::new(false),
            footer_failed: AtomicBool::new(false),
            compaction: Retry::default(),
            is_deleted: AtomicBool::new(false),
            last_read: AtomicU64::new(read),
            touched: AtomicU64::new(read),
        }
    }

    /// Looks whether its writer has it locked, unless it was seen not to have.
    pub(crate) fn look_at_lock(&self, dir: &dyn Directory) -> bool {
        if self.is_unlocked() {
            return false;
        }
        progress::note();
        // Where there are no locks, none will be seen later either.
        if let Ok(is_locked) = is_locked(dir, self.name()) {
            self.note_lock(is_locked);
        }
        self.is_locked()
    }

    pub(super) fn note_lock(&self, is_locked: bool) {
        let seen = if is_locked { LOCKED } else { FREE };
        self.lock.store(seen, Ordering::Relaxed);
    }

    /// Whether its writer had it locked at the last look, so that its sources may still exist. It does not count
    /// against a bound.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.load(Ordering::Relaxed) == LOCKED
    }

    /// Whether its writer is known to be done with it.
    pub(super) fn is_unlocked(&self) -> bool {
        self.lock.load(Ordering::Relaxed) == FREE
    }

    /// The name of the file in its directory.
    pub(crate) fn name(&self) -> &str {
        let name = self.path.file_name().and_then(OsStr::to_str);
        name.unwrap_or_default()
    }

    /// Takes the rows that segments shadowed which are not live any more: their fingerprints.
    pub(super) fn unshadow(&self, live: &HashSet<u32>) -> Vec<u64> {
        let mut shadowed_by = self.shadowed_by();
        let lost = shadowed_by.extract_if(|id, _| !live.contains(id));
        lost.flat_map(|(_, rows)| rows).collect()
    }

    /// Records that a segment shadows some of these rows; [`GONE`] for one that is not live any more.
    pub(super) fn shadow(&self, other: u32, rows: impl IntoIterator<Item = u64>) {
        self.shadowed_by().entry(other).or_default().extend(rows);
    }

    /// Whether a segment shadows any of these rows.
    pub(super) fn is_shadowed_by(&self, other: u32, rows: &HashSet<u64>) -> bool {
        let shadowed_by = self.shadowed_by();
        let shadowed = shadowed_by.get(&other);
        shadowed.is_some_and(|shadowed| shadowed.iter().any(|row| rows.contains(row)))
    }

    fn shadowed_by(&self) -> MutexGuard<'_, HashMap<u32, Vec<u64>>> {
        let shadowed_by = self.shadowed_by.lock();
        shadowed_by.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what inserting rows of this segment into the index did.
    pub(super) fn note_inserted(&self, inserted: &Inserted) {
        let indexed = inserted.added + inserted.revived;
        self.indexed.fetch_add(indexed, Ordering::Relaxed);
        for (other, rows) in &inserted.shadowed_by {
            self.shadow(*other, rows.iter().copied());
        }
    }

    /// When this segment was last read, as far as this process knows.
    pub(crate) fn last_read(&self) -> u64 {
        self.last_read.load(Ordering::Relaxed)
    }

    /// Takes over the time that another process set on the file, if that is later.
    pub(crate) fn note_read_elsewhere(&self, modified: SystemTime) {
        if let Some(read) = clock::past(modified) {
            self.last_read.fetch_max(read, Ordering::Relaxed);
        }
    }

    /// Records that the segment is read, and from time to time sets the time of its file.
    pub(crate) fn note_read(&self, source: &SegmentFile) {
        let now = clock::now();
        self.last_read.fetch_max(now, Ordering::Relaxed);
        let touched = self.touched.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(touched) > TOUCH_INTERVAL.as_nanos() as u64;
        let claim = || {
            let claimed =
                self.touched
                    .compare_exchange(touched, now, Ordering::Relaxed, Ordering::Relaxed);
            claimed.is_ok()
        };
        if is_due && claim() {
            // The time of another user's file cannot be set, and that of one in an overlay is not; then only
            // reads of this process count.
            let _ = source.file().set_modified(clock::as_system(now));
        }
    }
}

impl Drop for LiveSegment {
    /// Closes the file. Reads within the last minute show in its time from then on.
    fn drop(&mut self) {
        let file = file_cache::close(self.id);
        let read = *self.last_read.get_mut();
        if let Some(file) = file
            && read > *self.touched.get_mut()
            && !*self.is_deleted.get_mut()
        {
            let _ = file.file().set_modified(clock::as_system(read));
        }
    }
}
