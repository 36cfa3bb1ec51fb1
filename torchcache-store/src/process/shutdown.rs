//! The end of the process: queued rows are written and private directories removed. Statics are never
//! dropped, so the exit hook of the C library does that, and the signal handlers that
//! [`flush_on_signals`] installs.

use std::fs::DirEntry;
use std::io;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::Builder;
use std::time::Instant;

use super::registry::{engines, flush};
use super::{signals, uploads};
use crate::config::Config;
use crate::engine::Engine;
use crate::fs::private_dirs;
use crate::progress::set_flusher_thread;
use crate::{descriptors, events, fork, sys};

/// The file that a private directory has, and no other directory. Its lock is held while the process
/// lives.
pub(super) const LOCK_FILE: &str = ".torchcache-private.lock";

/// Has [`finish`] run before the exit hooks that are registered by now: what uploads rows may have registered some.
pub(crate) fn register_exit_hook_again() {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    if !fork::is_forked() && !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        // Without it, the hook that was registered before does the same.
        sys::at_exit(exit_hook);
    }
}

/// Has [`finish`] run when the process ends by `exit` or by returning from `main`.
pub(crate) fn register_exit_hook() {
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    // Makes this process the one that is not forked.
    if fork::is_forked() || IS_REGISTERED.swap(true, Ordering::Relaxed) {
        return;
    }
    if !sys::at_exit(exit_hook) {
        events::emit(|| {
            tracing::warn!(
                "cannot register an exit hook; drop or flush stores before the process ends"
            );
        });
    }
}

/// Has queued rows written and private directories removed when SIGTERM, SIGINT or SIGHUP ends the
/// process. Without this call such a signal works like a kill: rows that were queued within the last
/// [`Config::batch_delay`] are computed again, and private directories are removed by the next process
/// that makes one.
///
/// A signal that the program handles already is left to it, and so is one that it handles later. The
/// process then ends by the signal, as it would have; a second signal half a second later ends it at
/// once.
///
/// # Errors
/// What the operating system reports. Signals then end the process at once.
///
/// ```
/// torchcache_store::flush_on_signals()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn flush_on_signals() -> io::Result<()> {
    signals::install(|| exit_hook())
}

/// What the end of the process does. It may run several times.
pub(super) extern "C" fn exit_hook() {
    if !fork::is_forked() {
        // A panic must not reach the C library, and there is no one left to report it to.
        let _ = catch_unwind(|| finish(engines(), private_dirs::living()));
    }
}

/// Writes what is queued, uploads pending rows and removes private directories. Waits for a disk no longer than the
/// longest stall timeout of the stores, and for uploads ten seconds, over all calls.
fn finish(engines: Vec<Arc<Engine>>, dirs: Vec<PathBuf>) {
    let begin = Instant::now();
    // The end waits on a flusher thread as well: for other stores, and until the stall timeout for its own.
    set_flusher_thread(false);
    let timeouts = engines.iter().map(|engine| engine.config().stall_timeout);
    let stall_timeout = timeouts.max().unwrap_or(Config::default().stall_timeout);

    // Rows in private directories are removed with them, so they need not be written.
    let (private, kept): (Vec<_>, Vec<_>) =
        engines.into_iter().partition(|engine| is_in(engine, &dirs));
    let (done, removed) = mpsc::channel::<()>();
    if !dirs.is_empty() {
        // Removing may take any time, and so may code of the caller that dropping rows runs, so both
        // are waited for from here. If no thread can be started, the next process removes them.
        let remove_all = move || {
            uploads::finish(Some(&dirs), uploads_begun());
            end_private(&dirs, begin);
            drop((private, done));
        };
        let builder = Builder::new().name("torchcache-end".into());
        let _ = sys::without_signals(|| builder.spawn(remove_all));
    } else {
        drop(done);
    }
    // First: it takes less, and what is uploaded then is compressed.
    flush(&kept, begin);
    let timeout = stall_timeout + uploads::finish(None, uploads_begun());
    let _ = removed.recv_timeout(timeout.saturating_sub(begin.elapsed()));
}

/// When the end of the process first waited for uploads.
fn uploads_begun() -> Instant {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    *BEGUN.get_or_init(Instant::now)
}

