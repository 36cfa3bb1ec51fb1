//! All `unsafe` code of the crate: mapping a file, the C library's exit hook, and signals.

#![expect(
    unsafe_code,
    reason = "mmap, atexit and sigaction have no safe interface"
)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::ptr::{null, null_mut};

use memmap2::Mmap;

/// Maps a whole segment file for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is sound as long as nobody changes the file below it. Segments are
    // never written to after they got their name, and no code of this crate shortens one.
    // A change from outside can at worst show other bytes (every row is copied out first; the
    // copy is what is checked, and decompressed) or, if the file is shortened, end the process
    // with SIGBUS; `Config::mmap` says so to whoever turns it on.
    unsafe { Mmap::map(file) }
}

/// Registers `hook` to run when the process ends by returning from `main` or by `exit`.
/// Returns whether the C library took it.
pub(crate) fn at_exit(hook: extern "C" fn()) -> bool {
    // SAFETY: `hook` is a function with the signature that `atexit` wants, it lives as long
    // as the program, and it must not unwind, which `exit::hook` ensures.
    unsafe { libc::atexit(hook) == 0 }
}

/// A signal handler. It may interrupt any code at any place, so that it must do nothing but what
/// `signal-safety(7)` allows.
pub(crate) type Handler = extern "C" fn(c_int);

/// What the process does about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// What the system does by itself.
    Default,
    /// It calls this handler, or does something else of somebody's choice.
    Other(usize),
}

/// What the process does about a signal now. Safe to call in a handler.
pub(crate) fn disposition(signal: c_int) -> Option<Disposition> {
    // SAFETY: `sigaction` with no new action writes the present one, for which zeros are a valid
    // value to begin with, and touches nothing else.
    let (done, action) = unsafe {
        let mut action: libc::sigaction = zeroed();
        (libc::sigaction(signal, null(), &raw mut action), action)
    };
    (done == 0).then_some(match action.sa_sigaction {
        libc::SIG_DFL => Disposition::Default,
        other => Disposition::Other(other),
    })
}

/// Has a signal handled that nobody handles, and leaves it to whoever does. Interrupted system calls
/// go on where they were.
pub(crate) fn handle(signal: c_int, handler: Handler) -> bool {
    // SAFETY: zeros are a valid action, of which the handler, which lives as long as the program
    // and has the type that goes with these flags, and the flags are set; the empty mask of
    // `sigemptyset` is that of zeros on all systems that this crate builds on. What `sigaction`
    // gave as the action before is one that it takes.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = (zeroed(), zeroed());
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(signal, &raw const action, &raw mut before) != 0 {
            return false;
        }
        // Asking first would leave a moment in which another thread may set its own.
        let was_free = before.sa_sigaction == libc::SIG_DFL;
        was_free || libc::sigaction(signal, &raw const before, null_mut()) != 0
    }
}

/// Ends the process as the system does by itself upon a signal. Safe to call in a handler.
pub(crate) fn end_by(signal: c_int) -> ! {
    // SAFETY: plain system calls on numbers and on a set of signals, which `sigemptyset` fills in.
    // All of them are allowed in handlers.
    unsafe {
        let mut only: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::signal(signal, libc::SIG_DFL);
        // In its own handler it is blocked. Without that it ends the process before `raise` returns.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, null_mut());
        libc::raise(signal);
        // The first process of a container is not ended by what it does not handle. Shells give the
        // end by a signal this number.
        libc::_exit(128 + signal)
    }
}
