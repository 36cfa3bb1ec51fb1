//! The stores and private directories of this process: one store for each directory, and
//! what the end of the process does with them. Statics are never dropped, so the C
//! library's exit hook has to; and signals end a process without that.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Builder;
use std::time::Instant;

use crate::config::Config;
use crate::handle::{Handle, Inner};
use crate::private_dir;
use crate::signals;
use crate::sys;

/// Never held over anything that waits: the end of the process needs it.
static PLACES: LazyLock<Mutex<HashMap<PathBuf, Place>>> = LazyLock::new(Mutex::default);

/// The process whose end is waited for; 0 before there is one. The rows that are queued in a fork
/// of it are the parent's.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// A directory, and the store that this process has for it.
#[derive(Default)]
struct Place {
    /// Held while the directory is opened, by whoever is the first to want it.
    opening: Arc<Mutex<()>>,
    handle: Weak<Handle>,
    /// Of a handle that is being dropped, or was while the disk did not answer, this is still there.
    inners: Vec<Weak<Inner>>,
}

impl Place {
    fn is_used(&self) -> bool {
        let is_there = |inner: &Weak<Inner>| inner.strong_count() > 0;
        self.inners.iter().any(is_there) || Arc::strong_count(&self.opening) > 1
    }
}

fn places() -> MutexGuard<'static, HashMap<PathBuf, Place>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// The store of a directory: the one there is, or the one that `start` makes. While it is made,
/// only those wait who want the same directory.
pub(crate) fn shared(dir: PathBuf, start: impl FnOnce(PathBuf) -> Arc<Handle>) -> Arc<Handle> {
    arm();
    let opening = places().entry(dir.clone()).or_default().opening.clone();
    let _first = opening.lock().unwrap_or_else(PoisonError::into_inner);
    let there = places().get(&dir).and_then(|place| place.handle.upgrade());
    if let Some(handle) = there.filter(|handle| !handle.inner.is_forked()) {
        return handle;
    }
    let handle = start(dir.clone());
    let mut places = places();
    places.retain(|_, place| place.is_used());
    let place = places.entry(dir).or_default();
    place.handle = Arc::downgrade(&handle);
    place.inners.retain(|inner| inner.strong_count() > 0);
    place.inners.push(Arc::downgrade(&handle.inner));
    handle
}

/// The stores that this process has opened itself.
fn live() -> Vec<Arc<Inner>> {
    let mut stores: Vec<Arc<Inner>> = {
        let places = places();
        let inners = places.values().flat_map(|place| &place.inners);
        inners.filter_map(Weak::upgrade).collect()
    };
    // Whoever drops the last of a store may run code of the user's, so that it is done here.
    stores.retain(|store| !store.is_forked());
    stores
}

/// Waits until every store of this process has written what is queued. The end of the
/// process does this by itself.
///
/// ```
/// torchcache_store::flush_all();
/// ```
pub fn flush_all() {
    flush(&live(), Instant::now());
}

/// Has all stores write at the same time, so that disks that do not answer are waited for together:
/// each for as long as it may be, from `since` or from when it last did something.
fn flush(stores: &[Arc<Inner>], since: Instant) {
    let asked: Vec<_> = stores.iter().map(|store| store.queue.hurry()).collect();
    for (store, last) in stores.iter().zip(asked) {
        // The user's log may panic over a disk that does not answer; the others are waited for.
        let _ = catch_unwind(AssertUnwindSafe(|| store.await_written(last, since)));
    }
}

extern "C" fn hook() {
    if OWNER.load(Ordering::Relaxed) == std::process::id() {
        // There is nobody left to tell of a panic, and it must not reach the C library.
        let _ = catch_unwind(|| end(live(), private_dir::live()));
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
            dirs.iter().for_each(|dir| private_dir::remove(dir));
            drop((dropped, private, done));
        };
        let _ = Builder::new().name("torchcache-end".into()).spawn(remove);
    } else {
        drop(done);
    }
    flush(&kept, begin);
    let _ = removed.recv_timeout(patience.saturating_sub(begin.elapsed()));
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Condvar;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::batch::RowBatch;
    use crate::fs::{Directory, FileSystem, Os};
    use crate::handle::pace;
    use crate::private_dir::TempCache;

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
