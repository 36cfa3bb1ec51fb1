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

/// Has a signal handled. Interrupted system calls go on where they were.
pub(crate) fn handle(signal: c_int, handler: Handler) -> bool {
    // SAFETY: zeros are a valid action, of which the handler, which lives as long as the program
    // and has the type that goes with these flags, and the flags are set; the empty mask of
    // `sigemptyset` is that of zeros on all systems that this crate builds on.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, null_mut()) == 0
    }
}

/// Has the system do what it does by itself about a signal, and sends it to this process. Safe to
/// call in a handler.
pub(crate) fn send_by_default(signal: c_int) {
    // SAFETY: all three are plain system calls on numbers, and allowed in handlers.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
}
