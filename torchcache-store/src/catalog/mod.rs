//! Which segments there are and which row is where. It joins the index with the set of
//! segments and keeps both in step with the directory.
//!
//! Locks, in the order in which they may be taken: `scan` (all changes of the set of
//! segments, so that no two threads adopt one file), then the queue's, then `known`. `scan`
//! may be held over file operations and is never needed by a lookup; the others are held for
//! memory operations only, and short ones: the index is changed part by part.

pub(crate) mod directory;
pub(crate) mod file_cache;
pub(crate) mod index;
pub(crate) mod live_segment;
pub(crate) mod located;
mod recovery;
mod refresh;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Instant, SystemTime};

use hashbrown::HashMap;

use self::index::{Entry, Index, Inserted, PARTS, by_part};
use self::live_segment::Tracked;
use self::located::Found;
use crate::clock;
use crate::fault::{Fault, FaultLog};
use crate::fs::permissions;
use crate::fs::{Directory, FileSystem, Metadata};
use crate::key::Key;
use crate::segment::{FinishedSegment, Footer, Row, SegmentError, SegmentReader, Source};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

/// The segments of one directory and the index over their rows.
#[derive(Debug)]
pub(crate) struct Catalog {
    fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) faults: FaultLog,
    known: RwLock<Known>,
    scan: Mutex<Scan>,
    /// About how many entries of the index belong to dropped segments.
    dead: AtomicU64,
}

/// What is known of the directory's files.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) names: HashMap<OsString, u32>,
    pub(crate) skipped: HashMap<OsString, Skipped>,
    /// The directory's time when it was last listed; `None` if a change could hide in it.
    pub(crate) seen: Option<SystemTime>,
    pub(crate) checked: Instant,
    /// Whether a segment that should step forward could not be opened: it is to be tried again.
    pub(crate) is_owing: bool,
}

/// A segment that could not be read and will not get better.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skipped {
    pub(crate) fault: Fault,
    pub(crate) bytes: u64,
}

impl Skipped {
    /// Whether the file is somebody else's matter: it is neither counted nor removed.
    pub(crate) fn is_left_alone(self) -> bool {
        matches!(self.fault, Fault::FutureVersion | Fault::Untrusted)
    }
}

/// What a lookup asks.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) segments: HashMap<u32, Arc<Tracked>>,
    pub(crate) index: Index,
}

impl Catalog {
    /// An empty catalog; the first [`refresh`](Self::refresh) fills it.
    pub(crate) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Catalog {
        Catalog {
            fs,
            dir,
            faults: FaultLog::default(),
            known: RwLock::new(Known {
                segments: HashMap::new(),
                index: Index::new(),
            }),
            scan: Mutex::new(Scan {
                is_owing: false,
                names: HashMap::new(),
                skipped: HashMap::new(),
                seen: None,
                checked: Instant::now(),
            }),
            dead: AtomicU64::new(0),
        }
    }

    /// The directory as it is now: it may have been replaced, or opened to everybody.
    pub(crate) fn open_dir(&self) -> io::Result<Arc<dyn Directory>> {
        directory::trusted(&*self.fs, &self.dir, false)
    }

    /// The same; made anew if somebody removed it.
    pub(crate) fn make_dir(&self) -> io::Result<Arc<dyn Directory>> {
        directory::trusted(&*self.fs, &self.dir, true)
    }

    /// Opens a segment, if only trusted users can have written it.
    pub(crate) fn open_segment(
        &self,
        dir: &dyn Directory,
        name: &OsStr,
    ) -> Result<SegmentReader, SegmentError> {
        let reader = SegmentReader::open_in(dir, name, false)?;
        check_trust(dir, reader.metadata())?;
        Ok(reader)
    }

    /// Reads the footer of a segment, if only trusted users can have written it.
    pub(crate) fn read_footer(
        &self,
        dir: &dyn Directory,
        name: &OsStr,
    ) -> Result<(Footer, Metadata), SegmentError> {
        let (footer, metadata) = Footer::read(dir, name)?;
        check_trust(dir, &metadata)?;
        Ok((footer, metadata))
    }

    /// The open file of a segment.
    pub(crate) fn source(&self, segment: &Tracked, mmap: bool) -> io::Result<Arc<Source>> {
        file_cache::source(segment.id, segment.name(), mmap, || self.open_dir())
    }

