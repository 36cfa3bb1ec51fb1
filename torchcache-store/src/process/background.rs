//! Threads for what takes long, which the end of the process waits for.

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::shutdown::exit_hook;
use crate::{fork, sys};

/// How long the end of the process waits for all threads, at most.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The threads that may not be done; `None` once the process ends.
fn threads() -> MutexGuard<'static, Option<Vec<JoinHandle<()>>>> {
    static THREADS: Mutex<Option<Vec<JoinHandle<()>>>> = Mutex::new(Some(Vec::new()));
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread. An exit hook joins it, for ten seconds at most, since libraries that it uses end in exit hooks as
/// well. The program's signals go to its own threads.
///
/// # Errors
///
/// The system starts no thread, the process ends, or it was forked off another one.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    start(name, work, join_at_exit)
}

/// The same. `join_at_exit`: registers the hook.
fn start(
    name: &str,
    work: impl FnOnce() + Send + 'static,
    join_at_exit: impl FnOnce(),
) -> io::Result<()> {
    if fork::is_forked() {
        return Err(io::Error::other("a forked process starts no thread"));
    }
    // Locked until the thread is one of them: the hook joins no other.
    let mut threads = threads();
    let Some(threads) = &mut *threads else {
        return Err(io::Error::other("the process ends"));
    };
    threads.retain(|thread| !thread.is_finished());
    join_at_exit();
    let builder = Builder::new().name(name.to_owned());
    threads.push(sys::without_signals(|| builder.spawn(work))?);
    Ok(())
}

/// Whether the end of the process waits for the threads.
fn is_ending() -> bool {
    threads().is_none()
}

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// Whether this thread runs jobs.
    static RUNS_JOBS: Cell<bool> = const { Cell::new(false) };
}

/// Jobs that run in the background, one after another in their order, on a thread that there is while there are any.
/// Nothing may depend on a job: the oldest one is dropped where too many wait, and those that wait are dropped with
/// this and when the process ends.
///
/// ```
/// use std::sync::mpsc;
/// use torchcache_store::background::BackgroundJobs;
///
/// let jobs = BackgroundJobs::new("example", 8);
/// let (sender, receiver) = mpsc::channel();
/// jobs.push(move || sender.send(7).unwrap());
/// assert_eq!(receiver.recv(), Ok(7));
/// ```
#[derive(Debug)]
pub struct BackgroundJobs {
    name: &'static str,
    limit: usize,
    queue: Arc<QueuedJobs>,
}

#[derive(Debug, Default)]
struct QueuedJobs {
    waiting: Mutex<WaitingJobs>,
    /// The thread has ended.
    ended: Condvar,
}

#[derive(Default)]
struct WaitingJobs {
    jobs: VecDeque<Job>,
    /// Whether there is a thread that takes them.
    is_running: bool,
}

impl fmt::Debug for WaitingJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingJobs")
            .field("jobs", &self.jobs.len())
            .field("is_running", &self.is_running)
            .finish()
    }
}

impl BackgroundJobs {
    /// No jobs yet. `name`: of the thread. `limit`: how many wait at most.
    pub fn new(name: &'static str, limit: usize) -> Self {
        BackgroundJobs {
            name,
            limit,
            queue: Arc::default(),
        }
    }

    /// Adds a job. Where the limit is reached, the one that has waited longest is dropped. Where no thread can be started,
    /// all are.
    pub fn push(&self, job: impl FnOnce() + Send + 'static) {
        let mut dropped = VecDeque::new();
        let mut waiting = self.queue.waiting();
        if waiting.jobs.len() >= self.limit {
            dropped.extend(waiting.jobs.pop_front());
        }
        waiting.jobs.push_back(Box::new(job));
        if !waiting.is_running {
            let queue = self.queue.clone();
            // Threads of jobs start again and again.
            let join_once = || {
                static REGISTERED: Once = Once::new();
                REGISTERED.call_once(join_at_exit);
            };
            waiting.is_running = start(self.name, move || queue.run(), join_once).is_ok();
            if !waiting.is_running {
                dropped.append(&mut waiting.jobs);
            }
        }
        // What a job has may take a lock when it is dropped.
        drop(waiting);
    }

