//! The files of segments: giving finished ones their names, and removing those that are not needed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::live_segment::LiveSegment;
use super::located::Located;
use super::{Catalog, Scan, Unremovable};
use crate::clock;
use crate::fault::Fault;
use crate::fs::temp_file::remove_stale;
use crate::fs::{Directory, remove_if_present};
use crate::key::Key;
use crate::progress;
use crate::segment::{FinishedSegment, is_foreign, rely_on, visit_segments};

impl Catalog {
    /// Publishes a finished segment in place of its `sources`, and inserts it. `is_wanted` is asked
    /// under the lock that `clear` holds, so that cleared rows do not come back. Returns whether the
    /// segment is in use; otherwise its file is removed.
    pub(crate) fn publish(
        &self,
        finished: FinishedSegment,
        sources: &[Arc<LiveSegment>],
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<bool> {
        let mut scan = self.scan();
        if !is_wanted() {
            return Ok(false);
        }
        let bytes = finished.bytes();
        // A compacted segment carries the time of its rows. New rows were read now: the time of the
        // file is from a coarse clock, and may be before reads that came earlier.
        let read = match sources {
            [] => clock::now(),
            _ => clock::past_or_now(finished.file().metadata()?.modified),
        };
        let names = sources.iter().map(|source| source.name());
        let Some((path, footer)) = finished.publish_replacing(names)? else {
            return Ok(false);
        };
        let leaving: HashSet<u32> = sources.iter().map(|source| source.id).collect();
        let mut segment = LiveSegment::new(path, bytes, read, &footer);
        segment.is_own = true;
        segment.is_synced.store(true, Ordering::Relaxed);
        self.insert_segment(&mut scan, segment, &footer, &leaving);
        // Rows that the sources shadowed are now shadowed by the new segment, or become visible if it
        // left them out as corrupt.
        self.detach(&mut scan, &leaving);
        // Still under the lock, or a refresh would insert the old files again.
        self.delete(&mut scan, sources);
        Ok(true)
    }

    /// Makes rows durable that other processes wrote: their segments may not be synced yet, and are removed
    /// if that fails. Returns how many of the rows are gone.
    pub(crate) fn confirm(&self, rows: &[Located]) -> io::Result<usize> {
        let segments = rows.iter().filter_map(Located::unsynced);
        let segments: HashMap<u32, _> = segments.map(|it| (it.id, it.clone())).collect();
        match self.open_dir() {
            // Removed with all rows.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            dir => {
                let dir = dir?;
                for segment in segments.values() {
                    match rely_on(&*dir, segment.name()) {
                        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                        _ => {} // one that is gone does not exist below
                    }
                }
                dir.sync()?;
                for segment in segments.values() {
                    let exists = dir.stat(segment.name().as_ref()).is_ok();
                    segment.is_synced.store(exists, Ordering::Relaxed);
                }
            }
        }
        let gone = rows.iter().filter(|row| row.unsynced().is_some());
        let gone: Vec<Key> = gone.map(|row| *row.key()).collect();
        if gone.is_empty() {
            return Ok(0);
        }
        self.refresh(); // another process may have compacted them
        Ok(gone.len() - self.present(&gone).len())
    }

