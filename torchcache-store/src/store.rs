//! The public handle: the one store that a process has for a directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::{Losses, RowBatch};
use crate::catalog::directory;
use crate::catalog::located::Located;
use crate::config::Config;
use crate::engine::handle::Handle;
use crate::engine::root::{RootClaim, SharedRoot};
use crate::engine::write_queue::Stalled;
use crate::engine::{Engine, read};
use crate::error::{FlushError, RemoveError, StoreError};
use crate::fault::{Fault, FaultCounts};
#[cfg(feature = "unstable")]
use crate::fs::FileSystem;
use crate::fs::{Os, private_dirs};
use crate::key::Key;
use crate::process::{registry, shutdown};
use crate::progress::is_flusher_thread;
use crate::segment::rows_within;

/// The rows of one directory. All stores of a process with the same directory share them.
///
/// Cloning is cheap and returns the same store. Dropping the last clone writes what is queued, and so
/// does the end of the process (by `exit` or by returning from `main`) for stores in statics.
#[derive(Clone, Debug)]
pub struct Store {
    handle: Arc<Handle>,
    opened: Arc<Opened>,
}

/// What clones share, and others that are opened have of their own.
#[derive(Debug)]
struct Opened {
    /// Rows that were lost since `flush` last reported any.
    losses: Arc<Losses>,
    /// The bound that it puts on the directory above.
    root_claim: Mutex<Option<RootClaim>>,
}

/// What a store has, and what happened to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Rows on disk that this store can locate.
    pub rows: u64,
    /// Bytes of the segment files that this store reads from, whichever process wrote them.
    pub bytes: u64,
    /// How many segment files that are.
    pub segments: u64,
    /// Rows that are queued.
    pub pending_rows: u64,
    /// Memory that queued rows take.
    pub pending_bytes: u64,
    /// Rows that this process wrote.
    pub stored_rows: u64,
    /// Rows that this process evicted.
    pub evicted_rows: u64,
    /// Rows that were not kept because a batch exceeds the bound by itself, or because the directory
    /// is full and nothing is evicted.
    pub refused_rows: u64,
    /// Rows that could not be written.
    pub lost_rows: u64,
    /// Small segments that this process joined into larger ones.
    pub compacted_segments: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
}

impl Store {
    /// Opens the store of a directory, which is made if it does not exist. If this process has the
    /// directory open already, returns the same store and gives it the new `config`.
    ///
    /// Files that are not segments are ignored. Segments that cannot be read are counted as faults
    /// and left alone. A directory that cannot be written to, but has segments, is only read from:
    /// that is a fault and not an error.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if the directory cannot be made, if it can neither be written to nor
    /// has segments, or if its permissions are rejected: all users may write to it, it belongs to
    /// another user and is not shared through a group, or it is a symbolic link (links on the way to
    /// it are followed).
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Store, StoreError> {
        let dir = dir.as_ref();
        let write_error = directory::probe(&Os, dir)?;
        let path = directory::resolve(dir)?;
        shutdown::register_exit_hook();
        let open = |path: PathBuf| {
            let root = SharedRoot::shared(Arc::new(Os), &path);
            Handle::open(Arc::new(Os), path, root, &config)
        };
        let handle = registry::shared(path, open);
        if let Some(private) = private_dirs::around(&handle.engine.catalog.dir) {
            // It was removed in between.
            drop(handle.engine.queue.end());
            shutdown::remove(&private);
            let (path, source) = (dir.to_owned(), private_dirs::error());
            return Err(StoreError::Directory { path, source });
        }
        let store = Store::new(handle, &config);
        store.note_unwritable(write_error);
        store.reconfigure(config);
        Ok(store)
    }

    /// Opens a directory of another file system. Each call returns a store of its own; two of one
    /// directory work like those of two processes. The end of the process does not wait for such a
    /// store: drop or flush it.
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
    #[cfg(feature = "unstable")]
    pub fn open_on(
        fs: Arc<dyn FileSystem>,
        dir: impl AsRef<Path>,
        config: Config,
    ) -> Result<Store, StoreError> {
        let dir = dir.as_ref();
        let write_error = directory::probe(&*fs, dir)?;
        let root = SharedRoot::above(fs.clone(), dir);
        let store = Store::new(Handle::open(fs, dir.to_owned(), root, &config), &config);
        store.note_unwritable(write_error);
        Ok(store)
    }

