//! Keeps the catalog in step with the directory: segments that other processes published or removed,
//! and rows that are shadowed no longer.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::live_segment::{GONE, LiveSegment};
use super::{Catalog, LiveSet, Scan};
use crate::fs::Directory;
use crate::key::{Key, fingerprint};
use crate::progress;
use crate::segment::{Footer, MAX_LISTINGS, RowEntry, SegmentError, SegmentListing, list_segments};
use crate::sync::thread;

/// How often misses check at most whether the directory changed.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How often a thread tries to take the scan lock that does not wait for it without a bound.
const SCAN_INTERVAL: Duration = Duration::from_millis(1);

/// Why the footer of a live segment could not be read again.
enum RereadError {
    First(SegmentError),
    /// As at the last attempt, which was counted.
    Repeated,
}

impl Catalog {
    /// Brings the catalog up to date: afterwards, it has every segment that was published before.
    pub(crate) fn refresh(&self) {
        self.rescan(&mut self.scan(), true);
    }

    /// The same, but a segment of another process may be left to the next lookup that misses. Lists the
    /// directory once, unless a segment of the catalog is gone.
    pub(crate) fn refresh_size(&self) {
        self.rescan(&mut self.scan(), false);
    }

    /// Brings the catalog up to date. Fails where the directory cannot be listed, or a file cannot be opened that may be a
    /// segment.
    pub(crate) fn refresh_fully(&self) -> io::Result<()> {
        let mut scan = self.scan();
        self.try_rescan(&mut scan, true)?;
        let mut skipped = scan.skipped.iter();
        match skipped.find(|(_, file)| file.may_have_rows()) {
            Some((name, _)) => {
                let what =
                    "it cannot be opened, and may have such rows; make it readable, or move it";
                Err(io::Error::other(format!("{name}: {what}")))
            }
            None => Ok(()),
        }
    }

    /// Brings the catalog up to date, unless another thread changes it for longer than this. Returns whether it
    /// did.
    pub(super) fn refresh_within(&self, timeout: Duration) -> bool {
        let begin = Instant::now();
        loop {
            if let Some(mut scan) = self.try_scan() {
                self.rescan(&mut scan, true);
                return true;
            }
            if begin.elapsed() >= timeout {
                return false;
            }
            thread::sleep(SCAN_INTERVAL);
        }
    }

    /// The same, but only if that is likely to find something and the lock is free. Returns whether
    /// the directory was listed.
    pub(crate) fn refresh_after_miss(&self) -> bool {
        let Some(mut scan) = self.try_scan() else {
            return false;
        };
        if scan.checked.elapsed() < CHECK_INTERVAL {
            return false;
        }
        scan.checked = Instant::now();
        let time = self.dir_time();
        if time.is_some() && time == scan.seen {
            return false;
        }
        self.rescan(&mut scan, true);
        true
    }

    /// When the directory changed last.
    pub(crate) fn dir_time(&self) -> Option<SystemTime> {
        let metadata = self.open_dir().and_then(|dir| dir.metadata());
        Some(metadata.ok()?.modified)
    }

    pub(super) fn rescan(&self, scan: &mut Scan, finds_all: bool) {
        if let Err(error) = self.try_rescan(scan, finds_all) {
            self.note_unlisted(&error);
        }
    }