    /// Drops the jobs that wait, and waits until the one that runs is done. A job does not wait for itself.
    pub fn cancel(&self) {
        // What a job has may take a lock when it is dropped.
        let dropped = take(&mut self.queue.waiting().jobs);
        drop(dropped);
        let mut waiting = self.queue.waiting();
        // A forked child does not have the thread.
        while waiting.is_running && !RUNS_JOBS.get() && !fork::is_forked() {
            let ended = self.queue.ended.wait(waiting);
            waiting = ended.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for BackgroundJobs {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl QueuedJobs {
    fn waiting(&self) -> MutexGuard<'_, WaitingJobs> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        RUNS_JOBS.set(true);
        while let Some(job) = self.next() {
            // It is reported by the hook of panics. The other jobs run all the same.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    /// The next job. Without one the thread ends.
    fn next(&self) -> Option<Job> {
        let mut dropped = VecDeque::new();
        let is_ending = is_ending();
        let mut waiting = self.waiting();
        if is_ending {
            dropped = take(&mut waiting.jobs);
        }
        let job = waiting.jobs.pop_front();
        if job.is_none() {
            waiting.is_running = false;
            self.ended.notify_all();
        }
        drop(waiting);
        drop(dropped);
        job
    }
}

/// Has the threads of [`spawn`] joined before the exit hooks run that are registered by now. For a thread that has loaded
/// a library, which may have registered one.
pub fn join_at_exit() {
    // Where it cannot be registered, the process does not wait.
    sys::at_exit(join_all);
}

/// Joins the threads, except those that take too long.
extern "C" fn join_all() {
    // A forked child has none of them.
    if fork::is_forked() {
        return;
    }
    let threads = threads().take().unwrap_or_default();
    if threads.iter().any(|thread| !thread.is_finished()) {
        // First, since the process may be killed while it waits.
        exit_hook();
    }
    let begin = Instant::now();
    for thread in threads {
        while !thread.is_finished() && begin.elapsed() < EXIT_TIMEOUT {
            sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A job that says that it runs, and ends when it may.
    fn blocked(jobs: &BackgroundJobs) -> (Receiver<()>, Sender<()>) {
        let ((started, starts), (end, ends)) = (channel(), channel());
        jobs.push(move || {
            started.send(()).expect("the test receives");
            let _ = ends.recv();
        });
        (starts, end)
    }

    #[test]
    fn jobs_run_in_order_and_the_oldest_are_dropped() {
        let jobs = BackgroundJobs::new("test", 3);
        let (starts, end) = blocked(&jobs);
        starts.recv().unwrap();
        let (done, numbers) = channel();
        for number in 0..5 {
            let done = done.clone();
            jobs.push(move || done.send(number).expect("the test receives"));
        }
        jobs.push(|| panic!("the others run all the same"));
        drop((end, done));
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn dropping_the_jobs_ends_the_thread_and_waits_for_the_one_that_runs() {
        let jobs = BackgroundJobs::new("test", 3);
        let (starts, end) = blocked(&jobs);
        starts.recv().unwrap();
        let held = Arc::new(());
        let waiting = held.clone();
        jobs.push(move || drop(waiting));
        let ending = std::thread::spawn(move || drop(jobs));
        // Dropped before the one that runs is done.
        while Arc::strong_count(&held) > 1 && !ending.is_finished() {
            std::thread::yield_now();
        }
        assert!(!ending.is_finished());
        end.send(()).unwrap();
        ending.join().unwrap();
    }

    #[test]
    fn a_job_may_drop_its_own_queue() {
        let jobs = Arc::new(BackgroundJobs::new("test", 3));
        let (starts, end) = blocked(&jobs);
        let (own, (done, is_done)) = (jobs.clone(), channel());
        jobs.push(move || {
            drop(own);
            done.send(()).expect("the test receives");
        });
        starts.recv().unwrap();
        drop(jobs);
        drop(end);
        assert_eq!(is_done.recv(), Ok(()));
    }
}