/// Ends the stores in private directories, which no longer write, and removes the directories.
pub(super) fn end_private(dirs: &[PathBuf], since: Instant) {
    // A store that is opened from now on sees this, and one before that is registered.
    private_dirs::forbid(dirs);
    let mut private = engines();
    private.retain(|engine| is_in(engine, dirs));
    let cleared: Vec<_> = private.iter().map(|engine| engine.queue.end()).collect();
    flush(&private, since);
    for dir in dirs {
        remove(dir);
        if !dir.exists() {
            private_dirs::forget(dir);
        }
    }
    drop(cleared);
}

fn is_in(engine: &Engine, dirs: &[PathBuf]) -> bool {
    let dir = &engine.catalog.dir;
    dirs.iter().any(|private| dir.starts_with(private))
}

/// Removes a directory with its content, the lock file last, so that the next process can finish a
/// removal that is interrupted. Does not follow symbolic links.
pub(crate) fn remove(path: &Path) {
    let others = || {
        let entries = descriptors::retry(|| std::fs::read_dir(path))?;
        let mut entries = entries.collect::<io::Result<Vec<DirEntry>>>()?;
        entries.retain(|entry| entry.file_name() != LOCK_FILE);
        io::Result::Ok(entries)
    };
    for entry in others().into_iter().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // What cannot be removed now is left to the next process.
        let _ = match is_dir {
            true => std::fs::remove_dir_all(entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
    }
    if others().is_ok_and(|others| others.is_empty()) {
        let _ = std::fs::remove_file(path.join(LOCK_FILE));
        let _ = std::fs::remove_dir(path);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::batch::RowBatch;
    use crate::engine::handle::Handle;
    use crate::fs::{Directory, FileSystem, Os};
    use crate::key::Key;
    use crate::process::registry::{flush_all, shared};

    /// What a busy machine may need for what takes hardly any time.
    const SOON: Duration = Duration::from_secs(10);

    /// A file system that does not respond while it is blocked.
    #[derive(Debug, Default)]
    struct BlockingFs {
        is_blocked: Mutex<bool>,
        unblocked: Condvar,
    }

    impl BlockingFs {
        fn set_blocked(&self, is_blocked: bool) {
            *self.is_blocked.lock().expect("it is not poisoned") = is_blocked;
            self.unblocked.notify_all();
        }
    }

    impl FileSystem for BlockingFs {
        fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
            let is_blocked = self.is_blocked.lock().expect("it is not poisoned");
            let passed = self.unblocked.wait_while(is_blocked, |blocked| *blocked);
            drop(passed.expect("it is not poisoned"));
            Os.open_dir(path, create)
        }
    }

    /// The store of a directory on such a file system.
    fn open(fs: &Arc<BlockingFs>, dir: &Path, stall_timeout: Duration) -> Arc<Handle> {
        let config = Config::default().with_stall_timeout(stall_timeout);
        shared(dir.to_owned(), |dir| {
            Handle::open(fs.clone(), dir, None, &config)
        })
    }

    fn put(handle: &Handle) {
        let batch = RowBatch::new(vec![[1; 32]], b"".as_slice().into(), vec![1, 2], 2);
        assert!(handle.ensure_flusher(), "the thread starts");
        let batch = batch.expect("the parts fit");
        let engine = &handle.engine;
        let on_disk = |keys: &[Key]| engine.catalog.known_rows(keys);
        let locate = |keys: &[Key]| engine.catalog.present(keys);
        let put = engine
            .queue
            .put(batch, on_disk, locate, engine.queue_limits());
        assert!(put.expect("there is room").is_empty());
    }

    /// How long something takes; fails if that is too long.
    fn time(what: impl FnOnce() + Send + 'static) -> Duration {
        let begin = Instant::now();
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            what();
            done.send(())
        });
        ended.recv_timeout(2 * SOON).expect("it comes to an end");
        begin.elapsed()
    }

    #[test]
    fn a_directory_that_blocks_delays_no_other_and_no_exit() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (slow, sound) = (
            Arc::new(BlockingFs::default()),
            Arc::new(BlockingFs::default()),
        );
        slow.set_blocked(true);
        let openers = [(), ()].map(|()| {
            let (slow, dir) = (slow.clone(), root.path().to_owned());
            thread::spawn(move || open(&slow, &dir, SOON))
        });
        thread::sleep(Duration::from_millis(100));
        let other = tempfile::tempdir().expect("a temporary directory");
        let dir = other.path().to_owned();
        let took = time(move || {
            put(&open(&sound, &dir, SOON));
            finish(engines(), Vec::new());
        });
        assert!(took < SOON, "{took:?}");
        assert!(openers.iter().all(|opener| !opener.is_finished()));
        slow.set_blocked(false);
        let [one, same] = openers.map(|opener| opener.join().expect("it opens"));
        assert!(Arc::ptr_eq(&one, &same), "one directory, one store");
    }

    #[test]
    fn a_scan_under_way_does_not_delay_the_exit() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let private = parent.path().join("private");
        std::fs::create_dir(&private).expect("it is made");
        let handle = open(&Arc::default(), &private, SOON);
        put(&handle);
        let scan = handle.engine.catalog.scan();
        let (stores, dirs) = (vec![handle.engine.clone()], vec![private.clone()]);
        let took = time(|| finish(stores, dirs));
        assert!(took < SOON, "{took:?}");
        drop(scan);
        assert!(!private.exists(), "it is removed once the scan ends");
    }

    #[test]
    fn a_private_directory_stays_removed_while_rows_keep_coming() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let private = parent.path().join("private");
        let dir = private.join("hash");
        std::fs::create_dir_all(&dir).expect("it is made");
        std::fs::write(private.join(LOCK_FILE), "").expect("it is made");
        let config = Config::default()
            .with_batch_delay(Duration::ZERO)
            .with_queue_bytes(1 << 20);
        let handle = shared(dir, |dir| Handle::open(Arc::new(Os), dir, None, &config));
        assert!(handle.ensure_flusher(), "the thread starts");
        let (engine, ended) = (&handle.engine, AtomicBool::new(false));
        let exists = thread::scope(|scope| {
            let put = |thread: u64| {
                for n in 0u64.. {
                    let key = *blake3::hash(&[thread, n].map(u64::to_le_bytes).concat()).as_bytes();
                    let batch = RowBatch::new(vec![key], [].into(), vec![7; 1 << 16], 1 << 16);
                    let batch = batch.expect("the parts fit");
                    let _ = engine.queue.put(
                        batch,
                        |keys| engine.catalog.known_rows(keys),
                        |keys| engine.catalog.present(keys),
                        engine.queue_limits(),
                    );
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                }
            };
            for thread in 0..4 {
                scope.spawn(move || put(thread));
            }
            thread::sleep(Duration::from_millis(200));
            finish(vec![engine.clone()], vec![private.clone()]);
            thread::sleep(Duration::from_millis(200));
            ended.store(true, Ordering::Relaxed);
            private.exists()
        });
        assert!(!exists, "it is not made again");
    }

    #[test]
    fn a_store_that_still_writes_is_flushed_with_its_successor() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let slow = Arc::new(BlockingFs::default());
        // Long enough for the flush on a busy machine, although the drop waits for it as well.
        let first = open(&slow, dir.path(), Duration::from_secs(2));
        slow.set_blocked(true);
        put(&first);
        let engine = first.engine.clone();
        drop(first); // it waits for the stall timeout
        assert_eq!(engine.queue.pending().0, 1, "the disk does not respond");
        let _next = open(&Arc::default(), dir.path(), SOON);
        slow.set_blocked(false);
        assert!(engines().iter().any(|live| Arc::ptr_eq(live, &engine)));
        flush_all();
        assert_eq!(
            engine.queue.pending().0,
            0,
            "it is written once the disk responds"
        );
    }

    #[test]
    fn disks_without_progress_are_waited_for_together() {
        const TIMEOUT: Duration = Duration::from_secs(2);
        let dirs = [(); 8].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let blocked = Arc::new(BlockingFs::default());
        let stores = dirs
            .each_ref()
            .map(|dir| open(&blocked, dir.path(), TIMEOUT));
        let sound = tempfile::tempdir().expect("a temporary directory");
        let last = open(&Arc::default(), sound.path(), TIMEOUT);
        blocked.set_blocked(true);
        stores.iter().for_each(|store| put(store));
        put(&last);
        let mut inners: Vec<_> = stores.iter().map(|store| store.engine.clone()).collect();
        inners.push(last.engine.clone());
        let took = time(|| finish(inners, Vec::new()));
        assert!(
            (TIMEOUT..2 * TIMEOUT + SOON / 2).contains(&took),
            "{took:?}"
        );
        assert_eq!(
            last.engine.queue.pending().0,
            0,
            "the sound disk got its rows"
        );
        assert_eq!(
            stores[0].engine.queue.pending().0,
            1,
            "the disk never responded"
        );
        blocked.set_blocked(false);
    }
}