    /// Lists the directory until no segment can have escaped a listing: another process may replace
    /// segments by the result of a compaction during it, or before they are opened.
    pub(super) fn try_rescan(&self, scan: &mut Scan, finds_all: bool) -> io::Result<()> {
        scan.seen = None;
        // A missing directory has no segments.
        let dir = match self.open_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            dir => Some(dir?),
        };
        let (mut gone, mut before) = (HashSet::new(), None::<BTreeSet<String>>);
        for _ in 0..MAX_LISTINGS {
            let SegmentListing { names, time } = match &dir {
                Some(dir) => list_segments(&**dir)?,
                None => SegmentListing::default(),
            };
            scan.skipped.retain(|name, _| names.contains(name));
            scan.unremovable.retain(|name, _| names.contains(name));
            let known = scan.names.iter();
            gone = known
                .filter(|(name, _)| !names.contains(*name))
                .map(|(_, id)| *id)
                .collect();
            let is_skipped = |name: &&String| {
                progress::note();
                let file = scan.skipped.get(*name).zip(dir.as_ref());
                file.is_some_and(|(file, dir)| file.is_unchanged(&**dir, name))
            };
            let is_new = |name: &&String| !scan.names.contains_key(*name) && !is_skipped(name);
            let new: Vec<&String> = names.iter().filter(is_new).collect();
            scan.retry_open = false;
            let all_exist = dir
                .as_ref()
                .is_none_or(|dir| self.insert_listed(&**dir, scan, &new, &gone));
            let is_complete =
                time.is_some() || before.as_ref() == Some(&names) || gone.is_empty() && !finds_all;
            if all_exist && is_complete {
                // A copy that grows leaves the time of the directory as it is.
                let may_change = scan.retry_open || scan.skipped.values().any(|it| it.is_recent());
                scan.seen = time.filter(|_| !may_change);
                break;
            }
            before = Some(names);
        }
        // Only now: until then, their rows are located in the segments that took their place.
        self.detach(scan, &gone);
        Ok(())
    }

    /// Inserts the new segments of a listing, which are sorted by age, so that every process prefers the
    /// same of two copies. Returns whether all of them still exist.
    fn insert_listed(
        &self,
        dir: &dyn Directory,
        scan: &mut Scan,
        new: &[&String],
        gone: &HashSet<u32>,
    ) -> bool {
        if scan.names.is_empty() {
            return self.load(dir, scan, new);
        }
        let is_gone = |name: &&&String| !self.open_new(dir, scan, name, gone);
        new.iter().filter(is_gone).count() == 0
    }

    /// Takes segments out of the set, and finds the rows that they shadowed in the other segments,
    /// those included that could not be opened at an earlier time.
    pub(crate) fn detach(&self, scan: &mut Scan, ids: &HashSet<u32>) {
        if ids.is_empty() && !scan.retry_unshadow {
            return;
        }
        self.take_out(scan, ids);
        scan.retry_unshadow = false;
        let segments = self.live_segments();
        let live = segments.iter().map(|segment| segment.id).collect();
        for segment in segments {
            let lost = self.reshadow(&segment, segment.unshadow(&live));
            if lost.is_empty() {
                continue;
            }
            match self.reread_footer(&segment) {
                Ok(footer) => {
                    let is_lost = |row: &RowEntry| lost.contains(&fingerprint(&row.key));
                    self.index_rows(&segment, footer.rows().filter(is_lost), &HashSet::new());
                    continue;
                }
                // It may pass: the next miss lists the directory again, and so does any later change.
                Err(RereadError::First(SegmentError::Io(_))) => scan.seen = None,
                Err(RereadError::Repeated) => {}
                Err(RereadError::First(_)) => continue,
            }
            segment.shadow(GONE, lost);
            scan.retry_unshadow = true;
        }
    }

    /// Rows of a segment whose shadows are gone: has those that other live segments took over be shadowed by
    /// these, and returns the rest, which no index entry leads to.
    fn reshadow(&self, segment: &LiveSegment, rows: Vec<u64>) -> HashSet<u64> {
        let LiveSet { segments, index } = &*self.live();
        let mut lost = HashSet::new();
        for row in rows {
            let entry = index.find(row).map(|entry| entry.segment);
            match entry.filter(|id| segments.contains_key(id)) {
                Some(other) if other != segment.id => segment.shadow(other, [row]),
                Some(_) => {}
                None => drop(lost.insert(row)),
            }
        }
        lost
    }

    /// Finds rows whose records in a segment are corrupt in the segments that have them as well.
    pub(crate) fn unshadow_rows(&self, corrupt: &LiveSegment, keys: &HashSet<Key>) {
        let fingerprints = keys.iter().map(fingerprint).collect();
        let mut others = self.live_segments();
        others.retain(|other| other.is_shadowed_by(corrupt.id, &fingerprints));
        for other in others {
            if let Ok(footer) = self.reread_footer(&other) {
                let rows = footer.rows().filter(|row| keys.contains(&row.key));
                self.index_rows(&other, rows, &HashSet::new());
            }
        }
    }

    /// Reads the footer of a live segment, which is not kept in memory. What is wrong with it is
    /// counted once.
    fn reread_footer(&self, segment: &LiveSegment) -> Result<Footer, RereadError> {
        let read = match self.open_dir() {
            Ok(dir) => self.read_footer(&*dir, segment.name()),
            Err(error) => Err(error.into()),
        };
        let failed_before = segment.footer_failed.swap(read.is_err(), Ordering::Relaxed);
        read.map(|(footer, _)| footer).map_err(|error| {
            if failed_before {
                return RereadError::Repeated;
            }
            // That it is gone is seen at the next listing.
            if !error.is_not_found() {
                self.faults.note(error.fault(), &segment.path, &error);
            }
            RereadError::First(error)
        })
    }

    /// Inserts a new segment, or counts what is wrong with it and leaves the file alone. Returns whether
    /// it exists.
    pub(super) fn open_new(
        &self,
        dir: &dyn Directory,
        scan: &mut Scan,
        name: &str,
        leaving: &HashSet<u32>,
    ) -> bool {
        match self.load_segment(dir, scan, name) {
            Ok((segment, footer)) => self.insert_segment(scan, segment, &footer, leaving),
            Err(error) if error.is_not_found() => return false,
            Err(error) => self.skip(dir, scan, name, &error),
        }
        true
    }
}
