//! Which segments a directory has, and which row is where: the set of live segments and the index over
//! their rows, kept in step with the directory.
//!
//! Locks, in the order in which they may be taken: `scan` (for every change of the set of segments,
//! so that no two threads insert one file), then the queue's, then `live`. `scan` may be held over
//! file operations: `locate` never waits for it, and reading does only after a file vanished. The
//! others are held for short memory operations only: the index is changed one partition at a time.
//! Events that occur under `scan` are emitted when it is released.

pub(crate) mod directory;
pub(crate) mod file_cache;
pub(crate) mod index;
pub(crate) mod live_segment;
pub(crate) mod located;
mod publish;
mod recovery;
mod refresh;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;

use self::index::{Index, IndexEntry, Inserted, PARTITIONS, by_partition};
use self::live_segment::LiveSegment;
use self::located::Located;
use crate::descriptors::are_exhausted;
use crate::events::Deferring;
use crate::fault::{Fault, FaultLog};
use crate::fs::temp_file::is_recent;
use crate::fs::{Directory, DirectoryId, File, FileSystem, Metadata, permissions};
use crate::key::Key;
use crate::segment::{
    Footer, MAX_LISTINGS, RowEntry, SegmentError, SegmentFile, SegmentReader, clock_step,
    is_foreign,
};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

/// The segments of one directory and the index over their rows.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) faults: FaultLog,
    live: RwLock<LiveSet>,
    scan: Mutex<Scan>,
    /// About how many entries of the index belong to detached segments.
    dead_entries: AtomicU64,
    /// The directory whose own name survives a power loss.
    anchored: Mutex<Option<DirectoryId>>,
    /// How many rows were removed for want of room.
    pub(crate) evicted_rows: AtomicU64,
}

/// What is known of the files of the directory.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) names: HashMap<String, u32>,
    pub(crate) skipped: HashMap<String, Skipped>,
    pub(crate) unremovable: Unremovable,
    /// The directory's time when it was last listed; `None` if that may hide a later change.
    seen: Option<SystemTime>,
    /// When a miss last checked the directory.
    checked: Instant,
    /// A new segment could not be opened, since there was no descriptor left: try again.
    retry_open: bool,
    /// A segment with shadowed rows could not be opened when they were needed: try again.
    retry_unshadow: bool,
    /// The result of a compaction whose name could not be synced. Until it is, nothing is compacted.
    pub(crate) unsynced_result: Option<UnsyncedResult>,
}

/// A segment that replaces others which have to stay until its name is synced.
#[derive(Debug)]
pub(crate) struct UnsyncedResult {
    name: String,
    /// The names of the segments that it replaces.
    sources: HashSet<String>,
    /// Until the sources are removed, processes do not count it.
    _lock: Box<dyn File>,
}

/// Files that could not be removed, and why. They are not compacted.
pub(crate) type Unremovable = HashMap<String, io::ErrorKind>;

/// A segment that cannot be read: one that failed to open is opened again with each listing, any other one if it
/// changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skipped {
    fault: Fault,
    /// Whether it is a file of another program or user; `None` if that is not known.
    is_foreign: Option<bool>,
    pub(crate) bytes: u64,
    /// `None` if that may change without notice, and for one that failed to open.
    modified: Option<SystemTime>,
}

impl Skipped {
    /// Whether the file is as it was when it could not be read, and not a copy that was under way.
    pub(crate) fn is_unchanged(self, dir: &dyn Directory, name: &str) -> bool {
        dir.stat(name.as_ref())
            .is_ok_and(|file| file.len == self.bytes && Some(file.modified) == self.modified)
    }

    /// Whether it may be a copy under way.
    pub(crate) fn is_recent(&self) -> bool {
        !self.is_unopened() && self.modified.is_none_or(is_recent)
    }

    /// Whether it failed to open. Other processes may read it, so it is evicted like the segments of this one.
    pub(crate) fn is_unopened(&self) -> bool {
        self.fault == Fault::Read
    }

    /// Whether it may have rows that another process reads, or this one later.
    pub(crate) fn may_have_rows(&self) -> bool {
        self.is_unopened() && self.is_foreign != Some(true)
    }

    /// Whether the file is neither counted against the limit nor removed: a newer version, another
    /// user or another program may use it.
    pub(crate) fn is_left_alone(self) -> bool {
        self.is_foreign != Some(false)
            || matches!(self.fault, Fault::FutureVersion | Fault::PermissionRejected)
    }
}

/// What lookups use.
#[derive(Debug)]
struct LiveSet {
    segments: HashMap<u32, Arc<LiveSegment>>,
    index: Index,
}

impl LiveSet {
    fn new() -> LiveSet {
        LiveSet {
            segments: HashMap::new(),
            index: Index::new(),
        }
    }
}

