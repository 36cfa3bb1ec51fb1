//! Locks that a panic does not poison, and turns of threads that end in spite of each other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    TryLockError, TryLockResult,
};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Locks `mutex`, also after a panic under it: no state that this crate guards is left half
/// written, and both tiers check what they read.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for reading, as [`lock`] does.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks `lock` for writing, as [`lock`] does.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// For how long a thread that waits for a lock of the program only yields: as long as a walk over the
/// variables of a store may take.
const YIELDING: Duration = Duration::from_millis(1);

/// How often a thread tries for a lock at least: on a busy machine time passes without it.
const MIN_TRIES: usize = 100;

/// Locks `mutex` of the caller's program, unless another holder keeps it for longer than `timeout`. Threads
/// that wait in this function get it in their order, however many there are.
pub(crate) fn lock_for<T: ?Sized>(
    mutex: &Mutex<T>,
    timeout: Duration,
) -> Option<MutexGuard<'_, T>> {
    try_for(LockQueue::of(mutex), timeout, || mutex.try_lock())
}

/// Locks `lock` of the caller's program for reading, as [`lock_for`] does.
pub(crate) fn read_for<T: ?Sized>(
    lock: &RwLock<T>,
    timeout: Duration,
) -> Option<RwLockReadGuard<'_, T>> {
    try_for(LockQueue::of(lock), timeout, || lock.try_read())
}

fn try_for<G>(
    queue: &LockQueue,
    timeout: Duration,
    try_lock: impl Fn() -> TryLockResult<G>,
) -> Option<G> {
    let try_lock = || match try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    let Some(mut turn) = queue.enter(timeout) else {
        // Those in front may have waited for another lock.
        return try_lock();
    };
    let start = Instant::now();
    for tries in 1.. {
        if let Some(guard) = try_lock() {
            return Some(guard);
        }
        match start.elapsed() {
            waited if waited >= timeout && tries >= MIN_TRIES => break,
            waited if waited < YIELDING => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(200)),
        }
    }
    turn.is_in_vain = true;
    None
}

/// The threads that are about to lock a mutex of the program. It cannot be waited for with a bound, and
/// those that only try now and then may never find it free.
struct LockQueue {
    state: Mutex<LockQueueState>,
    left: Condvar,
}

struct LockQueueState {
    threads: VecDeque<ThreadId>,
    /// How many threads did not get their lock.
    in_vain: u64,
}

/// The turn of a thread to lock, which ends when this is dropped.
struct Front<'q> {
    queue: &'q LockQueue,
    is_in_vain: bool,
}

impl LockQueue {
    const fn new() -> Self {
        LockQueue {
            state: Mutex::new(LockQueueState {
                threads: VecDeque::new(),
                in_vain: 0,
            }),
            left: Condvar::new(),
        }
    }

    /// The queue of a lock. Others may share it.
    fn of<T: ?Sized>(lock: &T) -> &'static Self {
        static QUEUES: [LockQueue; 64] = [const { LockQueue::new() }; 64];
        &QUEUES[std::ptr::from_ref(lock).addr() / 64 % QUEUES.len()]
    }

    /// Waits for the turn of this thread: as long as others get their locks, and else for `timeout`.
    fn enter(&self, timeout: Duration) -> Option<Front<'_>> {
        let (this, start) = (thread::current().id(), Instant::now());
        let mut state = lock(&self.state);
        state.threads.push_back(this);
        let in_vain = state.in_vain;
        while let Some(&front) = state.threads.front()
            && front != this
        {
            let is_behind = |state: &mut LockQueueState| state.threads.front() == Some(&front);
            // The one in front gives up by itself, as soon as it gets to run.
            let waited = self.left.wait_timeout_while(state, 10 * timeout, is_behind);
            let (now, result) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            let is_held = state.in_vain != in_vain && start.elapsed() >= timeout;
            if is_held || result.timed_out() {
                state.threads.retain(|&thread| thread != this);
                drop(state);
                self.left.notify_all();
                return None;
            }
        }
        Some(Front {
            queue: self,
            is_in_vain: false,
        })
    }
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.state);
        state.threads.pop_front();
        state.in_vain += u64::from(self.is_in_vain);
        drop(state);
        self.queue.left.notify_all();
    }
}

/// Lets one thread at a time do what the others would only repeat. It is not a lock: a thread that has
/// waited long enough without progress goes on without its turn.
#[derive(Debug)]
pub(crate) struct Turn {
    owner: Mutex<Option<(ThreadId, Arc<Progress>)>>,
    ended: Condvar,
}

