//! All `unsafe` code of the package: forking without `exec`, signal masks, and becoming another user.

#![expect(unsafe_code, reason = "these calls have no safe interface")]

use std::ffi::c_int;
use std::io;
use std::mem::zeroed;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

/// Forks. The child runs `child` and exits with the code that it returns, after its exit hooks. It has
/// only the thread that calls this.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: a plain system call. The copy's memory is as the other threads left it: a lock that one
    // of them held stays held, but nothing that is safe to call becomes unsound by that. The C
    // library sees to its own locks, those of the allocator among them.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // Only the parent returns from here.
        let code = catch_unwind(AssertUnwindSafe(child));
        std::process::exit(code.unwrap_or(101));
    }
    // It is negative if there is no child.
    Pid::from_raw(pid.max(0)).ok_or_else(io::Error::last_os_error)
}

/// Blocks signals in this thread, and returns a function that waits for the next of them.
pub(crate) fn blocked(signals: &[c_int]) -> impl Fn() -> c_int {
    // SAFETY: zeros are a valid value of a set, which `sigemptyset` initializes, and the numbers are
    // those of signals.
    let blocked = unsafe {
        let mut blocked: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut blocked);
        for signal in signals {
            libc::sigaddset(&raw mut blocked, *signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
        blocked
    };
    move || {
        let mut signal = 0;
        // SAFETY: both outlive the call.
        unsafe { libc::sigwait(&raw const blocked, &raw mut signal) };
        signal
    }
}

/// Becomes another user, permanently, with one group.
pub(crate) fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: plain system calls; the list has as many groups as is said.
    let failed = unsafe {
        libc::setgroups(1, &raw const group) != 0
            || libc::setgid(group) != 0
            || libc::setuid(user) != 0
    };
    match failed {
        false => Ok(()),
        true => Err(io::Error::last_os_error()),
    }
}
