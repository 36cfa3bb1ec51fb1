//! The signals that ask a process to end: what is queued is written first, as at any other end. Only
//! where nobody else handles them: a handler of the program's own, whether it comes before or later,
//! is the only one.

use std::ffi::c_int;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Builder;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_gettime};

use crate::sys::{self, Disposition};

/// To be terminated, to be interrupted at the terminal, to have lost the terminal.
const SIGNALS: [c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The way from the handler to the thread that may do more than a handler may.
static TOLD: OnceLock<OwnedFd> = OnceLock::new();

/// The process that handles signals: a fork of it has no thread to do so.
static OWNER: OnceLock<u32> = OnceLock::new();

/// When it was asked to end, in milliseconds of a clock that nobody sets; 0 before that.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// What comes so soon after the first signal is the same request in other words: a terminal that is
/// closed is told of by the system and by the shell.
const SAME: u64 = 500;

/// Has `tidy` called before a signal ends the process. To be called once.
///
/// # Errors
/// What the operating system says; then signals end the process at once, as without this.
pub(crate) fn arm(tidy: impl Fn() + Send + 'static) -> io::Result<()> {
    let free = |signal: &&c_int| sys::disposition(**signal) == Some(Disposition::Default);
    let signals: Vec<_> = SIGNALS.iter().filter(free).collect();
    if signals.is_empty() {
        return Ok(());
    }
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut told = std::fs::File::from(told);
    Builder::new()
        .name("torchcache-end".into())
        .spawn(move || {
            let mut signal = [0];
            if told.read_exact(&mut signal).is_ok() {
                tidy();
                sys::end_by(c_int::from(signal[0]));
            }
        })?;
    if OWNER.set(std::process::id()).is_ok() && TOLD.set(tell).is_ok() {
        for signal in signals {
            // Somebody may have been faster since.
            sys::handle(*signal, on_signal);
        }
    }
    Ok(())
}

/// Runs in the midst of anything: it only makes system calls that are allowed there.
extern "C" fn on_signal(signal: c_int) {
    // Somebody who came later handles it, and calls whom it found here.
    if sys::disposition(signal) != Some(Disposition::Other(on_signal as *const () as usize)) {
        return;
    }
    if OWNER.get() != Some(&std::process::id()) {
        sys::end_by(signal);
    }
    let now = clock_gettime(ClockId::Monotonic);
    let now = (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000).max(1);
    let asked = ASKED.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    if let Err(first) = asked {
        // Whoever asks again is impatient.
        if now > first + SAME {
            sys::end_by(signal);
        }
        return;
    }
    let told = TOLD
        .get()
        .map(|tell| rustix::io::write(tell, &[signal as u8]));
    if told != Some(Ok(1)) {
        sys::end_by(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn of_the_program(_: c_int) {}

    #[test]
    fn a_handler_that_comes_first_stays() {
        const SIGNAL: c_int = libc::SIGUSR1;
        let theirs = of_the_program as *const () as usize;
        assert!(sys::handle(SIGNAL, of_the_program));
        assert!(!sys::handle(SIGNAL, on_signal));
        let present = sys::disposition(SIGNAL);
        assert_eq!(present, Some(Disposition::Other(theirs)));
    }
}
