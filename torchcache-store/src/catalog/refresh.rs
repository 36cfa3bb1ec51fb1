//! Keeping the catalog in step with the directory: segments that other processes wrote,
//! merged or removed, and the files that a killed writer left.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::live_segment::Tracked;
use super::{Catalog, Scan};
use crate::clock;
use crate::fault::Fault;
use crate::fs::Directory;
use crate::fs::temp_file::{is_stale, is_temp};
use crate::key::Key;
use crate::segment::{Footer, SegmentError, segment_names};

/// How often at most a miss looks whether the directory changed.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// A directory's time is that of a coarse clock: within this of a listing, a later change
/// may carry the same time.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// Why a known segment could not be opened again.
enum Failed {
    First(SegmentError),
    /// As the last time, which was told of.
    Again,
}

impl Catalog {
    /// Brings the catalog up to date.
    pub(crate) fn refresh(&self) {
        self.rescan(&mut self.scan());
    }

    /// The same, but only if it is likely to find something and nobody has to wait. Returns
    /// whether it looked.
    pub(crate) fn refresh_after_miss(&self) -> bool {
        let Some(mut scan) = self.try_scan() else {
            return false;
        };
        if scan.checked.elapsed() < CHECK_EVERY {
            return false;
        }
        scan.checked = Instant::now();
        let time = self.dir_time();
        if time.is_some() && time == scan.seen {
            return false;
        }
        self.rescan(&mut scan);
        true
    }

    fn dir_time(&self) -> Option<SystemTime> {
        let metadata = self.open_dir().and_then(|dir| dir.metadata());
        Some(metadata.ok()?.modified)
    }

    fn rescan(&self, scan: &mut Scan) {
        if let Err(error) = self.look(scan) {
            self.note_unlisted(&error);
        }
    }

    fn note_unlisted(&self, error: &io::Error) {
        let reason = format_args!("cannot list it: {error}");
        self.faults.note(Fault::Read, &self.dir, reason);
    }

    fn look(&self, scan: &mut Scan) -> io::Result<()> {
        let settled = |time: &SystemTime| time.elapsed().is_ok_and(|age| age > CLOCK_STEP);
        // That the directory is gone means that there are no segments.
        let dir = match self.open_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            dir => Some(dir?),
        };
        let (time, mut listed) = match &dir {
            Some(dir) => (dir.metadata()?.modified, segment_names(&**dir)?),
            None => (UNIX_EPOCH, Vec::new()),
        };
        scan.seen = dir.is_some().then_some(time).filter(settled);
        listed.sort(); // by age, so that every process prefers the same one of two duplicates