    fn new(handle: Arc<Handle>, config: &Config) -> Store {
        let store = Store {
            handle,
            opened: Arc::new(Opened {
                losses: Arc::default(),
                root_claim: Mutex::default(),
            }),
        };
        store.claim_root(config);
        store
    }

    /// Bounds the directory above as `config` says.
    fn claim_root(&self, config: &Config) {
        let root = self.engine().root.as_ref().zip(config.max_root_bytes);
        let claim = root.map(|(root, bytes)| RootClaim::new(root, bytes));
        let present = self.opened.root_claim.lock();
        // The new one first: the root is not without a bound in between.
        *present.unwrap_or_else(PoisonError::into_inner) = claim;
    }

    fn note_unwritable(&self, error: Option<io::Error>) {
        if let Some(error) = error {
            let reason = format_args!("it can only be read, not written to: {error}");
            self.engine().note(Fault::from_write_error(&error), reason);
        }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.handle.engine
    }

    /// The directory, with symbolic links resolved.
    pub fn dir(&self) -> &Path {
        &self.engine().catalog.dir
    }

    /// The present configuration.
    pub fn config(&self) -> Config {
        (*self.engine().config()).clone()
    }

    /// Replaces the configuration, for all users of the store. A lower size bound is enforced soon, in
    /// the background.
    pub fn reconfigure(&self, config: Config) {
        self.claim_root(&config);
        if *self.engine().config() == config {
            return;
        }
        let (max_bytes, max_root_bytes) = (config.max_bytes, config.max_root_bytes);
        let before = self.engine().set_config(config);
        self.engine().queue.notify();
        if max_bytes < before.max_bytes || max_root_bytes != before.max_root_bytes {
            self.handle.enforce_limit();
        }
    }

    /// Locates rows, queued ones included: one slot for each key.
    pub fn locate(&self, keys: &[Key]) -> Vec<Option<Located>> {
        let mut slots = vec![None; keys.len()];
        let Engine { queue, catalog, .. } = &**self.engine();
        // The queue first: a row is in the index before it leaves the queue.
        queue.locate(keys, &mut slots);
        // A disk that makes no progress is not asked for rows of other processes.
        let is_stalled = || queue.is_stalled(self.engine().config().stall_timeout);
        if catalog.locate(keys, &mut slots) && !is_stalled() && catalog.refresh_after_miss() {
            catalog.locate(keys, &mut slots);
        }
        slots
    }

    /// Reads located rows, each into a buffer of exactly `located.len` bytes. Returns for each whether
    /// it was read: `false` means that a fault made it a miss, and that its buffer has unspecified
    /// content.
    ///
    /// Rows of one file are read in its order, adjacent ones with one system call. If there is much to
    /// read or to decompress, several threads share it. They belong to this crate and run nothing
    /// else.
    ///
    /// # Panics
    /// If the number of buffers is not that of the rows, or a buffer has another length than its row.
    #[track_caller]
    pub fn read(&self, rows: &[Located], out: &mut [&mut [u8]]) -> Vec<bool> {
        assert_eq!(
            rows.len(),
            out.len(),
            "each row needs a buffer: got {} rows and {} buffers",
            rows.len(),
            out.len()
        );
        for (row, out) in rows.iter().zip(&*out) {
            assert_eq!(row.len, out.len(), "a buffer must be as long as its row");
        }
        let relocate = |row: &Located| self.locate(&[*row.key()]).pop().flatten();
        let mmap = self.engine().config().mmap;
        read::read(&self.engine().catalog, relocate, rows, out, mmap)
    }

