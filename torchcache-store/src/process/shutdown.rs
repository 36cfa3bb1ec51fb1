//! What the end of the process does with its stores and private directories. Statics are never
//! dropped, so the C library's exit hook has to; and signals end a process without that.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Instant;

use super::registry::{flush, live};
use super::signals;
use crate::config::Config;
use crate::engine::Inner;
use crate::sys;

/// The process whose end is waited for; 0 before there is one. The rows that are queued in a fork
/// of it are the parent's.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The private directories, each with the process whose it is, for the exit hook.
static LIVE: Mutex<Vec<(u32, PathBuf)>> = Mutex::new(Vec::new());

/// Its name says whose it is: without it, a directory is somebody else's and left alone.
pub(super) const LOCK_FILE: &str = ".torchcache-private.lock";

/// Registers the hook, once. A fork has it already.
pub(crate) fn arm() {
    if OWNER.swap(std::process::id(), Ordering::Relaxed) != 0 {
        return;
    }
    if !sys::at_exit(hook) {
        tracing::warn!(
            "cannot register an exit hook; drop or flush stores before the process ends"
        );
    }
    if let Err(error) = signals::arm(|| hook()) {
        tracing::warn!(%error, "a signal that ends the process will lose rows that are queued");
    }
}

extern "C" fn hook() {
    if OWNER.load(Ordering::Relaxed) == std::process::id() {
        // There is nobody left to tell of a panic, and it must not reach the C library.
        let _ = catch_unwind(|| end(live(), live_dirs()));
    }
}

/// Writes what is queued in stores, and removes private directories. Nothing here waits for a disk
/// longer than the most patient store would.
fn end(stores: Vec<Arc<Inner>>, dirs: Vec<PathBuf>) {
    let begin = Instant::now();
    let patience = stores.iter().map(|store| store.config().patience).max();
    let patience = patience.unwrap_or(Config::default().patience);

    // What lies in a private directory goes with it, so it need not be written.
    let is_private = |store: &Arc<Inner>| {
        let dir = &store.catalog.dir;
        dirs.iter().any(|private| dir.starts_with(private))
    };
    let (private, kept): (Vec<_>, Vec<_>) = stores.into_iter().partition(is_private);
    let dropped: Vec<_> = private.iter().map(|store| store.queue.drop_all()).collect();
    let (done, removed) = mpsc::channel::<()>();
    if !dirs.is_empty() {
        // Removing takes as long as the disk likes, and dropping rows as the code of whoever put
        // them, so it is waited for from here. Without a thread it is left to the next process.
        let remove = move || {
            flush(&private, begin);
            dirs.iter().for_each(|dir| remove(dir));
            drop((dropped, private, done));
        };
        let _ = Builder::new().name("torchcache-end".into()).spawn(remove);
    } else {
        drop(done);
    }
    flush(&kept, begin);
    let _ = removed.recv_timeout(patience.saturating_sub(begin.elapsed()));
}

fn list() -> MutexGuard<'static, Vec<(u32, PathBuf)>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The private directories of this process.
fn live_dirs() -> Vec<PathBuf> {
    let list = list();
    let own = list
        .iter()
        .filter(|(process, _)| *process == std::process::id());
    own.map(|(_, path)| path.clone()).collect()
}

/// Has a private directory of this process removed at its end.
pub(super) fn remove_at_exit(process: u32, dir: PathBuf) {
    list().push((process, dir));
}

/// The opposite: the directory is being removed already.
pub(super) fn forget(dir: &Path) {
    list().retain(|(_, path)| path != dir);
}

