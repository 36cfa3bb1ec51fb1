//! The face of the crate: a handle on the one store that a process has for a directory.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crate::batch::RowBatch;
use crate::catalog::located::Found;
use crate::catalog::{Catalog, directory};
use crate::config::Config;
use crate::engine::handle::Handle;
use crate::engine::write_queue::Stalled;
use crate::engine::{Inner, pace, read};
use crate::error::StoreError;
use crate::fault::{Fault, FaultCounts};
use crate::fs::{FileSystem, Os};
use crate::key::Key;
use crate::process::{registry, shutdown};
use crate::segment::rows_within;

/// Rows of one directory, shared by everyone in this process who opens it.
///
/// Cloning is cheap and gives the same store. Dropping the last clone writes what is
/// queued. The end of the process does so too, for stores in statics as well.
#[derive(Clone, Debug)]
pub struct Store(Arc<Handle>);

/// What a store holds and what happened to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Rows on disk that this store can find.
    pub rows: u64,
    /// Bytes of the segment files that this store reads from, whoever wrote them.
    pub bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Rows that are queued.
    pub pending_rows: u64,
    /// Memory that queued rows take.
    pub pending_bytes: u64,
    /// Rows that this process wrote.
    pub stored_rows: u64,
    /// Rows that this process evicted.
    pub evicted_rows: u64,
    /// Rows that were not kept: a batch exceeded the size limit by itself, or what was there had
    /// to stay.
    pub refused_rows: u64,
    /// Rows that were given up since writing failed.
    pub lost_rows: u64,
    /// Small segments that this process merged into larger ones.
    pub merged_segments: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
}

impl Store {
    /// Opens the store of a directory, which is made if need be. If this process has the
    /// directory open already, the same store is returned and takes the new `config`.
    ///
    /// Files that are not segments are ignored. Segments that cannot be read are counted as
    /// faults and left alone. A directory that cannot be written to, but holds segments, is read
    /// from: that is a fault, not an error.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if the directory cannot be made, is not to be trusted, or can
    /// neither be written to nor holds anything. It is not to be trusted if everybody may write to
    /// it, if it belongs to another user and is not shared by way of a group, or if there is a
    /// symbolic link in its place (there may be some on the way to it).
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Store, StoreError> {
        let dir = dir.as_ref();
        let unwritable = directory::usable(&Os, dir)?;
        let path = directory::resolved(dir).map_err(|reason| directory::refused(dir, reason))?;
        shutdown::arm();
        let start = |path| Handle::start(Arc::new(Os), path, &config);
        let store = Store(registry::shared(path, start));
        store.note_unwritable(unwritable);
        store.reconfigure(config);
        Ok(store)
    }

