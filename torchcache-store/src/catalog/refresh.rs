//! Keeps the catalog in step with the directory: segments that other processes published or removed,
//! and rows that are shadowed no longer.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::live_segment::LiveSegment;
use super::{Catalog, Scan};
use crate::fs::Directory;
use crate::key::Key;
use crate::segment::{Footer, SegmentError, segment_names};

/// How often misses check at most whether the directory changed.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The time of a directory is from a coarse clock: a change so soon after a listing may carry the
/// same time.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// Why the footer of a live segment could not be read again.
enum RereadError {
    First(SegmentError),
    /// As at the last attempt, which was counted.
    Repeated,
}

impl Catalog {
    /// Brings the catalog up to date.
    pub(crate) fn refresh(&self) {
        self.rescan(&mut self.scan());
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
        self.rescan(&mut scan);
        true
    }

    fn dir_time(&self) -> Option<SystemTime> {
        let metadata = self.open_dir().and_then(|dir| dir.metadata());
        Some(metadata.ok()?.modified)
    }

    fn rescan(&self, scan: &mut Scan) {
        if let Err(error) = self.try_rescan(scan) {
            self.note_unlisted(&error);
        }
    }

    fn try_rescan(&self, scan: &mut Scan) -> io::Result<()> {
        let is_settled = |time: &SystemTime| time.elapsed().is_ok_and(|age| age > CLOCK_STEP);
        // A missing directory has no segments.
        let dir = match self.open_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            dir => Some(dir?),
        };
        let (time, mut listed) = match &dir {
            Some(dir) => (dir.metadata()?.modified, segment_names(&**dir)?),
            None => (UNIX_EPOCH, Vec::new()),
        };
        scan.seen = dir.is_some().then_some(time).filter(is_settled);
        listed.sort(); // by age, so that every process prefers the same of two copies

        let present: HashSet<&String> = listed.iter().collect();
        scan.skipped.retain(|name, _| present.contains(name));
        let known = scan.names.iter();
        let gone: HashSet<u32> = known
            .filter(|(name, _)| !present.contains(name))
            .map(|(_, id)| *id)
            .collect();
        let is_new =
            |name: &&String| !scan.names.contains_key(*name) && !scan.skipped.contains_key(*name);
        let new: Vec<&String> = listed.iter().filter(is_new).collect();
        match &dir {
            Some(dir) if scan.names.is_empty() => self.load(&**dir, scan, &new),
            Some(dir) => new
                .into_iter()
                .for_each(|name| self.open_new(&**dir, scan, name, &gone)),
            None => {}
        }
        self.detach(scan, &gone);
        Ok(())
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
            if !segment.has_lost_shadow(&live) {
                continue;
            }
            match self.reread_footer(&segment) {
                Ok(footer) => {
                    segment.unshadow(&live);
                    self.index_rows(&segment, footer.rows(), &HashSet::new());
                }
                // It may pass: the next miss lists the directory again, and so does any later change.
                Err(RereadError::First(SegmentError::Io(_))) => {
                    (scan.retry_unshadow, scan.seen) = (true, None);
                }
                Err(RereadError::Repeated) => scan.retry_unshadow = true,
                Err(RereadError::First(_)) => segment.unshadow(&live),
            }
        }
    }

    /// Finds rows whose records in a segment are corrupt in the segments that have them as well.
    pub(crate) fn unshadow_rows(&self, corrupt: &LiveSegment, keys: &HashSet<Key>) {
        let mut others = self.live_segments();
        others.retain(|other| other.is_shadowed_by(corrupt.id));
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

    /// Inserts a new segment, or counts what is wrong with it and leaves the file alone.
    fn open_new(&self, dir: &dyn Directory, scan: &mut Scan, name: &str, leaving: &HashSet<u32>) {
        match self.load_segment(dir, name) {
            Ok((segment, footer)) => self.insert_segment(scan, segment, &footer, leaving),
            Err(error) => self.skip(dir, scan, name, &error),
        }
    }
}