/// What the thread that has a turn shows to those that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Progress {
    /// Does work that may take long, and waits for no lock of the program.
    pub(crate) fn work<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Ended<'a>(&'a AtomicU64);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        self.begun.fetch_add(1, SeqCst);
        let _ended = Ended(&self.ended);
        work()
    }

    /// How much work was begun and ended.
    fn read(&self) -> (u64, u64) {
        (self.begun.load(SeqCst), self.ended.load(SeqCst))
    }
}

/// The turn of a thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    turn: Option<&'a Turn>,
    /// Whether another thread had a turn meanwhile.
    pub(crate) waited: bool,
    /// That of this thread.
    pub(crate) progress: Arc<Progress>,
}

impl Turn {
    pub(crate) const fn new() -> Self {
        Turn {
            owner: Mutex::new(None),
            ended: Condvar::new(),
        }
    }

    /// Waits for the turn of this thread, but not longer than `timeout` for a thread that makes no
    /// progress; not at all where this thread has it already.
    pub(crate) fn take(&self, timeout: Duration) -> Taken<'_> {
        let this = thread::current().id();
        let mut owner = lock(&self.owner);
        let mut waited = false;
        let mut seen = None;
        while let Some((thread, progress)) = &*owner
            && *thread != this
        {
            waited = true;
            let (begun, ended) = progress.read();
            if begun == ended && seen == Some((*thread, begun)) {
                break;
            }
            seen = Some((*thread, begun));
            let woken = self.ended.wait_timeout(owner, timeout);
            owner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let progress = Arc::<Progress>::default();
        let turn = owner.is_none().then(|| {
            *owner = Some((this, progress.clone()));
            self
        });
        Taken {
            turn,
            waited,
            progress,
        }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(20);

    /// Whether a thread that waits gets the turn that another one has while that does `work`.
    fn waits_for(work: impl FnOnce(&Progress) + Send) -> bool {
        waits_within(TIMEOUT, work)
    }

    fn waits_within(timeout: Duration, work: impl FnOnce(&Progress) + Send) -> bool {
        let turn = Turn::new();
        thread::scope(|scope| {
            let (sender, taken) = mpsc::channel();
            let turn = &turn;
            scope.spawn(move || {
                let own = turn.take(timeout);
                sender.send(()).unwrap();
                work(&own.progress);
            });
            taken.recv().unwrap();
            let waited = turn.take(timeout);
            assert!(waited.waited);
            waited.turn.is_some()
        })
    }

    #[test]
    fn a_thread_that_works_is_waited_for() {
        assert!(waits_for(
            |progress| progress.work(|| thread::sleep(10 * TIMEOUT))
        ));
        // Long, since a pause is longer on a busy machine.
        let timeout = Duration::from_secs(1);
        assert!(waits_within(timeout, |progress| {
            for _ in 0..30 {
                progress.work(|| ());
                thread::sleep(timeout / 20);
            }
        }));
    }

    #[test]
    fn a_thread_that_waits_is_not_waited_for() {
        assert!(!waits_for(|_| thread::sleep(10 * TIMEOUT)));
        assert!(!waits_for(|progress| {
            progress.work(|| ());
            thread::sleep(10 * TIMEOUT);
        }));
    }

    /// They only try for the lock, which is nearly always held.
    #[test]
    fn many_threads_get_a_lock_in_their_order() {
        let (mutex, start) = (Mutex::new(0), std::sync::Barrier::new(16));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..20 {
                        let mut locked = lock_for(&mutex, Duration::from_millis(500)).unwrap();
                        thread::sleep(Duration::from_millis(2));
                        *locked += 1;
                    }
                });
            }
        });
        assert_eq!(mutex.into_inner().unwrap(), 320);
    }

    #[test]
    fn a_lock_that_stays_held_is_not_waited_for() {
        let mutex = Mutex::new(());
        let held = mutex.lock().unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(lock_for(&mutex, TIMEOUT).is_none()));
            }
        });
        assert!(lock_for(&mutex, TIMEOUT).is_none(), "held by this thread");
        drop(held);
        assert!(lock_for(&mutex, TIMEOUT).is_some());
    }

    #[test]
    fn a_turn_within_a_turn_is_taken_at_once() {
        let turn = Turn::new();
        let _own = turn.take(TIMEOUT);
        assert!(!turn.take(TIMEOUT).waited);
    }
}