impl Catalog {
    /// An empty catalog; the first [`refresh`](Self::refresh) fills it.
    pub(crate) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Catalog {
        Catalog {
            fs,
            dir,
            faults: FaultLog::default(),
            live: RwLock::new(LiveSet::new()),
            scan: Mutex::new(Scan {
                names: HashMap::new(),
                skipped: HashMap::new(),
                unremovable: HashMap::new(),
                seen: None,
                checked: Instant::now(),
                retry_open: false,
                retry_unshadow: false,
                unsynced_result: None,
            }),
            dead_entries: AtomicU64::new(0),
            anchored: Mutex::new(None),
            evicted_rows: AtomicU64::new(0),
        }
    }

    /// Opens the directory as it is now: it may have been replaced, or its permissions changed.
    pub(crate) fn open_dir(&self) -> io::Result<Arc<dyn Directory>> {
        directory::open(&*self.fs, &self.dir, false)
    }

    /// The same, but makes the directory if it was removed.
    pub(crate) fn create_dir(&self) -> io::Result<Arc<dyn Directory>> {
        directory::open(&*self.fs, &self.dir, true)
    }

    /// Opens a segment, unless other users may have written it.
    pub(crate) fn open_segment(
        &self,
        dir: &dyn Directory,
        name: &str,
    ) -> Result<SegmentReader, SegmentError> {
        let reader = SegmentReader::open_in(dir, name.as_ref(), false)?;
        check_permissions(dir, reader.metadata())?;
        Ok(reader)
    }

    /// Reads the footer of a segment, unless other users may have written it.
    fn read_footer(
        &self,
        dir: &dyn Directory,
        name: &str,
    ) -> Result<(Footer, Metadata), SegmentError> {
        let (footer, metadata) = Footer::read(dir, name.as_ref())?;
        check_permissions(dir, &metadata)?;
        Ok((footer, metadata))
    }

    /// The file of a segment, for reading records.
    pub(crate) fn source(&self, segment: &LiveSegment, mmap: bool) -> io::Result<Arc<SegmentFile>> {
        file_cache::source(segment.id, segment.name(), mmap, || self.open_dir())
    }

