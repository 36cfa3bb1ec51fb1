//! A compaction that another process acts during.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use torchcache_store::{Config, Store};

use crate::cases::{Counter, eventually};
use crate::faulty::{Call, Fate, Faulty};
use crate::rows::{opened, put_flushed};
use crate::sim::Sim;

/// The length of the rows.
const LEN: usize = 100;

/// A compaction that stands still.
#[derive(Clone, Debug)]
pub struct Paused(Arc<Mutex<Option<Hold>>>);

#[derive(Debug)]
struct Hold {
    /// Dropped to let it go on.
    holds: Sender<()>,
    /// Dropped when its process has ended.
    ends: Receiver<()>,
}

impl Paused {
    fn take(&self) -> Option<Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Lets the compaction go on, and waits for its process to end.
    pub fn finish(&self) {
        if let Some(Hold { holds, ends }) = self.take() {
            drop(holds);
            let _: Result<(), _> = ends.recv();
        }
    }

    /// A file system on which it finishes before the `nth` call, and how many calls there were.
    pub fn finish_before(&self, sim: &Sim, nth: u64) -> (Faulty, Arc<Counter>) {
        let calls = Arc::new(Counter::default());
        let decide = {
            let (paused, calls) = (self.clone(), calls.clone());
            move |_: Call, _: &_| {
                if calls.next() == nth {
                    paused.finish();
                }
                Fate::Done
            }
        };
        (Faulty::new(sim.clone(), decide), calls)
    }
}

/// Waits until times that are even seconds are between half a second and one and a half behind.
pub fn wait_within_whole_seconds() {
    let is_within = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        (600..1500).contains(&(since.unwrap_or_default().as_millis() % 2000))
    };
    assert!(eventually(Duration::from_secs(60), is_within));
}

/// The bytes of a segment of one row.
pub fn bytes_of_one() -> u64 {
    let sim = Sim::new();
    put_flushed(&opened(sim.clone(), "/cache"), 0..1, LEN);
    sim.bytes(&sim.files(Path::new("/cache"))[0]).len() as u64
}

/// Compacts eight rows in segments of one each. Before the `nth` call, from the making of the new file on, another
/// thread acts, and the next sync of the directory does then what `sync` says. Returns whether there are that many
/// calls.
pub fn acting_at(
    sim: &Sim,
    dir: &str,
    nth: u64,
    sync: Fate,
    act: impl Fn(&Sim) + Copy + Send + Sync + 'static,
) -> bool {
    let calls = Arc::new(Counter::default());
    let decide = {
        let (sim, calls) = (sim.clone(), calls.clone());
        let (created, syncs) = (Counter::default(), Counter::default());
        move |call: Call, _: &_| {
            if call == Call::Create {
                created.next();
            }
            // Eight segments of a row each, one that is tried when the store is opened, and the result.
            if created.get() < 10 {
                return Fate::Done;
            }
            if calls.next() == nth {
                let sim = sim.clone();
                // The thread of a flusher cannot wait for a flush.
                let acting = thread::spawn(move || act(&sim));
                acting.join().expect("it does not panic");
            }
            match call == Call::SyncDir && calls.get() >= nth && syncs.next() == 1 {
                true => sync,
                false => Fate::Done,
            }
        }
    };
    let store = opened(Faulty::new(sim.clone(), decide), dir);
    (0..8).for_each(|n| put_flushed(&store, n..n + 1, LEN));
    calls.get() >= nth
}

/// Compacts eight rows in segments of one each, and before the `nth` call after the result got its name, another
/// thread acts. Returns whether there are that many calls.
pub fn during_a_compaction(
    sim: &Sim,
    dir: &str,
    config: Config,
    nth: u64,
    act: impl FnOnce(Paused) + Send,
) -> bool {
    let (begin, begins) = channel();
    let (holds, held) = channel();
    let (end, ends) = channel();
    let paused = Paused(Arc::new(Mutex::new(Some(Hold { holds, ends }))));
    let (renames, calls) = (Counter::default(), Arc::new(Counter::default()));
    let is_done = Arc::new(AtomicBool::new(false));
    let decide = {
        let (calls, is_done, channels) =
            (calls.clone(), is_done.clone(), Mutex::new((begin, held)));
        move |call: Call, _: &_| {
            if call == Call::Rename {
                renames.next();
                // Eight segments of a row each, and then the one that they are compacted into.
                return Fate::Done;
            }
            if renames.get() == 9 && !is_done.load(Ordering::SeqCst) && calls.next() == nth {
                let channels = channels.lock().expect("it is not poisoned");
                channels.0.send(()).expect("the other thread waits");
                // It ends without an answer.
                let _: Result<(), _> = channels.1.recv();
            }
            Fate::Done
        }
    };
    thread::scope(|scope| {
        let act = scope.spawn(move || {
            if begins.recv().is_ok() {
                let _release = Release(paused.clone());
                act(paused);
            }
        });
        let fs = Arc::new(Faulty::new(sim.clone(), decide));
        let store = Store::open_on(fs, dir, config).expect("it opens");
        (0..8).for_each(|n| put_flushed(&store, n..n + 1, LEN));
        is_done.store(true, Ordering::SeqCst);
        drop(store);
        drop(end);
        act.join().expect("it does not panic");
    });
    calls.get() >= nth
}

/// Lets a compaction go on when it is dropped, also after a panic.
struct Release(Paused);

impl Drop for Release {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}
