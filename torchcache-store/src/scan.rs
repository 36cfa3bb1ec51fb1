//! Keeping the catalog in step with the directory: segments that other processes wrote,
//! merged or removed, and the files that a killed writer left.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use crate::catalog::{Catalog, Scan, Skipped};
use crate::fault::Fault;
use crate::segment::{SegmentFile, Unreadable, is_segment, is_temp};
use crate::tracked::Tracked;

/// How often at most a miss looks whether the directory changed.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// A directory's time is that of a coarse clock: within this of a listing, a later change
/// may carry the same time.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// A temporary file that was not written to for so long has no writer.
const STALE_AFTER: Duration = Duration::from_secs(3600);

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
        std::fs::metadata(&self.dir)
            .and_then(|dir| dir.modified())
            .ok()
    }

    fn rescan(&self, scan: &mut Scan) {
        let settled = |time: &SystemTime| time.elapsed().is_ok_and(|age| age > CLOCK_STEP);
        let time = self.dir_time().filter(settled);
        let mut listed = match self.segment_names() {
            Ok(names) => names,
            Err(error) => {
                self.faults.note(
                    Fault::Read,
                    &self.dir,
                    format_args!("cannot list it: {error}"),
                );
                return;
            }
        };
        scan.seen = time;
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
        if scan.names.is_empty() {
            self.load(scan, &new);
        } else {
            new.into_iter()
                .for_each(|name| self.open_new(scan, name, &gone));
        }
        self.leave(scan, &gone);
    }

    /// Drops segments, and finds their rows in other segments that hold them as well.
    pub(crate) fn leave(&self, scan: &mut Scan, ids: &HashSet<u32>) {
        if ids.is_empty() {
            return;
        }
        self.abandon(scan, ids);
        for segment in self.tracked() {
            if segment.steps_forward(ids)
                && let Ok(file) = SegmentFile::open(&segment.path, false)
            {
                self.index_rows(&segment, file.footer().rows(), &HashSet::new());
            }
        }
    }

    /// The names of all segment files: regular ones, so that opening never waits on a pipe. That
    /// the directory is gone means that there are none.
    fn segment_names(&self) -> io::Result<Vec<OsString>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(is_segment) && entry.file_type()?.is_file() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Takes in a segment that was not known. What is wrong with it is counted once, and the
    /// file is left alone.
    fn open_new(&self, scan: &mut Scan, name: &OsString, leaving: &HashSet<u32>) {
        let path = self.dir.join(name);
        let opened = SegmentFile::open(&path, false).and_then(|file| Ok((file.modified()?, file)));
        match opened {
            Ok((modified, file)) => {
                let segment = Tracked::new(path, file.bytes(), modified, file.footer());
                self.adopt(scan, segment, file.footer(), leaving);
            }
            Err(error) => self.skip(scan, name, &error),
        }
    }

    /// Counts what is wrong with a segment, and remembers it.
    pub(crate) fn skip(&self, scan: &mut Scan, name: &OsString, error: &Unreadable) {
        let (path, fault) = (self.dir.join(name), error.fault());
        match error {
            // Removed since it was listed.
            Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound => return,
            _ => self.faults.note(fault, &path, error),
        }
        // A read error may pass; the others are in the bytes, which never change.
        if fault != Fault::Read {
            let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
            scan.skipped.insert(name.clone(), Skipped { fault, bytes });
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
        all.iter().for_each(|segment| self.retire(segment));
        self.sweep();
        scan.skipped.clear();
        scan.seen = None;
        let mut tried = HashSet::new();
        while let Ok(names) = self.segment_names() {
            let fresh: Vec<_> = names
                .into_iter()
                .filter(|name| !tried.contains(name))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for name in fresh {
                self.remove_file(&self.dir.join(&name));
                tried.insert(name);
            }
        }
        dropped
    }

    /// Removes what writers that died long ago left half written.
    pub(crate) fn remove_stale_temps(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let stale = || {
                let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
                Some(age > STALE_AFTER)
            };
            if entry.file_name().to_str().is_some_and(is_temp) && stale() == Some(true) {
                self.remove_file(&entry.path());
            }
        }
    }
}