/// Removes a directory with what is in it, the lock file last, so that a removal cut short
/// can be taken up by the next process. Does not follow symbolic links.
pub(super) fn remove(path: &Path) {
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_name() != LOCK_FILE)
    {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // What cannot be removed now is left for the next process.
        let _ = match is_dir {
            true => std::fs::remove_dir_all(entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
    }
    let _ = std::fs::remove_file(path.join(LOCK_FILE));
    let _ = std::fs::remove_dir(path);
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Condvar;
    use std::thread;
    use std::time::Duration;

    use super::super::registry::{flush_all, shared};
    use super::super::temp_dir::TempCache;
    use super::*;
    use crate::batch::RowBatch;
    use crate::engine::handle::Handle;
    use crate::engine::pace;
    use crate::fs::{Directory, FileSystem, Os};

    /// What a busy machine may need for what ought to take no time.
    const SOON: Duration = Duration::from_secs(10);

    /// A file system that does not answer while it is shut.
    #[derive(Debug, Default)]
    struct Gated {
        is_shut: Mutex<bool>,
        opened: Condvar,
    }

    impl Gated {
        fn set(&self, is_shut: bool) {
            *self.is_shut.lock().expect("nobody panics with it") = is_shut;
            self.opened.notify_all();
        }
    }

    impl FileSystem for Gated {
        fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Directory>> {
            let shut = self.is_shut.lock().expect("nobody panics with it");
            let passed = self.opened.wait_while(shut, |is_shut| *is_shut);
            drop(passed.expect("nobody panics with it"));
            Os.open_dir(path, create)
        }
    }

    /// The store of a directory, on such a file system.
    fn open(fs: &Arc<Gated>, dir: &Path, patience: Duration) -> Arc<Handle> {
        let config = Config {
            patience,
            ..Config::default()
        };
        shared(dir.to_owned(), |dir| {
            Handle::start(fs.clone(), dir, &config)
        })
    }

    fn put(handle: &Handle) {
        let batch = RowBatch::new(vec![[1; 32]], b"".as_slice().into(), vec![1, 2], 2);
        assert!(handle.ensure_writer(), "the thread starts");
        let batch = batch.expect("the parts fit");
        let queue = &handle.inner.queue;
        let put = queue.put(
            batch,
            |keys| vec![false; keys.len()],
            pace(&handle.inner.config()),
        );
        assert_eq!(put, Ok(Vec::new()));
    }

    /// How long something takes, which must not be as long as it likes.
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
    fn a_directory_that_does_not_open_holds_up_neither_others_nor_the_end() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (slow, sound) = (Arc::new(Gated::default()), Arc::new(Gated::default()));
        slow.set(true);
        let openers = [(), ()].map(|()| {
            let (slow, dir) = (slow.clone(), root.path().to_owned());
            thread::spawn(move || open(&slow, &dir, SOON))
        });
        thread::sleep(Duration::from_millis(100));
        let other = tempfile::tempdir().expect("a temporary directory");
        let dir = other.path().to_owned();
        let took = time(move || {
            put(&open(&sound, &dir, SOON));
            end(live(), Vec::new());
        });
        assert!(took < SOON, "{took:?}");
        assert!(openers.iter().all(|opener| !opener.is_finished()));
        slow.set(false);
        let [one, same] = openers.map(|opener| opener.join().expect("it opens"));
        assert!(Arc::ptr_eq(&one, &same), "one directory, one store");
    }

    #[test]
    fn a_directory_that_is_being_looked_through_does_not_hold_up_the_end() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let private = TempCache::new_in(parent.path()).expect("it is made");
        let handle = open(&Arc::default(), private.path(), SOON);
        put(&handle);
        let scan = handle.inner.catalog.scan();
        let (stores, dirs) = (vec![handle.inner.clone()], vec![private.path().to_owned()]);
        let took = time(|| end(stores, dirs));
        assert!(took < SOON, "{took:?}");
        drop(scan);
        assert!(!private.path().exists(), "it goes all the same");
    }

    #[test]
    fn a_store_that_is_still_being_dropped_is_waited_for_beside_the_next_one_of_its_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let slow = Arc::new(Gated::default());
        let first = open(&slow, dir.path(), Duration::from_millis(100));
        slow.set(true);
        put(&first);
        let inner = first.inner.clone();
        drop(first); // its patience runs out
        assert_eq!(inner.queue.pending().0, 1, "the disk does not answer");
        let _next = open(&Arc::default(), dir.path(), SOON);
        slow.set(false);
        assert!(live().iter().any(|store| Arc::ptr_eq(store, &inner)));
        flush_all();
        assert_eq!(inner.queue.pending().0, 0, "it is written in the end");
    }

    #[test]
    fn disks_that_do_not_answer_are_waited_for_together() {
        const PATIENCE: Duration = Duration::from_secs(2);
        let dirs = [(); 8].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let dead = Arc::new(Gated::default());
        let stores = dirs.each_ref().map(|dir| open(&dead, dir.path(), PATIENCE));
        let sound = tempfile::tempdir().expect("a temporary directory");
        let last = open(&Arc::default(), sound.path(), PATIENCE);
        dead.set(true);
        stores.iter().for_each(|store| put(store));
        put(&last);
        let mut inners: Vec<_> = stores.iter().map(|store| store.inner.clone()).collect();
        inners.push(last.inner.clone());
        let took = time(|| end(inners, Vec::new()));
        assert!(
            (PATIENCE..2 * PATIENCE + SOON / 2).contains(&took),
            "{took:?}"
        );
        assert_eq!(last.inner.queue.pending().0, 0, "what can be written is");
        assert_eq!(
            stores[0].inner.queue.pending().0,
            1,
            "the disk never answered"
        );
        dead.set(false);
    }
}