        let there: HashSet<&OsString> = listed.iter().collect();
        scan.skipped.retain(|name, _| there.contains(name));
        let gone = scan
            .names
            .iter()
            .filter(|(name, _)| !there.contains(name))
            .map(|(_, id)| *id);
        let gone: HashSet<u32> = gone.collect();
        let is_new =
            |name: &&OsString| !scan.names.contains_key(*name) && !scan.skipped.contains_key(*name);
        let new: Vec<&OsString> = listed.iter().filter(is_new).collect();
        match &dir {
            Some(dir) if scan.names.is_empty() => self.load(&**dir, scan, &new),
            Some(dir) => new
                .into_iter()
                .for_each(|name| self.open_new(&**dir, scan, name, &gone)),
            None => {}
        }
        self.leave(scan, &gone);
        Ok(())
    }

    /// Drops segments, and finds their rows in other segments that hold them as well, also those of
    /// segments dropped before in others that could not be opened then.
    pub(crate) fn leave(&self, scan: &mut Scan, ids: &HashSet<u32>) {
        if ids.is_empty() && !scan.is_owing {
            return;
        }
        self.abandon(scan, ids);
        scan.is_owing = false;
        let tracked = self.tracked();
        let there = tracked.iter().map(|segment| segment.id).collect();
        for segment in tracked {
            if !segment.may_step_forward(&there) {
                continue;
            }
            match self.open_again(&segment) {
                Ok(footer) => {
                    segment.step_forward(&there);
                    self.index_rows(&segment, footer.rows(), &HashSet::new());
                }
                // It may pass: the next miss looks again, and after that whoever finds a change.
                Err(Failed::First(SegmentError::Io(_))) => {
                    (scan.is_owing, scan.seen) = (true, None);
                }
                Err(Failed::Again) => scan.is_owing = true,
                Err(Failed::First(_)) => segment.step_forward(&there),
            }
        }
    }

    /// Finds rows whose records in a segment turned out to be bad in segments that hold them as
    /// well.
    pub(crate) fn look_behind(&self, bad: &Tracked, keys: &HashSet<Key>) {
        let mut others = self.tracked();
        others.retain(|other| other.is_behind(bad.id));
        for other in others {
            if let Ok(footer) = self.open_again(&other) {
                let rows = footer.rows().filter(|row| keys.contains(&row.key));
                self.index_rows(&other, rows, &HashSet::new());
            }
        }
    }

    /// Reads the footer of a segment again, since it is not kept. What is wrong with it is counted
    /// once.
    fn open_again(&self, segment: &Tracked) -> Result<Footer, Failed> {
        let opened = match self.open_dir() {
            Ok(dir) => self.read_footer(&*dir, segment.name()),
            Err(error) => Err(error.into()),
        };
        let failed_before = segment.unopened.swap(opened.is_err(), Ordering::Relaxed);
        opened.map(|(footer, _)| footer).map_err(|error| {
            if failed_before {
                return Failed::Again;
            }
            match &error {
                // The next look at the directory finds it missing.
                SegmentError::Io(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => self.faults.note(error.fault(), &segment.path, &error),
            }
            Failed::First(error)
        })
    }

    /// Takes in a segment that was not known. What is wrong with it is counted once, and the
    /// file is left alone.
    fn open_new(
        &self,
        dir: &dyn Directory,
        scan: &mut Scan,
        name: &OsString,
        leaving: &HashSet<u32>,
    ) {
        match self.read_footer(dir, name) {
            Ok((footer, metadata)) => {
                let path = self.dir.join(name);
                let read = clock::found(metadata.modified);
                let segment = Tracked::new(path, metadata.len, read, &footer);
                self.adopt(scan, segment, &footer, leaving);
            }
            Err(error) => self.skip(dir, scan, name, &error),
        }
    }

    /// Drops what is pending, removes every segment, and returns what `drop_pending` gave. Looks
    /// again after removing: a merge in another process may have given its result a name in
    /// between.
    pub(crate) fn clear<T>(&self, drop_pending: impl FnOnce() -> T) -> T {
        let mut scan = self.scan();
        let dropped = drop_pending();
        let all = self.tracked();
        self.abandon(&mut scan, &all.iter().map(|segment| segment.id).collect());
        self.retire(&all);
        self.sweep();
        scan.skipped.clear();
        scan.seen = None;
        // A power cut would bring rows back that somebody wanted gone, but for the sync.
        let empty = |dir: &dyn Directory| {
            let (removed, synced) = (self.remove_listed(dir), dir.sync());
            removed.and(synced)
        };
        match self.open_dir().and_then(|dir| empty(&*dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let reason = format_args!("cannot clear it: {error}");
                self.faults.note(Fault::of_write(&error), &self.dir, reason);
            }
            _ => {}
        }
        dropped
    }

    /// Removes every segment that is there, until no new one comes.
    fn remove_listed(&self, dir: &dyn Directory) -> io::Result<()> {
        let mut tried = HashSet::new();
        loop {
            let mut names = segment_names(dir)?;
            names.retain(|name| !tried.contains(name));
            if names.is_empty() {
                return Ok(());
            }
            self.remove(names.iter().map(OsString::as_os_str));
            tried.extend(names);
        }
    }

    /// Removes what writers that are dead left half written.
    pub(crate) fn remove_stale_temps(&self) {
        let listed = self.open_dir().and_then(|dir| Ok((dir.list()?, dir)));
        let (entries, dir) = match listed {
            Ok(listed) => listed,
            Err(error) => return self.note_unlisted(&error),
        };
        let files = entries.into_iter().filter(|entry| entry.is_file);
        let mut names: Vec<_> = files.map(|entry| entry.name).collect();
        names.retain(|name| name.to_str().is_some_and(is_temp));
        names.retain(|name| match is_stale(&*dir, name) {
            Ok(is_stale) => is_stale,
            Err(error) => {
                // Removed since it was listed, or somebody else's.
                use io::ErrorKind::{NotFound, PermissionDenied};
                if !matches!(error.kind(), NotFound | PermissionDenied) {
                    let reason = format_args!("cannot tell whether its writer lives: {error}");
                    self.faults.note(Fault::Read, &self.dir.join(name), reason);
                }
                false
            }
        });
        self.remove(names.iter().map(OsString::as_os_str));
    }
}