    pub(crate) fn scan(&self) -> MutexGuard<'_, Scan> {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scan lock if nobody holds it: a lookup would rather miss than wait for a disk.
    pub(crate) fn try_scan(&self) -> Option<MutexGuard<'_, Scan>> {
        match self.scan.try_lock() {
            Ok(scan) => Some(scan),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_known<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what was loaded into a catalog that has no segments.
    pub(crate) fn begin_with(&self, loaded: Known) {
        let before = self.change_known(|known| std::mem::replace(known, loaded));
        drop(before); // after the lock
        self.dead.store(0, Ordering::Relaxed);
    }

    /// Fills the empty slots whose keys are on disk. Returns whether any is still empty.
    pub(crate) fn locate(&self, keys: &[Key], slots: &mut [Option<Found>]) -> bool {
        let Known { segments, index } = &*self.known();
        // All places first: they are independent of each other, so that the processor waits for
        // several of them at a time. Counting references in between would make it wait for each.
        let wanted = keys.iter().zip(&*slots);
        let places: Vec<Option<Entry>> = wanted
            .map(|(key, slot)| index.get(key).filter(|_| slot.is_none()).copied())
            .collect();
        let mut missing = false;
        for ((key, slot), place) in keys.iter().zip(slots).zip(places) {
            if slot.is_none() {
                *slot = place.and_then(|entry| {
                    Found::on_disk(segments.get(&entry.segment)?, entry.row(key)?)
                });
                missing |= slot.is_none();
            }
        }
        missing
    }

    /// For each key, whether it is on disk.
    pub(crate) fn contains(&self, keys: &[Key]) -> Vec<bool> {
        let Known { segments, index } = &*self.known();
        let live = |entry: &Entry| segments.contains_key(&entry.segment);
        keys.iter()
            .map(|key| index.get(key).is_some_and(live))
            .collect()
    }

    /// Drops one row whose record turned out to be bad.
    pub(crate) fn forget_row(&self, segment: &Tracked, key: &Key) {
        if self.change_known(|known| known.index.remove(key, segment.id)) {
            segment.indexed.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Every segment, in no order.
    pub(crate) fn tracked(&self) -> Vec<Arc<Tracked>> {
        self.known().segments.values().cloned().collect()
    }

    /// Takes a segment into the set and its rows into the index. Entries of the segments in
    /// `leaving` are overwritten, so that their rows are never absent in between.
    pub(crate) fn adopt(
        &self,
        scan: &mut Scan,
        segment: Tracked,
        footer: &Footer,
        leaving: &HashSet<u32>,
    ) -> Arc<Tracked> {
        let segment = Arc::new(segment);
        if let Some(name) = segment.path.file_name() {
            scan.names.insert(name.to_owned(), segment.id);
        }
        self.change_known(|known| known.segments.insert(segment.id, segment.clone()));
        self.index_rows(&segment, footer.rows(), leaving);
        segment
    }

    /// Points the index at those rows of a segment that it has nowhere else.
    pub(crate) fn index_rows(
        &self,
        segment: &Tracked,
        rows: impl Iterator<Item = Row>,
        leaving: &HashSet<u32>,
    ) {
        let mut done = Inserted::default();
        by_part(segment.id, rows, |number, entries| {
            self.change_known(|Known { segments, index }| {
                let live = |id| segments.contains_key(&id) && !leaving.contains(&id);
                index.part(number).insert(entries, live, &mut done);
            });
        });
        segment.count(&done);
        let revived = |dead: u64| Some(dead.saturating_sub(done.revived));
        let _ = self
            .dead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, revived);
    }

    /// Takes segments out of the set. Their files are the caller's matter; their entries in
    /// the index are dead from now on.
    pub(crate) fn abandon(&self, scan: &mut Scan, ids: &HashSet<u32>) {
        let gone: Vec<_> = self.change_known(|Known { segments, .. }| {
            ids.iter().filter_map(|id| segments.remove(id)).collect()
        });
        scan.names.retain(|_, id| !ids.contains(id));
        let dead: u64 = gone
            .iter()
            .map(|segment| segment.indexed.load(Ordering::Relaxed))
            .sum();
        let dead = self.dead.fetch_add(dead, Ordering::Relaxed) + dead;
        // Sweeping looks at every entry, so wait until an eighth of them is worth it.
        if dead > 1024 && dead > self.known().index.len() as u64 / 8 {
            self.sweep();
        }
    }

    pub(crate) fn sweep(&self) {
        for number in 0..PARTS {
            self.change_known(|Known { segments, index }| {
                index.part(number).sweep(|id| segments.contains_key(&id));
            });
        }
        self.dead.store(0, Ordering::Relaxed);
    }

    /// Gives a finished segment its name and takes it in, in place of `merged`. `wanted` is
    /// asked under the lock that `clear` holds, so that nothing cleared comes back; if it
    /// says no, the file is removed and `None` returned.
    pub(crate) fn publish(
        &self,
        finished: FinishedSegment,
        merged: &[Arc<Tracked>],
        wanted: impl Fn() -> bool,
    ) -> io::Result<Option<Arc<Tracked>>> {
        let dir = finished.dir().clone();
        let mut scan = self.scan();
        if !wanted() {
            return Ok(None);
        }
        let bytes = finished.bytes();
        // A merge says how old its rows are. New rows are as new as can be: the file's own
        // time is that of a coarse clock, and would put them before what was just read.
        let read = match merged {
            [] => clock::now(),
            _ => clock::found(finished.file().metadata()?.modified),
        };
        let (path, footer) = finished.publish_footer()?;
        // Another process may have cleared the directory, or merged the same segments and
        // removed them, between our reading and our renaming. Then its work stands. (It
        // looks for new files again after removing, so one of us sees the other.)
        let there = merged.iter().map(|source| dir.stat(source.name()));
        let there: io::Result<Vec<_>> = there.collect();
        // Names may reach the medium in any order: this one has to before the merged ones go from
        // it, and before anybody hears that its rows are flushed.
        if let Err(error) = there.and_then(|_| dir.sync()) {
            self.remove_from(&*dir, path.file_name().unwrap_or_default());
            return match error.kind() {
                io::ErrorKind::NotFound if !merged.is_empty() => Ok(None),
                _ => Err(error),
            };
        }
        let leaving: HashSet<u32> = merged.iter().map(|source| source.id).collect();
        let segment = Tracked::new(path, bytes, read, &footer);
        let segment = self.adopt(&mut scan, segment, &footer, &leaving);
        // Segments with some of the same rows are behind the merged one from now on, and have what
        // it left out as corrupt.
        self.leave(&mut scan, &leaving);
        // Still under the lock, or a refresh would take the old files in again.
        self.retire(merged);
        Ok(Some(segment))
    }

    /// Removes the files of segments that are no longer in the set.
    pub(crate) fn retire(&self, segments: &[Arc<Tracked>]) {
        for segment in segments {
            segment.retired.store(true, Ordering::Relaxed);
        }
        self.remove(segments.iter().map(|segment| segment.name()));
    }

    /// Removes segments' files; that they are gone already is no trouble.
    pub(crate) fn remove<'n>(&self, names: impl Iterator<Item = &'n OsStr>) {
        let mut names = names.peekable();
        if names.peek().is_none() {
            return;
        }
        match self.open_dir() {
            Ok(dir) => names.for_each(|name| self.remove_from(&*dir, name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => names.for_each(|name| self.note_left(name, &error)),
        }
    }

    fn remove_from(&self, dir: &dyn Directory, name: &OsStr) {
        if let Err(error) = dir.remove(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.note_left(name, &error);
        }
    }

    fn note_left(&self, name: &OsStr, error: &io::Error) {
        let reason = format_args!("cannot remove it: {error}");
        self.faults.note(Fault::Write, &self.dir.join(name), reason);
    }

    /// Counts what is wrong with a segment, and remembers it.
    pub(crate) fn skip(
        &self,
        dir: &dyn Directory,
        scan: &mut Scan,
        name: &OsString,
        error: &SegmentError,
    ) {
        let (path, fault) = (self.dir.join(name), error.fault());
        match error {
            // Removed since it was listed.
            SegmentError::Io(error) if error.kind() == io::ErrorKind::NotFound => return,
            _ => self.faults.note(fault, &path, error),
        }
        // A read error may pass; the others are in the bytes, which never change.
        if fault != Fault::Read {
            let bytes = dir.stat(name).map_or(0, |file| file.len);
            scan.skipped.insert(name.clone(), Skipped { fault, bytes });
        }
    }
}

fn check_trust(dir: &dyn Directory, file: &Metadata) -> Result<(), SegmentError> {
    permissions::file(file, &dir.metadata()?).map_err(SegmentError::Untrusted)
}
