//! The files of segments: giving finished ones their names, and removing those that are not needed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::live_segment::LiveSegment;
use super::located::{Located, RowsOnDisk};
use super::{Catalog, Scan, Unremovable, UnsyncedResult};
use crate::clock;
use crate::fault::Fault;
use crate::fs::temp_file::{is_replacement, remove_stale};
use crate::fs::{Directory, DirectoryId, remove_if_present};
use crate::key::Key;
use crate::progress;
use crate::segment::{FinishedSegment, PublishedSegment, is_foreign, visit_with_replacements};
use crate::sync::MutexGuard;

/// How often rows are looked for, at most, while other processes remove their segments.
const MAX_LOOKS: usize = 4;

impl Catalog {
    /// Publishes a finished segment in place of its `sources`, and inserts it. `is_wanted` is asked
    /// under the lock that `clear` holds, so that cleared rows do not come back. Returns whether the
    /// segment is in use; otherwise its file is removed. One without rows only removes its sources.
    ///
    /// After an error, it may have its name all the same, and keeps it: other processes may have skipped rows over it,
    /// which a flush of theirs makes durable. Its sources stay until [`finish_replacement`](Self::finish_replacement).
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
        let leaving: HashSet<u32> = sources.iter().map(|source| source.id).collect();
        if finished.footer().row_count() == 0 {
            drop(finished);
            self.detach(&mut scan, &leaving);
            self.delete(&mut scan, sources);
            return Ok(true);
        }
        let bytes = finished.bytes();
        // A compacted segment carries the time of its rows. New rows were read now: the time of the
        // file is from a coarse clock, and may be before reads that came earlier.
        let read = match sources {
            [] => clock::now(),
            _ => clock::past_or_now(finished.file().metadata()?.modified),
        };
        let dir = finished.dir().clone();
        let published = match sources {
            [] => Some(finished.publish_named()?),
            _ => finished.publish_replacing(sources.iter().map(|source| source.name()))?,
        };
        let Some(published) = published else {
            return Ok(false);
        };
        let PublishedSegment { path, footer, lock } = published;
        if let Err(error) = self.sync_names(&*dir) {
            self.rescan(&mut scan, true);
            if !sources.is_empty() {
                let name = path.file_name().unwrap_or_default();
                scan.unsynced_result = Some(UnsyncedResult {
                    name: name.to_string_lossy().into_owned(),
                    sources: sources.iter().map(|it| it.name().to_owned()).collect(),
                    _lock: lock,
                });
            }
            return Err(error);
        }
        let segment = LiveSegment::new(path, bytes, read, &footer);
        segment.is_synced.store(true, Ordering::Relaxed);
        segment.note_lock(false); // its sources are removed below
        self.insert_segment(&mut scan, segment, &footer, &leaving);
        // Rows that the sources shadowed are now shadowed by the new segment, or become visible if it
        // left them out as corrupt.
        self.detach(&mut scan, &leaving);
        // Still under the lock, or a refresh would insert the old files again.
        self.delete(&mut scan, sources);
        drop(lock); // until now, other processes count the sources only
        Ok(true)
    }

    /// Syncs the name of a segment where that failed before, and removes the segments that it replaces. Returns how
    /// many these are.
    pub(crate) fn finish_replacement(&self) -> io::Result<u64> {
        let mut scan = self.scan();
        if scan.unsynced_result.is_none() {
            return Ok(0);
        }
        self.open_synced()?;
        self.try_rescan(&mut scan, true)?;
        let live = self.live_segments();
        let result = scan.unsynced_result.take().and_then(|unsynced| {
            let result = live.iter().find(|it| it.name() == unsynced.name)?;
            Some((result, unsynced))
        });
        // Otherwise another process removed it. If it cannot be read, the sources are needed.
        let Some((result, unsynced)) = result else {
            return Ok(0);
        };
        let mut sources = live.clone();
        sources.retain(|it| unsynced.sources.contains(it.name()));
        self.detach(&mut scan, &sources.iter().map(|it| it.id).collect());
        self.delete(&mut scan, &sources);
        result.is_synced.store(true, Ordering::Relaxed);
        result.note_lock(false);
        Ok(sources.len() as u64)
    }

    /// Those of the keys that are on disk now, also where other processes remove segments. Waits no longer than
    /// this for a thread that changes the set of segments.
    pub(crate) fn rows_on_disk(&self, keys: &[Key], timeout: Duration) -> RowsOnDisk {
        let mut rows = self.present(keys);
        for _ in 0..MAX_LOOKS {
            match self.exist(&rows) {
                Ok(true) => return RowsOnDisk { rows, exist: true },
                Ok(false) if self.refresh_within(timeout) => rows = self.present(keys),
                _ => break,
            }
        }
        RowsOnDisk { rows, exist: false }
    }

    /// The same without a look at the disk.
    pub(crate) fn known_rows(&self, keys: &[Key]) -> RowsOnDisk {
        let (rows, exist) = (self.present(keys), false);
        RowsOnDisk { rows, exist }
    }

    /// Whether the segments of rows exist.
    fn exist(&self, rows: &[(usize, Located)]) -> io::Result<bool> {
        let segments = distinct_segments(rows.iter().map(|(_, row)| row));
        if segments.is_empty() {
            return Ok(true);
        }
        let exist = self.open_dir().and_then(|dir| {
            segments
                .iter()
                .try_for_each(|segment| dir.stat(segment.name().as_ref()).map(drop))
        });
        match exist {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            exist => exist.map(|()| true),
        }
    }

    /// Makes rows durable that were skipped, each with whether its segment was seen then. Returns the positions of
    /// those that are lost: it is not known whether their segment exists, or whether it did when they were skipped.
    /// Rows that were removed after that are not lost.
    pub(crate) fn confirm(&self, rows: &[(&Located, bool)]) -> io::Result<Vec<usize>> {
        let mut lost = Vec::new();
        let rows_to_sync = rows.iter().map(|(row, _)| (*row).clone());
        let mut to_sync: Vec<(usize, Located)> = rows_to_sync.enumerate().collect();
        for _ in 0..MAX_LOOKS {
            let SyncedSegments { gone, unknown } = self.sync_segments(&to_sync)?;
            let is_in = |segments: &HashSet<u32>, row: &Located| {
                row.segment().is_some_and(|it| segments.contains(&it.id))
            };
            let is_unknown = |(_, row): &&(usize, Located)| is_in(&unknown, row);
            lost.extend(to_sync.iter().filter(is_unknown).map(|(at, _)| *at));
            to_sync.retain(|(_, row)| is_in(&gone, row));
            if to_sync.is_empty() {
                return Ok(lost);
            }
            // Another process may have compacted them, into a segment that is synced next.
            self.refresh();
            to_sync.retain_mut(|(at, row)| {
                let now = self.present(&[*row.key()]).pop();
                let is_present = now.is_some();
                if let Some((_, now)) = now {
                    *row = now;
                } else if !rows[*at].1 {
                    lost.push(*at);
                }
                is_present
            });
        }
        lost.extend(to_sync.iter().map(|(at, _)| *at));
        Ok(lost)
    }

    /// Those of the keys that segments with later names than this one have, which are made durable. Of two segments, only
    /// the earlier one loses rows to the other, whichever process decides that.
    pub(crate) fn in_later_segments(
        &self,
        segment: &LiveSegment,
        keys: &[Key],
    ) -> io::Result<HashSet<Key>> {
        let mut rows = self.present(keys);
        rows.retain(|(_, row)| row.segment().is_some_and(|it| it.name() > segment.name()));
        let SyncedSegments { gone, unknown } = self.sync_segments(&rows)?;
        let is_durable = |id| !gone.contains(&id) && !unknown.contains(&id);
        rows.retain(|(_, row)| row.segment().is_some_and(|it| is_durable(it.id)));
        Ok(rows.into_iter().map(|(at, _)| keys[at]).collect())
    }

    /// Makes the segments of rows and their names durable, and finds those that do not exist. Starts again where another
    /// directory takes the place of theirs.
    fn sync_segments(&self, rows: &[(usize, Located)]) -> io::Result<SyncedSegments> {
        let segments = distinct_segments(rows.iter().map(|(_, row)| row));
        let mut synced = SyncedSegments::default();
        if segments.is_empty() {
            return Ok(synced);
        }
        let Some(dir) = self.open_synced()? else {
            synced.gone.extend(segments.iter().map(|it| it.id));
            return Ok(synced);
        };
        for segment in segments {
            progress::note();
            let name = segment.name().as_ref();
            // A process syncs what it publishes, but a program that copies segments may not.
            let sync = |_| dir.open(name)?.sync();
            match dir.stat(name).and_then(sync) {
                Ok(()) => segment.is_synced.store(true, Ordering::Relaxed),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    synced.gone.insert(segment.id);
                }
                Err(error) => {
                    let fault = Fault::from_write_error(&error);
                    self.faults.note(fault, &segment.path, &error);
                    synced.unknown.insert(segment.id);
                }
            }
        }
        Ok(synced)
    }

    /// Opens the directory and syncs its names; `None` if it does not exist.
    fn open_synced(&self) -> io::Result<Option<Arc<dyn Directory>>> {
        let mut looks = 0..MAX_LOOKS;
        loop {
            looks.next();
            let dir = match self.open_dir() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                dir => dir?,
            };
            match self.sync_names(&*dir) {
                // Removed or replaced in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !looks.is_empty() => {}
                synced => return synced.map(|()| Some(dir)),
            }
        }
    }

    /// Makes the names in the directory durable, and its own unless it is known to be: another process may have made
    /// the directory, also in place of one that was removed, and not have synced it. Fails where another directory
    /// has the path by now: no process would find these names.
    fn sync_names(&self, dir: &dyn Directory) -> io::Result<()> {
        dir.sync()?;
        progress::note();
        let id = dir.id()?;
        if self.open_dir()?.id()? != id {
            let what = "another directory took its place while rows were written to it; they are computed again";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        if *self.anchored() != Some(id) {
            self.fs.sync_parents(&self.dir)?;
            *self.anchored() = Some(id);
        }
        Ok(())
    }

    fn anchored(&self) -> MutexGuard<'_, Option<DirectoryId>> {
        self.anchored.lock().unwrap_or_else(PoisonError::into_inner)
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
        scan.unsynced_result = None;
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

    /// Removes every segment, those included that another process publishes meanwhile, and the files that hold copies
    /// of their rows.
    fn remove_all(&self, dir: &dyn Directory, unremovable: &mut Unremovable) -> io::Result<()> {
        let remove = |names: Vec<String>| {
            for name in &names {
                match is_foreign(dir, name) {
                    Ok(false) => drop(self.remove(dir, unremovable, name)),
                    Ok(true) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // It may be of another program, and have cleared rows as well.
                    Err(error) => {
                        let reason =
                            format_args!("it is not cleared, since it cannot be read: {error}");
                        self.faults.note(Fault::Read, &self.dir.join(name), reason);
                    }
                }
            }
        };
        visit_with_replacements(dir, remove).map(drop)
    }

    /// Removes the files that other processes are about to replace segments by, so that none of them brings rows back
    /// that were removed from their sources, and syncs the directory. Returns whether every segment is among `clean`, or
    /// has no rows that can be read.
    pub(crate) fn remove_replacements(&self, clean: &HashSet<u32>) -> io::Result<bool> {
        let scan = self.scan();
        let dir = match self.open_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            dir => dir?,
        };
        let (mut are_clean, mut removed) = (true, Ok(()));
        visit_with_replacements(&*dir, |names| {
            for file in names {
                progress::note();
                if !is_replacement(&file) {
                    are_clean &= match scan.names.get(&file) {
                        Some(id) => clean.contains(id),
                        None => scan
                            .skipped
                            .get(&file)
                            .is_some_and(|it| !it.may_have_rows()),
                    };
                } else if let Err(error) = remove_if_present(&*dir, &file) {
                    removed = Err(error);
                }
            }
        })?;
        removed?;
        dir.sync()?;
        Ok(are_clean)
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

/// The segments of rows after the names of their directory were synced.
#[derive(Default)]
struct SyncedSegments {
    /// They do not exist.
    gone: HashSet<u32>,
    /// It is not known whether they exist.
    unknown: HashSet<u32>,
}

/// The segments of those rows that are on disk.
fn distinct_segments<'r>(rows: impl Iterator<Item = &'r Located>) -> Vec<&'r Arc<LiveSegment>> {
    let segments = rows.filter_map(Located::segment);
    let segments: HashMap<u32, _> = segments.map(|it| (it.id, it)).collect();
    segments.into_values().collect()
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