    pub(crate) fn scan(&self) -> Deferring<MutexGuard<'_, Scan>> {
        Deferring::new(self.scan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The scan lock if it is free: a lookup misses rather than waits for a disk.
    fn try_scan(&self) -> Option<Deferring<MutexGuard<'_, Scan>>> {
        match self.scan.try_lock() {
            Ok(scan) => Some(Deferring::new(scan)),
            Err(TryLockError::Poisoned(poisoned)) => Some(Deferring::new(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn live(&self) -> RwLockReadGuard<'_, LiveSet> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_live<T>(&self, change: impl FnOnce(&mut LiveSet) -> T) -> T {
        change(&mut self.live.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every live segment, in no order.
    pub(crate) fn live_segments(&self) -> Vec<Arc<LiveSegment>> {
        self.live().segments.values().cloned().collect()
    }

    /// Looks whether the writers of segments have them locked: that of a compaction's result does until the sources
    /// are removed. Where one has ended, the sources leave the catalog.
    pub(crate) fn refresh_locks(&self, scan: &mut Scan) {
        for _ in 0..MAX_LISTINGS {
            if !self.look_at_locks() {
                return;
            }
            self.rescan(scan, false);
        }
    }

    /// Looks at the locks of segments, except for those that were seen to be free. Returns whether any is free.
    fn look_at_locks(&self) -> bool {
        let mut segments = self.live_segments();
        segments.retain(|it| !it.is_unlocked());
        if segments.is_empty() {
            return false;
        }
        let Ok(dir) = self.open_dir() else {
            return false;
        };
        for segment in &segments {
            segment.look_at_lock(&*dir);
        }
        segments.iter().any(|segment| segment.is_unlocked())
    }

    /// Fills the empty slots whose keys are on disk. Returns whether any slot is still empty.
    pub(crate) fn locate(&self, keys: &[Key], slots: &mut [Option<Located>]) -> bool {
        let LiveSet { segments, index } = &*self.live();
        // All entries first: these lookups are independent, so the processor overlaps their cache
        // misses. Counting references in between would make it wait for each.
        let wanted = keys.iter().zip(&*slots);
        let entries: Vec<Option<IndexEntry>> = wanted
            .map(|(key, slot)| index.get(key).filter(|_| slot.is_none()).copied())
            .collect();
        let mut is_missing = false;
        for ((key, slot), entry) in keys.iter().zip(slots).zip(entries) {
            if slot.is_none() {
                *slot = entry.and_then(|entry| {
                    Located::on_disk(segments.get(&entry.segment)?, entry.row(key)?)
                });
                is_missing |= slot.is_none();
            }
        }
        is_missing
    }

    /// Those of the keys that are on disk: their positions, in rising order, and their rows.
    pub(crate) fn present(&self, keys: &[Key]) -> Vec<(usize, Located)> {
        let LiveSet { segments, index } = &*self.live();
        let locate = |(position, key)| {
            let entry = index.get(key)?;
            let located = Located::on_disk(segments.get(&entry.segment)?, entry.row(key)?)?;
            Some((position, located))
        };
        keys.iter().enumerate().filter_map(locate).collect()
    }

    /// Inserts a segment and its rows. Entries of the segments in `leaving` are overwritten, so that
    /// their rows can be located at all times.
    fn insert_segment(
        &self,
        scan: &mut Scan,
        segment: LiveSegment,
        footer: &Footer,
        leaving: &HashSet<u32>,
    ) {
        let segment = Arc::new(segment);
        scan.skipped.remove(segment.name());
        scan.names.insert(segment.name().to_owned(), segment.id);
        self.change_live(|live| live.segments.insert(segment.id, segment.clone()));
        self.index_rows(&segment, footer.rows(), leaving);
    }

    /// Points the index at those rows of a segment that no other live segment has.
    fn index_rows(
        &self,
        segment: &LiveSegment,
        rows: impl Iterator<Item = RowEntry>,
        leaving: &HashSet<u32>,
    ) {
        let mut inserted = Inserted::default();
        by_partition(segment.id, rows, |number, entries| {
            self.change_live(|LiveSet { segments, index }| {
                let is_live = |id| segments.contains_key(&id) && !leaving.contains(&id);
                index
                    .partition(number)
                    .insert(entries, is_live, &mut inserted);
            });
        });
        segment.note_inserted(&inserted);
        let revive = |dead: u64| Some(dead.saturating_sub(inserted.revived));
        let _ = self
            .dead_entries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, revive);
    }

    /// Removes one row from the index, since its record is corrupt.
    pub(crate) fn invalidate(&self, segment: &LiveSegment, key: &Key) {
        if self.change_live(|live| live.index.remove(key, segment.id)) {
            segment.indexed.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes segments out of the set, without regard to rows that they shadow. Their files are left
    /// to the caller; their entries in the index are dead from now on.
    fn take_out(&self, scan: &mut Scan, ids: &HashSet<u32>) {
        let removed: Vec<_> = self.change_live(|LiveSet { segments, .. }| {
            ids.iter().filter_map(|id| segments.remove(id)).collect()
        });
        scan.names.retain(|_, id| !ids.contains(id));
        let indexed = removed
            .iter()
            .map(|segment| segment.indexed.load(Ordering::Relaxed));
        let dead: u64 = indexed.sum();
        let dead = self.dead_entries.fetch_add(dead, Ordering::Relaxed) + dead;
        // A sweep visits every entry, so it waits until an eighth of them are dead.
        if dead > 1024 && dead > self.live().index.len() as u64 / 8 {
            self.sweep();
        }
    }

    /// Removes dead entries from the index.
    fn sweep(&self) {
        for number in 0..PARTITIONS {
            self.change_live(|LiveSet { segments, index }| {
                index
                    .partition(number)
                    .sweep(|id| segments.contains_key(&id));
            });
        }
        self.dead_entries.store(0, Ordering::Relaxed);
    }

    /// Counts what is wrong with a segment, and remembers to skip it until it changes.
    fn skip(&self, dir: &dyn Directory, scan: &mut Scan, name: &str, error: &SegmentError) {
        let (fault, file) = (error.fault(), dir.stat(name.as_ref()).ok());
        if scan.skipped.get(name).is_none_or(|it| it.fault != fault) {
            self.faults.note(fault, &self.dir.join(name), error);
        }
        scan.retry_open |= matches!(error, SegmentError::Io(error) if are_exhausted(error));
        let mut skipped = Skipped {
            fault,
            is_foreign: is_foreign(dir, name).ok(),
            bytes: file.map_or(0, |file| file.len),
            modified: None,
        };
        if skipped.is_unopened() {
            // Its permissions could not be checked either.
            skipped.is_foreign = match file.map(|file| check_permissions(dir, &file)) {
                Some(Ok(())) => skipped.is_foreign,
                Some(Err(SegmentError::PermissionRejected(_))) => Some(true),
                _ => None,
            };
        } else {
            // A copy that was under way may have been completed before the look at its length.
            scan.retry_open |= self.load_segment(dir, scan, name).is_ok();
            let is_kept = |file: &Metadata| !scan.retry_open && changes_time(file.modified);
            skipped.modified = file.filter(is_kept).map(|file| file.modified);
        }
        scan.skipped.insert(name.to_owned(), skipped);
    }
}

/// Whether a copy that is under way will give the file another time. It takes longer than the step of a clock
/// that has fractions of seconds.
fn changes_time(modified: SystemTime) -> bool {
    let step = clock_step(modified);
    step < Duration::from_secs(1) || modified.elapsed().map_or(true, |age| age > step)
}

fn check_permissions(dir: &dyn Directory, file: &Metadata) -> Result<(), SegmentError> {
    permissions::check_file(file, &dir.metadata()?).map_err(SegmentError::PermissionRejected)
}
