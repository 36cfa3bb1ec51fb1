//! All `unsafe` code of the crate: memory maps, writing back parts of files, the exit hook of the C library, and
//! signals.

#![expect(
    unsafe_code,
    reason = "mmap, sync_file_range, atexit, sigaction and signal masks have no safe interface"
)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::ptr::{null, null_mut};

use memmap2::Mmap;

/// Maps a whole segment file for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is sound as long as the file does not change. Segments are never written to
    // after they got their name, and no code of this crate truncates one. If another program writes
    // to the file, other bytes are seen at worst: every row is copied out first, and the copy is
    // checked and decompressed. If it truncates the file, the process ends with SIGBUS, which
    // `Config::mmap` documents.
    unsafe { Mmap::map(file) }
}

/// Waits until what was written to a file is with the disk. It need not survive a power loss before the file
/// is synced.
#[cfg(target_os = "linux")]
pub(crate) fn write_back(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    const ALL: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the call takes numbers only, and the descriptor is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, ALL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same, which takes longer.
#[cfg(not(target_os = "linux"))]
pub(crate) fn write_back(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Registers `hook` to run when the process ends by `exit` or by returning from `main`. Returns
/// whether the C library accepted it.
pub(crate) fn at_exit(hook: extern "C" fn()) -> bool {
    // SAFETY: `hook` has the signature that `atexit` expects, lives as long as the program, and does
    // not unwind: an `extern "C"` function aborts on panics that it does not catch.
    unsafe { libc::atexit(hook) == 0 }
}

/// A signal handler. It may interrupt any code, so it may do only what `signal-safety(7)` allows.
pub(crate) type Handler = extern "C" fn(c_int);

/// How the process handles a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// As the system does by default.
    Default,
    /// By this handler, or as the program chose otherwise.
    Other(usize),
}

/// How the process handles a signal now. Safe to call in a handler.
pub(crate) fn disposition(signal: c_int) -> Option<Disposition> {
    // SAFETY: without a new action, `sigaction` only writes the present one, and zeros are a valid
    // value of its type.
    let (done, action) = unsafe {
        let mut action: libc::sigaction = zeroed();
        (libc::sigaction(signal, null(), &raw mut action), action)
    };
    (done == 0).then_some(match action.sa_sigaction {
        libc::SIG_DFL => Disposition::Default,
        other => Disposition::Other(other),
    })
}

/// Installs a handler, unless the program handles the signal already. Returns whether it did.
/// Interrupted system calls are restarted.
pub(crate) fn handle(signal: c_int, handler: Handler) -> bool {
    // SAFETY: zeros are a valid action with an empty mask on all supported systems. The handler
    // lives as long as the program and has the type that belongs to these flags. The action that
    // `sigaction` returned can be passed to it again.
    unsafe {
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = (zeroed(), zeroed());
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(signal, &raw const action, &raw mut before) != 0 {
            return false;
        }
        // Checked afterwards, since another thread could install a handler after a check.
        let was_free = before.sa_sigaction == libc::SIG_DFL;
        was_free || libc::sigaction(signal, &raw const before, null_mut()) != 0
    }
}

/// Ends the process as the system does by default upon a signal. Safe to call in a handler.
pub(crate) fn end_by(signal: c_int) -> ! {
    // SAFETY: system calls on numbers and on a set that `sigemptyset` initializes, all of them
    // allowed in handlers.
    unsafe {
        let mut only: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::signal(signal, libc::SIG_DFL);
        // The signal is blocked in its own handler. Unblocked, it ends the process within `raise`.
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, null_mut());
        libc::raise(signal);
        // The first process of a container is not ended by signals that it does not handle. Shells
        // report an end by a signal as this exit code.
        libc::_exit(128 + signal)
    }
}

/// The signals that a thread blocked before. Restored when dropped.
struct Mask(libc::sigset_t);

impl Mask {
    /// Blocks signals in this thread.
    fn block(signals: &libc::sigset_t) -> Mask {
        // SAFETY: zeros are a valid value of a set, and both sets live as long as the call.
        unsafe {
            let mut before: libc::sigset_t = zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, signals, &raw mut before);
            Mask(before)
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: the set was returned by the same call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, null_mut()) };
    }
}

/// Runs `spawn` so that the threads that it starts handle no signal: it goes to a thread of the program, as it
/// would without these, and one that a thread causes by exceeding a limit is an error of the call. Signals of
/// faulty code stay, since blocked ones end the process without the program's handler.
pub(crate) fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    let faults = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGSYS,
    ];
    // SAFETY: zeros are a valid value of a set, which `sigfillset` initializes, and the numbers are those of
    // signals.
    let blocked = unsafe {
        let mut blocked: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut blocked);
        for fault in faults {
            libc::sigdelset(&raw mut blocked, fault);
        }
        blocked
    };
    let _restore = Mask::block(&blocked);
    spawn()
}

/// The set of the signal that a thread gets when it exceeds the limit of file sizes.
fn file_size_signal() -> libc::sigset_t {
    // SAFETY: zeros are a valid value of a set, which `sigemptyset` initializes.
    unsafe {
        let mut only: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, libc::SIGXFSZ);
        only
    }
}

/// Has this thread, and those that it starts, get errors at a limit of file sizes, and no signal. On Linux: other
/// systems send the signal to the process, and any thread that does not block it takes it.
pub(crate) fn block_file_size_signal() {
    std::mem::forget(Mask::block(&file_size_signal()));
}

/// Writes on a thread of the program. At a limit of file sizes that is an error of the call: the signal, which ends
/// a program that does not handle it, is taken back. Where the system sends it to the process and not to the thread,
/// as macOS does, another thread may take it first.
pub(crate) fn without_file_size_signal<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let signal = file_size_signal();
    let before = Mask::block(&signal);
    let written = write();
    let is_exceeded = |error: &io::Error| error.raw_os_error() == Some(libc::EFBIG);
    // SAFETY: calls on sets that are initialized, and on a number. `sigwait` does not wait: the signal is pending.
    unsafe {
        let was_blocked = libc::sigismember(&raw const before.0, libc::SIGXFSZ) == 1;
        if written.as_ref().is_err_and(is_exceeded) && !was_blocked {
            let mut pending: libc::sigset_t = zeroed();
            libc::sigpending(&raw mut pending);
            if libc::sigismember(&raw const pending, libc::SIGXFSZ) == 1 {
                let mut taken = 0;
                libc::sigwait(&raw const signal, &raw mut taken);
            }
        }
    }
    written
}
