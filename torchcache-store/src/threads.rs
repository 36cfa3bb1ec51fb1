//! Running work on several threads: a pool for what every call does, and scoped threads for what is
//! rare and runs under a lock.
//!
//! The pool is not rayon's global one, since there a thread that waits runs any other task meanwhile.
//! Callers often hold a lock (a `Tensor` is not `Sync`, so a model that threads share is in a
//! `Mutex`), and a task that wants the same lock would deadlock. For the same reason a caller that
//! already runs in a rayon pool does its work alone: waiting there means running other tasks.
//!
//! Public because torchcache hashes and copies rows on the same threads.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{fork, sys};

/// The most threads that [`scoped_for_each`] uses: more do not fill an index faster, and each is
/// newly started. The pool has no such bound.
const MAX_SCOPED: usize = 8;

/// The pool, with one thread per core or as many as `RAYON_NUM_THREADS` says; `None` where the
/// caller has to work alone.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    // A forked child has the pool, but none of its threads.
    if rayon::current_thread_index().is_some() || fork::is_forked() {
        return None;
    }
    let name = |thread| format!("torchcache-{thread}");
    let build = || ThreadPoolBuilder::new().thread_name(name).build().ok();
    POOL.get_or_init(|| sys::without_signals(build)).as_ref()
}

/// From now on, at a limit of file sizes, writes of this thread and of those that it starts fail, and do not end
/// the process by SIGXFSZ. For the start of a program. On macOS, threads that were started before take that signal.
pub fn block_file_size_signal() {
    sys::block_file_size_signal();
}

/// Starts a thread that the end of the process does not wait for. The program's signals go to its own threads, and not
/// to this one or to those that it starts.
///
/// ```
/// let (sender, receiver) = std::sync::mpsc::channel();
/// torchcache_store::threads::spawn_detached("example", move || sender.send(7).unwrap())?;
/// assert_eq!(receiver.recv(), Ok(7));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// The system starts no thread, or the process was forked off another one.
pub fn spawn_detached(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if fork::is_forked() {
        return Err(io::Error::other("a forked process starts no thread"));
    }
    let builder = thread::Builder::new().name(name.to_owned());
    sys::without_signals(|| builder.spawn(work))?;
    Ok(())
}

/// How many threads can share the work of this one. Starts the pool if need be.
pub fn count() -> usize {
    pool().map_or(1, ThreadPool::current_num_threads)
}

/// Runs every job, on this thread and up to `workers - 1` others. Each thread takes the next job when
/// it is free, so a core that is busy with something else delays nothing.
///
/// ```
/// let mut squares = [0; 5];
/// let jobs = (0..5).zip(&mut squares);
/// torchcache_store::threads::for_each(2, jobs, |(n, square)| *square = n * n);
/// assert_eq!(squares, [0, 1, 4, 9, 16]);
/// ```
pub fn for_each<J: Send>(
    workers: usize,
    jobs: impl Iterator<Item = J> + Send,
    work: impl Fn(J) + Sync,
) {
    let Some(pool) = (workers > 1).then(pool).flatten() else {
        return jobs.for_each(work);
    };
    let jobs = JobQueue(Mutex::new(jobs));
    pool.in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| jobs.run(&work));
        }
        jobs.run(&work);
    });
}

/// Runs a job on another thread soon, or drops it if there is no other thread or such a job runs
/// already. Callers of [`for_each`] wait for threads that are busy here, so nothing may depend on the
/// job.
pub fn try_spawn(job: impl FnOnce() + Send + 'static) {
    static IS_RUNNING: AtomicBool = AtomicBool::new(false);
    let Some(pool) = pool().filter(|pool| pool.current_num_threads() > 1) else {
        return;
    };
    if !IS_RUNNING.swap(true, Ordering::Acquire) {
        pool.spawn(|| {
            job();
            IS_RUNNING.store(false, Ordering::Release);
        });
    }
}

/// Runs `work` in the pool, so that rayon's parallel iterators in it use the same threads. `None` if
/// the caller has to work alone; then `work` was not run.
pub fn install<R: Send>(work: impl FnOnce() -> R + Send) -> Option<R> {
    pool().map(|pool| pool.install(work))
}

/// How many threads [`scoped_for_each`] uses at most.
pub(crate) fn max_scoped() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    cores.min(MAX_SCOPED)
}

/// Runs every job on this thread and on new ones that run nothing else, so the caller may hold locks.
pub(crate) fn scoped_for_each<J: Send>(jobs: Vec<J>, work: impl Fn(J) + Sync) {
    let helpers = max_scoped().min(jobs.len()).saturating_sub(1);
    let jobs = JobQueue(Mutex::new(jobs.into_iter()));
    thread::scope(|scope| {
        for _ in 0..helpers {
            // If no thread can be started, this one does all the work.
            let builder = thread::Builder::new();
            let _ = sys::without_signals(|| builder.spawn_scoped(scope, || jobs.run(&work)));
        }
        jobs.run(&work);
    });
}

/// Jobs that several threads take from.
struct JobQueue<I>(Mutex<I>);

impl<I: Iterator> JobQueue<I> {
    fn next(&self) -> Option<I::Item> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn run(&self, work: impl Fn(I::Item)) {
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
    fn every_job_runs_once_inside_and_outside_a_pool() {
        let check = || {
            for number in [0, 1, 2, 3, 100] {
                let jobs = || (0..number).map(|n| 1 << (n % 60)).collect::<Vec<u64>>();
                let done = AtomicU64::new(0);
                let work = |job| {
                    done.fetch_add(job, Ordering::Relaxed);
                };
                for_each(count(), jobs().into_iter(), work);
                for_each(1, jobs().into_iter(), work);
                scoped_for_each(jobs(), work);
                let sum: u64 = jobs().iter().sum();
                assert_eq!(done.into_inner(), 3 * sum, "{number} jobs");
            }
        };
        check();
        rayon::join(check, check);
    }

    #[test]
    fn one_spawned_job_runs_at_a_time_and_blocks_no_other_work() {
        if count() == 1 {
            return; // no other thread would run it
        }
        let (started, starts) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let sender = started.clone();
        try_spawn(move || {
            sender.send(1).expect("the test receives");
            ends.recv().expect("the test sends");
        });
        assert_eq!(starts.recv(), Ok(1));
        try_spawn(move || started.send(2).expect("this job is dropped"));
        let done = AtomicU64::new(0);
        for_each(2, 0..100, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 100);
        end.send(()).expect("the first job receives");
        // The second job was dropped, and its end of the channel with it.
        assert!(starts.recv().is_err());
    }

    #[test]
    fn a_caller_inside_a_rayon_pool_works_alone() {
        rayon::scope(|scope| {
            scope.spawn(|_| {
                assert_eq!(count(), 1);
                assert!(install(|| ()).is_none());
                let caller = thread::current().id();
                for_each(4, 0..100, |_| assert_eq!(thread::current().id(), caller));
            });
        });
    }
}
