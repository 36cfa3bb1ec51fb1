//! All `unsafe` code of the package: a process that forks itself and goes on.

#![expect(unsafe_code, reason = "fork has no safe interface")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

/// Makes a copy of this process, which does something and exits with what that returns, by way of
/// its exit hooks. Of the threads, it has only the one that calls this.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: a plain system call. The copy's memory is as the other threads left it: a lock that one
    // of them held stays held, but nothing that is safe to call becomes unsound by that. The C
    // library sees to its own locks, those of the allocator among them.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // What called this goes on in the parent only.
        let code = catch_unwind(AssertUnwindSafe(child));
        std::process::exit(code.unwrap_or(101));
    }
    // It is negative where there is no copy, and no other number is no process.
    Pid::from_raw(pid.max(0)).ok_or_else(io::Error::last_os_error)
}
