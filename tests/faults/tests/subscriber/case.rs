//! Directories whose events lead to calls.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use torchcache_faults::cases::Counter;
use torchcache_faults::rows::{batch, count_right, manual_flush};
use torchcache_store::{Config, Store, TempCache};

use crate::log;

pub(crate) const LEN: usize = 200;

/// A case that takes longer waits for itself. The stall timeout of most stores is longer still.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Which calls the subscriber makes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// On the thread of the event.
    Here,
    /// There, and the rows are cleared.
    Clearing,
    /// On another thread, which the thread of the event waits for.
    Elsewhere,
}

/// A directory whose events lead to calls.
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    pub(crate) calls: Calls,
    /// The store of the directory; without one, the subscriber opens the directory.
    store: Mutex<Option<Store>>,
    /// Events that led to calls.
    pub(crate) events: Counter,
}

impl Case {
    pub(crate) fn register(dir: PathBuf, calls: Calls) -> Arc<Case> {
        log::install(on_event);
        let case = Arc::new(Case {
            dir,
            calls,
            store: Mutex::new(None),
            events: Counter::default(),
        });
        let mut cases = CASES.lock().unwrap_or_else(PoisonError::into_inner);
        cases.push(case.clone());
        case
    }

    pub(crate) fn unregister(&self) {
        let mut cases = CASES.lock().unwrap_or_else(PoisonError::into_inner);
        cases.retain(|other| !std::ptr::eq(&**other, self));
    }

    /// Has the subscriber call this store from now on.
    pub(crate) fn set_store(&self, store: &Store) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.clone());
    }

    fn on_event(&self) {
        self.events.next();
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let present = store.clone();
        drop(store);
        let (dir, clears) = (self.dir.clone(), self.calls == Calls::Clearing);
        let calls = move || {
            let store = present.or_else(|| Store::open(dir, config()).ok());
            for store in store.iter().chain([&*OTHER]) {
                call_all(store, clears);
            }
        };
        match self.calls {
            Calls::Here | Calls::Clearing => log::calling(calls),
            Calls::Elsewhere => {
                let called = thread::spawn(|| log::calling(calls)).join();
                called.expect("the calls do not panic");
            }
        }
    }
}

/// The directory of [`OTHER`], which is removed at the end of the process.
static OTHER_DIR: LazyLock<TempCache> = LazyLock::new(|| TempCache::new().expect("it is made"));

/// A store that no case is about.
static OTHER: LazyLock<Store> =
    LazyLock::new(|| Store::open(OTHER_DIR.path().join("other"), config()).expect("it opens"));

static CASES: Mutex<Vec<Arc<Case>>> = Mutex::new(Vec::new());

/// Makes the calls of the case that an event is about.
fn on_event(path: &Path) {
    let cases = CASES.lock().unwrap_or_else(PoisonError::into_inner);
    let case = cases
        .iter()
        .find(|case| path.starts_with(&case.dir))
        .cloned();
    drop(cases);
    if let Some(case) = case {
        case.on_event();
    }
}

/// Rows are written only by a flush, and a wait for the flusher itself is longer than [`LIMIT`].
pub(crate) fn config() -> Config {
    manual_flush().with_stall_timeout(10 * LIMIT)
}

fn call_all(store: &Store, clears: bool) {
    store.stats();
    count_right(store, 0..4, LEN);
    store.put(batch(900..902, LEN));
    store.refresh();
    let _ = store.flush(); // it fails on the flusher thread
    store.put(batch(902..904, LEN));
    count_right(store, 900..904, LEN);
    let config = store.config();
    let max_bytes = config.max_bytes - 1;
    store.reconfigure(config.with_max_bytes(max_bytes));
    if clears {
        store.clear();
    }
}

/// Runs a case whose directory has this path, and fails if it does not end.
pub(crate) fn ends(
    dir: impl Into<PathBuf>,
    calls: Calls,
    run: impl FnOnce(&Case) + Send + 'static,
) {
    let case = Case::register(dir.into(), calls);
    let (done, ended) = mpsc::channel();
    let running = case.clone();
    let thread = thread::spawn(move || {
        run(&running);
        let _ = done.send(());
    });
    let waits = ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!waits, "{calls:?}: it waits for itself");
    thread.join().expect("the case passes");
    assert!(case.events.get() > 0, "{calls:?}: no event led to calls");
    case.unregister();
}

/// Runs a case on a simulated file system with each kind of calls.
pub(crate) fn each(name: &str, kinds: &[Calls], run: fn(&Case)) {
    for calls in kinds {
        ends(format!("/{name}-{calls:?}"), *calls, run);
    }
}
