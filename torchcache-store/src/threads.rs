//! Sharing work among the cores: on a pool of this crate's for what happens at each call, on threads
//! of their own for what is rare and happens under a lock.
//!
//! The pool is not rayon's global one. There, a thread that waits for others runs whatever else lies
//! in the pool, and whoever waits for the pool waits for everybody's tasks. Callers often hold a lock:
//! a `Tensor` is not `Sync`, so models that threads share are in a `Mutex`. With a task that wants the
//! same lock, both would wait for ever. For the same reason a caller that is in some pool of rayon
//! already does its work alone: there, waiting means to run other tasks.
//!
//! Public since torchcache hashes and copies on the same threads; not meant for anybody else.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The most threads of [`among_threads`]: more fill an index no faster, and each is started anew.
/// The pool has no such bound.
const MOST_THREADS: usize = 8;

/// The threads beside the caller's; `None` where it has to work alone. As many as the machine has
/// cores, or as `RAYON_NUM_THREADS` says.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<(u32, Option<ThreadPool>)> = OnceLock::new();
    if rayon::current_thread_index().is_some() {
        return None;
    }
    let named = |thread| format!("torchcache-{thread}");
    let build = || ThreadPoolBuilder::new().thread_name(named).build().ok();
    let (process, pool) = POOL.get_or_init(|| (std::process::id(), build()));
    // A fork has the pool, but none of its threads.
    pool.as_ref().filter(|_| *process == std::process::id())
}

/// On how many cores work of this thread can be done. The pool is started if need be.
pub fn count() -> usize {
    pool().map_or(1, ThreadPool::current_num_threads)
}

/// Does every job, on this thread and up to `workers - 1` others: whoever is free takes the next
/// one, so that a core that is busy elsewhere holds nothing up.
///
/// ```
/// let mut squares = [0; 5];
/// let jobs = (0..5).zip(&mut squares);
/// torchcache_store::threads::each(2, jobs, |(n, square)| *square = n * n);
/// assert_eq!(squares, [0, 1, 4, 9, 16]);
/// ```
pub fn each<J: Send>(
    workers: usize,
    jobs: impl Iterator<Item = J> + Send,
    work: impl Fn(J) + Sync,
) {
    let Some(pool) = (workers > 1).then(pool).flatten() else {
        return jobs.for_each(work);
    };
    let jobs = Jobs(Mutex::new(jobs));
    pool.in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| jobs.each(&work));
        }
        jobs.each(&work);
    });
}

/// Runs a job some time soon on another thread, if there is one, and if no other such job is under
/// way, since whoever comes to [`each`] waits for threads that are busy here: nothing may depend on
/// the job.
pub fn later(job: impl FnOnce() + Send + 'static) {
    static UNDER_WAY: AtomicBool = AtomicBool::new(false);
    let Some(pool) = pool().filter(|pool| pool.current_num_threads() > 1) else {
        return;
    };
    if !UNDER_WAY.swap(true, Ordering::Acquire) {
        pool.spawn(|| {
            job();
            UNDER_WAY.store(false, Ordering::Release);
        });
    }
}

/// Runs `work` so that what it shares by rayon goes to the same threads.
pub fn spread<R: Send>(work: impl FnOnce() -> R + Send) -> Option<R> {
    pool().map(|pool| pool.install(work))
}

/// How many threads [`among_threads`] uses at most.
pub(crate) fn threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    cores.min(MOST_THREADS)
}

/// The same on new threads, which run nothing else, so that locks may be held.
pub(crate) fn among_threads<T: Send>(pieces: Vec<T>, work: impl Fn(T) + Sync) {
    let helpers = threads().min(pieces.len()).saturating_sub(1);
    let pieces = Jobs(Mutex::new(pieces.into_iter()));
    thread::scope(|scope| {
        for _ in 0..helpers {
            // Where no thread is to be had, this one does it all.
            let _ = thread::Builder::new().spawn_scoped(scope, || pieces.each(&work));
        }
        pieces.each(&work);
    });
}

/// Jobs that wait for somebody.
struct Jobs<I>(Mutex<I>);

impl<I: Iterator> Jobs<I> {
    fn next(&self) -> Option<I::Item> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn each(&self, work: impl Fn(I::Item)) {
        while let Some(job) = self.next() {
            work(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_job_is_done_once_from_within_a_pool_and_from_outside() {
        let check = || {
            for number in [0, 1, 2, 3, 100] {
                let jobs = || (0..number).map(|n| 1 << (n % 60)).collect::<Vec<u64>>();
                let done = AtomicU64::new(0);
                let work = |job| {
                    done.fetch_add(job, Ordering::Relaxed);
                };
                each(count(), jobs().into_iter(), work);
                each(1, jobs().into_iter(), work);
                among_threads(jobs(), work);
                let sum: u64 = jobs().iter().sum();
                assert_eq!(done.into_inner(), 3 * sum, "{number} jobs");
            }
        };
        check();
        rayon::join(check, check);
    }

    #[test]
    fn a_job_for_later_is_alone_and_holds_up_nobody() {
        if count() == 1 {
            return; // There is no other thread to do it.
        }
        let (started, starts) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let tell = started.clone();
        later(move || {
            tell.send(1).expect("the test waits");
            ends.recv().expect("the test says when");
        });
        assert_eq!(starts.recv(), Ok(1));
        later(move || started.send(2).expect("nobody does this"));
        let done = AtomicU64::new(0);
        each(2, 0..100, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 100);
        end.send(()).expect("the first job waits");
        // The second job is gone, and with it its end of the channel.
        assert!(starts.recv().is_err());
    }

    #[test]
    fn a_caller_in_a_pool_works_alone() {
        rayon::scope(|scope| {
            scope.spawn(|_| {
                assert_eq!(count(), 1);
                assert!(spread(|| ()).is_none());
                let caller = thread::current().id();
                each(4, 0..100, |_| assert_eq!(thread::current().id(), caller));
            });
        });
    }
}
