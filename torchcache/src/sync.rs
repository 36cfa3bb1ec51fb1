//! Locks that a panic does not poison, and turns of threads that end in spite of each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Locks `mutex`, also after a panic under it: no state that this crate guards is left half
/// written, and both tiers check what they read.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `mutex` of the caller's program, unless that takes longer than `timeout`.
pub(crate) fn lock_for<T>(mutex: &Mutex<T>, timeout: Duration) -> Option<MutexGuard<'_, T>> {
    let start = Instant::now();
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() >= timeout => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// Lets one thread at a time do what the others would only repeat. It is not a lock: a thread that has
/// waited long enough goes on without its turn.
#[derive(Debug)]
pub(crate) struct Turn {
    owner: Mutex<Option<ThreadId>>,
    ended: Condvar,
}

/// The turn of a thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    turn: Option<&'a Turn>,
    /// Whether another thread had a turn meanwhile.
    pub(crate) waited: bool,
}

impl Turn {
    pub(crate) const fn new() -> Self {
        Turn {
            owner: Mutex::new(None),
            ended: Condvar::new(),
        }
    }

    /// Waits for the turn of this thread, but not longer than `timeout`; not at all where this thread
    /// has it already.
    pub(crate) fn take(&self, timeout: Duration) -> Taken<'_> {
        let this = thread::current().id();
        let owner = lock(&self.owner);
        let waited = owner.is_some_and(|owner| owner != this);
        let taken = |owner: &mut Option<ThreadId>| owner.is_some_and(|owner| owner != this);
        let waited_for = self.ended.wait_timeout_while(owner, timeout, taken);
        let (mut owner, _) = waited_for.unwrap_or_else(PoisonError::into_inner);
        let turn = owner.is_none().then(|| {
            *owner = Some(this);
            self
        });
        Taken { turn, waited }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            *lock(&turn.owner) = None;
            turn.ended.notify_all();
        }
    }
}
