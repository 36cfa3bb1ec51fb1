//! The signals that end a process: before that, queued rows are written as at any other end. A handler
//! of the program, whether installed before or later, replaces those of this module.

use std::ffi::c_int;
use std::io::{self, PipeWriter, Read};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;

use rustix::time::{ClockId, clock_gettime};

use crate::sys::{self, Disposition};
use crate::{descriptors, fork};

/// Termination, interruption at the terminal, loss of the terminal.
const SIGNALS: [c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// From the handler to the thread that may do more than a handler may.
static PIPE: OnceLock<PipeWriter> = OnceLock::new();

/// When the first signal came, in milliseconds of the monotonic clock; 0 before that.
static FIRST_SIGNAL: AtomicU64 = AtomicU64::new(0);

/// A signal so soon after the first is the same request: when a terminal is closed, both the system
/// and the shell send one.
const REPEAT_MILLIS: u64 = 500;

/// Has `finish` called before a signal ends the process. A second call does nothing.
pub(super) fn install(finish: impl Fn() + Send + 'static) -> io::Result<()> {
    let is_default = |signal: &&c_int| sys::disposition(**signal) == Some(Disposition::Default);
    let signals: Vec<_> = SIGNALS.iter().filter(is_default).collect();
    // The process that installs handlers is the one that is not forked.
    if signals.is_empty() || fork::is_forked() || PIPE.get().is_some() {
        return Ok(());
    }
    let (mut receiver, sender) = descriptors::retry(io::pipe)?;
    let end = move || {
        let mut signal = [0];
        if receiver.read_exact(&mut signal).is_ok() {
            finish();
            sys::end_by(c_int::from(signal[0]));
        }
    };
    let builder = Builder::new().name("torchcache-end".into());
    sys::without_signals(|| builder.spawn(end))?;
    // Another thread may have been first. The end of this pipe then ends the new thread.
    if PIPE.set(sender).is_err() {
        return Ok(());
    }
    for signal in signals {
        // The program may have installed a handler since; that one stays.
        sys::handle(*signal, on_signal);
    }
    Ok(())
}

/// May interrupt any code, so it makes only system calls that are allowed in handlers.
extern "C" fn on_signal(signal: c_int) {
    // The program installed a handler later, and that one calls this.
    if sys::disposition(signal) != Some(Disposition::Other(on_signal as *const () as usize)) {
        return;
    }
    if fork::is_forked() {
        sys::end_by(signal); // no thread of this process reads from the pipe
    }
    let now = clock_gettime(ClockId::Monotonic);
    let now = (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000).max(1);
    let first = FIRST_SIGNAL.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    if let Err(first) = first {
        if now > first + REPEAT_MILLIS {
            sys::end_by(signal);
        }
        return;
    }
    let pipe = PIPE.get();
    let written = pipe.map(|pipe| rustix::io::write(pipe, &[signal as u8]));
    if written != Some(Ok(1)) {
        sys::end_by(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn handler_of_the_program(_: c_int) {}

    #[test]
    fn a_handler_that_is_installed_first_stays() {
        const SIGNAL: c_int = libc::SIGUSR1;
        let installed = handler_of_the_program as *const () as usize;
        assert!(sys::handle(SIGNAL, handler_of_the_program));
        assert!(!sys::handle(SIGNAL, on_signal));
        let present = sys::disposition(SIGNAL);
        assert_eq!(present, Some(Disposition::Other(installed)));
    }
}
