//! Threads for what takes long, which the end of the process waits for.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

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
