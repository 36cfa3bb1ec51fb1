//! All `unsafe` code of the package: forking without `exec`.

#![expect(unsafe_code, reason = "fork has no safe interface")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

/// Forks. The child runs `child` and exits with the code that it returns, after its exit hooks. It has
/// only the thread that calls this.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
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