    /// Removes the files of detached segments. Those that cannot be removed are inserted again.
    fn delete(&self, scan: &mut Scan, segments: &[Arc<LiveSegment>]) {
        let dir = match self.open_dir() {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let each =
                    |segment: &Arc<LiveSegment>| self.note_not_removed(segment.name(), &error);
                return segments.iter().for_each(each);
            }
        };
        for segment in segments {
            if !self.remove_segment(&*dir, &mut scan.unremovable, segment) {
                self.open_new(&*dir, scan, segment.name(), &HashSet::new());
            }
        }
    }

    /// Removes the file of a segment. Returns whether it is gone.
    pub(crate) fn remove_segment(
        &self,
        dir: &dyn Directory,
        unremovable: &mut Unremovable,
        segment: &LiveSegment,
    ) -> bool {
        segment.is_deleted.store(true, Ordering::Relaxed);
        let is_gone = self.remove(dir, unremovable, segment.name());
        segment.is_deleted.store(is_gone, Ordering::Relaxed);
        is_gone
    }

    /// Removes a file of the directory. Returns whether it is gone. If it cannot be removed, that is counted
    /// once.
    pub(crate) fn remove(
        &self,
        dir: &dyn Directory,
        unremovable: &mut Unremovable,
        name: &str,
    ) -> bool {
        progress::note();
        let Err(error) = remove_if_present(dir, name) else {
            return true;
        };
        if unremovable.insert(name.to_owned(), error.kind()).is_none() {
            self.note_not_removed(name, &error);
        }
        false
    }

    fn note_not_removed(&self, name: &str, error: &io::Error) {
        let reason = format_args!("cannot remove it: {error}");
        self.faults.note(Fault::Write, &self.dir.join(name), reason);
    }

    /// Clears the queue by `clear_queue`, removes every segment, and returns what `clear_queue`
    /// returned.
    pub(crate) fn clear<T>(&self, clear_queue: impl FnOnce() -> T) -> T {
        let mut scan = self.scan();
        let cleared = clear_queue();
        let all = self.live_segments();
        self.take_out(&mut scan, &all.iter().map(|segment| segment.id).collect());
        scan.unremovable.clear(); // what stays is counted
        self.delete(&mut scan, &all);
        self.sweep();
        scan.skipped.clear();
        scan.seen = None;
        // Without the sync, a power loss could bring cleared rows back.
        let mut clear = |dir: &dyn Directory| {
            let (removed, synced) = (self.remove_all(dir, &mut scan.unremovable), dir.sync());
            removed.and(synced)
        };
        match self.open_dir().and_then(|dir| clear(&*dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let reason = format_args!("cannot clear it: {error}");
                self.faults
                    .note(Fault::from_write_error(&error), &self.dir, reason);
            }
            _ => {}
        }
        cleared
    }

    /// Removes every segment, those included that another process publishes meanwhile.
    fn remove_all(&self, dir: &dyn Directory, unremovable: &mut Unremovable) -> io::Result<()> {
        // One that cannot be opened is removed: only files of other programs stay.
        let is_ours = |name: &&String| !is_foreign(dir, name).unwrap_or(false);
        let remove = |names: Vec<String>| {
            for name in names.iter().filter(is_ours) {
                self.remove(dir, unremovable, name);
            }
        };
        visit_segments(dir, remove).map(drop)
    }

    /// Removes the temporary files of processes that are dead.
    pub(crate) fn remove_stale_temp_files(&self) {
        let failed = |name: &str, error: io::Error| {
            self.note_not_removed(name, &error);
            Ok(())
        };
        let removed = self.open_dir().and_then(|dir| remove_stale(&*dir, failed));
        if let Err(error) = removed {
            self.note_unlisted(&error);
        }
    }

    /// Counts that the directory cannot be listed.
    pub(super) fn note_unlisted(&self, error: &io::Error) {
        let reason = format_args!("cannot list it: {error}");
        self.faults.note(Fault::Read, &self.dir, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Os;
    use crate::segment::{Encoding, SegmentWriter};

    #[test]
    fn rows_of_removed_segments_leave_the_index() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let catalog = Catalog::new(Arc::new(Os), dir.path().to_owned());
        for rows in [0..2000u64, 2000..2100] {
            let mut writer = SegmentWriter::create(dir.path()).expect("it can be made");
            for n in rows {
                let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
                let schema = b"".as_slice().into();
                let pushed = writer.push(&key, &schema, 0, Encoding::Raw, b"");
                pushed.expect("it is written");
            }
            let finished = writer.finish().expect("it is written");
            let published = catalog.publish(finished, &[], || true);
            assert!(published.expect("it is published"));
        }
        assert_eq!(catalog.live().index.len(), 2100);
        let segments = catalog.live_segments();
        let large = segments.iter().filter(|segment| segment.rows == 2000);
        let ids = large.map(|segment| segment.id).collect();
        catalog.detach(&mut catalog.scan(), &ids);
        assert_eq!(catalog.live().index.len(), 100);
        catalog.clear(|| ());
        assert_eq!(catalog.live().index.len(), 0);
    }
}