    /// The same on another file system, on which two stores of one directory are as strange to
    /// each other as those of two processes. The end of the process does not wait for it: drop it,
    /// or flush it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use torchcache_store::{Config, Store, fs::Os};
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open_on(Arc::new(Os), dir.path(), Config::default())?;
    /// assert_eq!(store.stats().rows, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        fs: Arc<dyn FileSystem>,
        dir: impl AsRef<Path>,
        config: Config,
    ) -> Result<Store, StoreError> {
        let dir = dir.as_ref();
        let unwritable = directory::usable(&*fs, dir)?;
        let store = Store(Handle::start(fs, dir.to_owned(), &config));
        store.note_unwritable(unwritable);
        Ok(store)
    }

    fn note_unwritable(&self, error: Option<io::Error>) {
        if let Some(error) = error {
            let reason = format_args!("cannot be written to, only read: {error}");
            let Catalog { faults, dir, .. } = &self.inner().catalog;
            faults.note(Fault::of_write(&error), dir, reason);
        }
    }

    /// The directory, with symbolic links resolved.
    pub fn dir(&self) -> &Path {
        &self.inner().catalog.dir
    }

    /// The present configuration.
    pub fn config(&self) -> Config {
        (*self.inner().config()).clone()
    }

    /// Takes a new configuration, for everyone who shares the store. A lower size limit is
    /// met soon, in the background.
    pub fn reconfigure(&self, config: Config) {
        if *self.inner().config() == config {
            return;
        }
        let is_lower = {
            let present = &self.inner().config;
            let mut present = present.write().unwrap_or_else(PoisonError::into_inner);
            let is_lower = config.max_bytes < present.max_bytes;
            *present = Arc::new(config);
            is_lower
        };
        self.inner().queue.nudge();
        if is_lower {
            self.0.keep_within_limit();
        }
    }

    /// Finds rows: one slot for each key. Queued rows are found as well.
    pub fn locate(&self, keys: &[Key]) -> Vec<Option<Found>> {
        let mut slots = vec![None; keys.len()];
        let Inner { queue, catalog, .. } = self.inner();
        // The queue first: a row is in the index before it leaves the queue.
        queue.locate(keys, &mut slots);
        // A disk that does not answer is not asked what others wrote.
        let is_stalled = || queue.is_stalled(self.inner().config().patience);
        let may_look = || self.inner().is_forked() || !is_stalled();
        if catalog.locate(keys, &mut slots) && may_look() && catalog.refresh_after_miss() {
            catalog.locate(keys, &mut slots);
        }
        slots
    }

    /// Reads located rows, each into a destination of exactly `found.len` bytes. `false`
    /// means that a fault made the row a miss; its destination then holds anything.
    ///
    /// Rows of one file are read in its order, adjacent ones with one system call. Where there is
    /// much to read, or to decompress, the cores share it, on threads of this crate's own that run
    /// nothing else.
    ///
    /// # Panics
    /// If there are not as many destinations as rows, or one has another length.
    pub fn read(&self, found: &[Found], out: &mut [&mut [u8]]) -> Vec<bool> {
        assert_eq!(
            found.len(),
            out.len(),
            "as many destinations as rows are needed"
        );
        for (found, out) in found.iter().zip(&*out) {
            assert_eq!(
                found.len,
                out.len(),
                "a destination must be as long as its row"
            );
        }
        let again = |found: &Found| self.locate(&[*found.key()]).pop().flatten();
        read::read(
            &self.inner().catalog,
            again,
            found,
            out,
            self.inner().config().mmap,
        )
    }

    /// Hands rows to the writer; waits only while the queue is full, and no longer than
    /// [`Config::patience`] for a disk that does nothing: then the rows are given up, which is
    /// counted. Of a batch larger than the whole bound, the first rows that fit are taken.
    ///
    /// Rows that are present or queued already are skipped: the first one wins. Their positions in
    /// the batch are returned, so that the caller can go by the values that are there.
    ///
    /// Waiting for room is waiting for queued batches to be dropped: the caller must not hold a
    /// lock that dropping the values of one of them needs.
    pub fn put(&self, mut rows: RowBatch) -> Vec<usize> {
        let inner = self.inner();
        let config = inner.config();
        let most = rows_within(config.max_bytes, rows.row_len(), rows.schema().len());
        if let Some(refused) = rows.rows().checked_sub(most).filter(|&refused| refused > 0) {
            inner.refuse(refused, &config);
            rows.truncate(most);
        }
        if rows.rows() == 0 {
            return Vec::new();
        }
        if !self.0.ensure_writer() {
            inner.lose(rows.rows());
            return Vec::new();
        }
        let count = rows.rows();
        let on_disk = |keys: &[Key]| inner.catalog.contains(keys);
        match inner.queue.put(rows, on_disk, pace(&config)) {
            Ok(present) => present,
            Err(Stalled) => {
                inner.note_stall("rows find no room in the queue, and are given up");
                inner.lose(count);
                Vec::new()
            }
        }
    }

    /// Waits until everything queued before is on disk, with the eviction and the merging
    /// that came of it; but no longer than [`Config::patience`] for a disk that does nothing.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if rows could not be written since the last flush,
    /// [`StoreError::Stalled`] if they still wait, and [`StoreError::Forked`] at once if they wait
    /// in another process.
    pub fn flush(&self) -> Result<(), StoreError> {
        if self.inner().is_forked() {
            let (rows, _) = self.inner().queue.pending();
            if rows > 0 {
                return Err(StoreError::Forked { rows });
            }
        } else if !self.inner().flush_queue() {
            let (rows, _) = self.inner().queue.pending();
            let patience = self.inner().config().patience;
            return Err(StoreError::Stalled { rows, patience });
        }
        match self.inner().counters.lost_untold.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            rows => Err(StoreError::Lost { rows }),
        }
    }

    /// Drops every row of the directory, queued ones too.
    pub fn clear(&self) {
        drop(self.inner().catalog.clear(|| self.inner().queue.drop_all()));
    }

    /// Looks for what other processes changed. A miss does so by itself, now and then.
    pub fn refresh(&self) {
        self.inner().catalog.refresh();
    }

    /// What the store holds and what happened to it.
    pub fn stats(&self) -> StoreStats {
        let Inner {
            catalog,
            queue,
            counters,
            ..
        } = self.inner();
        let tracked = catalog.tracked();
        let (pending_rows, pending_bytes) = queue.pending();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            rows: tracked.iter().map(|segment| count(&segment.indexed)).sum(),
            bytes: tracked.iter().map(|segment| segment.bytes).sum(),
            segments: tracked.len() as u64,
            pending_rows,
            pending_bytes,
            stored_rows: count(&counters.stored_rows),
            evicted_rows: count(&counters.evicted_rows),
            refused_rows: count(&counters.refused_rows),
            lost_rows: count(&counters.lost_rows),
            merged_segments: count(&counters.merged_segments),
            faults: catalog.faults.counts(),
        }
    }

    fn inner(&self) -> &Inner {
        &self.0.inner
    }
}