    /// Queues rows to be written. Blocks while the queue is full, but not longer than
    /// [`Config::stall_timeout`] for a disk that makes no progress: then the rows are dropped and
    /// counted as lost. Of a batch larger than the size bound of the directory, the first rows that
    /// fit are queued.
    ///
    /// Rows that are present already, on disk or queued, are skipped: the first one wins. Returns
    /// their positions in the batch and where the winning rows are, so that the caller can use those
    /// values in place of its own. The directory is asked whether their files exist, unless its disk makes no
    /// progress.
    ///
    /// A log subscriber, and the destructor of stored rows, may run on the thread that writes a store.
    /// There it never blocks: rows that find no room are dropped at once.
    ///
    /// The caller must not hold a lock that dropping the values of a queued batch needs: blocking
    /// ends when such batches are dropped.
    ///
    /// ```
    /// use torchcache_store::{Config, RowBatch, Store};
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path(), Config::default())?;
    /// let put = |key, value| {
    ///     let rows = RowBatch::new(vec![[key; 32]], b"u8".as_slice().into(), vec![value], 1)?;
    ///     Ok::<_, Box<dyn std::error::Error>>(store.put(rows))
    /// };
    /// assert!(put(7, 1)?.is_empty());
    ///
    /// let winners = put(7, 2)?;
    /// let (position, located) = &winners[0];
    /// let mut value = [0];
    /// assert_eq!(store.read(&[located.clone()], &mut [&mut value]), [true]);
    /// assert_eq!((*position, value), (0, [1]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put(&self, mut rows: RowBatch) -> Vec<(usize, Located)> {
        let engine = self.engine();
        let config = engine.config();
        let most = rows_within(config.max_bytes, rows.row_len(), rows.schema().len());
        if let Some(refused) = rows.rows().checked_sub(most).filter(|&refused| refused > 0) {
            engine.refuse(refused, &config);
            rows.truncate(most);
        }
        if rows.rows() == 0 {
            return Vec::new();
        }
        let (count, losses) = (rows.rows(), &self.opened.losses);
        let lose = || {
            engine.lose(count);
            losses.add(count);
            Vec::new()
        };
        if !self.handle.ensure_flusher() {
            return lose();
        }
        rows.set_losses(losses);
        let limits = engine.queue_limits();
        let look = |keys: &[Key]| match engine.queue.is_stalled(limits.stall_timeout) {
            // A disk that makes no progress is not asked.
            true => engine.catalog.known_rows(keys),
            false if is_flusher_thread() => engine.catalog.rows_on_disk(keys, Duration::ZERO),
            false => engine.catalog.rows_on_disk(keys, limits.stall_timeout),
        };
        let locate = |keys: &[Key]| engine.catalog.present(keys);
        let put = engine.queue.put(rows, look, locate, limits);
        put.unwrap_or_else(|Stalled| {
            engine.note_no_room();
            lose()
        })
    }

    /// Waits until everything that was queued before is on disk, and the directory within its bound;
    /// but not longer than [`Config::stall_timeout`] for a disk that makes no progress: one that is slow makes some
    /// every few megabytes. Rows that were put before a successful flush survive a crash and a power loss, also those
    /// that were skipped because another process wrote them. These count as lost where this one cannot make
    /// them durable. Rows that any process evicted, cleared or removed after they were put are no error, nor are
    /// those that were refused: [`StoreStats`] counts what this process did.
    ///
    /// # Errors
    /// [`FlushError::Lost`] if rows that were put through this store could not be written since it last reported
    /// that; those included that were skipped since another store of this process had queued them. Clones count as
    /// one store; each further [`Store::open`] has reports of its own. [`FlushError::Stalled`] if rows are still
    /// queued. [`FlushError::FlusherThread`] where it would have to wait on a thread that writes a store.
    pub fn flush(&self) -> Result<(), FlushError> {
        let engine = self.engine();
        if !engine.flush_queue() {
            let (rows, _) = engine.queue.pending();
            if is_flusher_thread() {
                return Err(FlushError::FlusherThread { rows });
            }
            let waited = engine.config().stall_timeout;
            return Err(FlushError::Stalled { rows, waited });
        }
        match self.opened.losses.take() {
            0 => Ok(()),
            rows => Err(FlushError::Lost { rows }),
        }
    }

    /// Counts the calls of [`clear`](Self::clear) and [`remove`](Self::remove) in this process. A [`RowBatch`] that was made
    /// [since](RowBatch::since) an earlier epoch is not stored.
    ///
    /// ```
    /// use torchcache_store::{Config, RowBatch, Store};
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path(), Config::default())?;
    /// let epoch = store.epoch();
    /// store.clear(); // while a row was being computed
    /// let rows = RowBatch::new(vec![[7; 32]], b"u8".as_slice().into(), vec![1], 1)?;
    /// store.put(rows.since(epoch));
    /// assert!(store.locate(&[[7; 32]])[0].is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn epoch(&self) -> u64 {
        self.engine().queue.epoch()
    }

    /// Rows that could not be written since the store was opened in this process.
    pub fn lost_rows(&self) -> u64 {
        self.engine().counters.lost_rows.load(Ordering::Relaxed)
    }

    /// Removes the rows of these keys from the directory, whichever process wrote them, and from the queue. Once it
    /// succeeds, they stay away after a crash and a power loss as well, until they are put again. After an error, or a
    /// crash meanwhile, each of them is there as it was, or removed.
    ///
    /// Each segment that has any of them is copied without them, so that a call takes as long as reading all row tables
    /// and copying these segments: remove many rows by one call. Like [`flush`](Self::flush) it waits for the thread that
    /// writes, but not longer than [`Config::stall_timeout`] for a disk that makes no progress.
    ///
    /// A batch that was made [since](RowBatch::since) an earlier [epoch](Self::epoch) is not stored. Rows that another
    /// process has queued are its own, and it may find removed ones until it lists the directory.
    ///
    /// ```
    /// use torchcache_store::{Config, RowBatch, Store};
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path(), Config::default())?;
    /// let keys = [[1; 32], [2; 32]];
    /// store.put(RowBatch::new(keys.to_vec(), b"u8".as_slice().into(), vec![1, 2], 1)?);
    /// store.flush()?;
    /// store.remove(&keys[..1])?;
    /// let is_there: Vec<bool> = store.locate(&keys).iter().map(|row| row.is_some()).collect();
    /// assert_eq!(is_there, [false, true]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RemoveError::Directory`] if a segment cannot be read or replaced, as in a directory that is read-only or where
    /// another user wrote it, or if a file that may be a segment cannot be opened. [`RemoveError::Stalled`] and
    /// [`RemoveError::FlusherThread`] as for a flush; the rows are removed later.
    pub fn remove(&self, keys: &[Key]) -> Result<(), RemoveError> {
        if keys.is_empty() {
            return Ok(());
        }
        let engine = self.engine();
        let failed = |source| {
            let dir = engine.catalog.dir.clone();
            RemoveError::Directory { dir, source }
        };
        if !self.handle.ensure_flusher() {
            let what = "the thread that writes cannot be started; the log says why";
            return Err(failed(io::Error::other(what)));
        }
        let (since, waited) = (Instant::now(), engine.config().stall_timeout);
        let removal = engine.queue.remove_keys(keys);
        match engine.queue.wait_removed(&removal, since, waited) {
            Ok(outcome) => outcome.map_err(failed),
            Err(Stalled) if is_flusher_thread() => Err(RemoveError::FlusherThread),
            Err(Stalled) => {
                engine.note_stall("removing rows does not wait any longer");
                Err(RemoveError::Stalled { waited })
            }
        }
    }

    /// Removes every row of the directory, and those that are queued. A file that cannot be opened, and has a name that is
    /// not of this crate, is left and counted as a fault.
    pub fn clear(&self) {
        let Engine { catalog, queue, .. } = &**self.engine();
        drop(catalog.clear(|| queue.clear()));
    }

    /// Finds what other processes wrote or removed. Misses do so by themselves from time to time.
    pub fn refresh(&self) {
        self.engine().catalog.refresh();
    }

    /// What the store has, and what happened to it.
    pub fn stats(&self) -> StoreStats {
        let Engine {
            catalog,
            queue,
            counters,
            ..
        } = &**self.engine();
        let segments = catalog.live_segments();
        let (pending_rows, pending_bytes) = queue.pending();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            rows: segments.iter().map(|segment| get(&segment.indexed)).sum(),
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments: segments.len() as u64,
            pending_rows,
            pending_bytes,
            stored_rows: get(&counters.stored_rows),
            evicted_rows: get(&catalog.evicted_rows),
            refused_rows: get(&counters.refused_rows),
            lost_rows: get(&counters.lost_rows),
            compacted_segments: get(&counters.compacted_segments),
            faults: catalog.faults.counts(),
        }
    }
}
