//! The progress of flushers. Callers that wait for one give up where it makes none for the stall timeout; a disk
//! that is slow, a row that takes long to compress and the work of other flushers are progress.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sync::thread_local;

/// In place of a time: the flusher computes, which takes as long as it does.
const COMPUTING: u64 = u64::MAX;

thread_local! {
    /// The progress of the flusher whose thread this is.
    static OWN: RefCell<Option<Arc<FlusherProgress>>> = const { RefCell::new(None) };
    /// Not part of `OWN`: it is read after that was destroyed at the end of the thread.
    static IS_FLUSHER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the flusher thread of any store. Code of the program may run there (a log subscriber,
/// the destructor of a queued value) and call any store. It must not wait for a flusher: for this one
/// that would be endless, and two flushers might wait for each other.
pub(crate) fn is_flusher_thread() -> bool {
    IS_FLUSHER.with(Cell::get)
}

pub(crate) fn set_flusher_thread(is_flusher: bool) {
    IS_FLUSHER.with(|present| present.set(is_flusher));
}

/// This thread makes progress, if it is that of a flusher.
pub(crate) fn note() {
    let _ = OWN.try_with(|own| own.borrow().iter().for_each(|own| own.note()));
}

/// Runs work that needs no disk. As long as it takes, the flusher makes progress.
pub(crate) fn compute<T>(work: impl FnOnce() -> T) -> T {
    struct Computing;
    impl Drop for Computing {
        fn drop(&mut self) {
            note();
        }
    }
    let _ = OWN.try_with(|own| own.borrow().iter().for_each(|own| own.set(COMPUTING)));
    let _computing = Computing;
    work()
}

/// When a flusher last made progress. It is noted for each row and each call of the file system.
#[derive(Debug)]
pub(crate) struct FlusherProgress {
    begin: Instant,
    /// Milliseconds since `begin`, or [`COMPUTING`].
    last: AtomicU64,
    /// Where the flusher waits for others.
    awaited: Mutex<Option<Arc<Turns>>>,
}

impl Default for FlusherProgress {
    fn default() -> Self {
        FlusherProgress {
            begin: Instant::now(),
            last: AtomicU64::new(0),
            awaited: Mutex::default(),
        }
    }
}

impl FlusherProgress {
    /// Lets [`note`] on this thread note the progress.
    pub(crate) fn follow_this_thread(self: &Arc<Self>) {
        set_flusher_thread(true);
        OWN.with(|own| *own.borrow_mut() = Some(self.clone()));
    }

    pub(crate) fn note(&self) {
        self.set(self.begin.elapsed().as_millis() as u64);
    }

    fn set(&self, last: u64) {
        self.last.store(last, Ordering::Relaxed);
    }

    /// Where it waits for other flushers, their progress counts.
    pub(crate) fn last(&self) -> Instant {
        let own = match self.last.load(Ordering::Relaxed) {
            COMPUTING => Instant::now(),
            last => self.begin + Duration::from_millis(last),
        };
        let awaited = self.awaited().clone();
        let others = awaited.and_then(|turns| turns.last_progress());
        others.map_or(own, |others| others.max(own))
    }

    #[cfg(test)]
    pub(crate) fn is_waiting(&self) -> bool {
        self.awaited().is_some()
    }

    fn awaited(&self) -> MutexGuard<'_, Option<Arc<Turns>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns that flushers take, some at a time.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Those whose turn it is.
    working: Mutex<Vec<Arc<FlusherProgress>>>,
    done: Condvar,
}

/// The turn of a flusher, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    progress: Arc<FlusherProgress>,
}

impl Turns {
    fn working(&self) -> MutexGuard<'_, Vec<Arc<FlusherProgress>>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_progress(&self) -> Option<Instant> {
        let working = self.working().clone();
        working.iter().map(|progress| progress.last()).max()
    }

    /// Waits until fewer than so many have a turn. Meanwhile the progress of these is that of the one that
    /// waits, and so is the end of each turn.
    pub(crate) fn take(
        self: &Arc<Self>,
        progress: &Arc<FlusherProgress>,
        most: impl Fn() -> u64,
    ) -> Turn {
        let mut working = self.working();
        if working.len() as u64 >= most().max(1) {
            *progress.awaited() = Some(self.clone());
            while working.len() as u64 >= most().max(1) {
                let woken = self.done.wait(working);
                working = woken.unwrap_or_else(PoisonError::into_inner);
                progress.note();
            }
            *progress.awaited() = None;
        }
        working.push(progress.clone());
        Turn {
            turns: self.clone(),
            progress: progress.clone(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut working = self.turns.working();
        let ended = working
            .iter()
            .position(|it| Arc::ptr_eq(it, &self.progress));
        ended.map(|at| working.swap_remove(at));
        drop(working);
        self.turns.done.notify_all();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_flusher_that_waits_makes_the_progress_of_others() {
        let turns = Arc::new(Turns::default());
        let [working, waiting] = [(); 2].map(|()| Arc::new(FlusherProgress::default()));
        let turn = turns.take(&working, || 1);
        let waiter = thread::spawn({
            let (turns, waiting) = (turns.clone(), waiting.clone());
            move || drop(turns.take(&waiting, || 1))
        });
        while !waiting.is_waiting() {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(2));
        working.note();
        // Waking up is progress as well.
        assert!(waiting.last() >= working.last());
        assert!(waiting.last() > waiting.begin);
        drop(turn);
        waiter.join().expect("it does not panic");
    }

    #[test]
    fn computing_is_progress_however_long_it_takes() {
        let progress = Arc::new(FlusherProgress::default());
        let done = thread::spawn({
            let progress = progress.clone();
            move || {
                progress.follow_this_thread();
                compute(|| {
                    let begin = Instant::now();
                    thread::sleep(Duration::from_millis(2));
                    progress.last() > begin
                })
            }
        });
        assert!(done.join().expect("it does not panic"));
        let last = progress.last();
        thread::sleep(Duration::from_millis(2));
        assert_eq!(progress.last(), last, "it ended");
    }
}
