//! Signals are the program's: the store neither takes one nor causes one that ends it.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use torchcache_faults::cases::seen;
use torchcache_faults::process::Running;
use torchcache_faults::roles::signals::SIGNALS;

use crate::child;

#[test]
fn a_program_that_waits_by_sigwait_gets_each_signal() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = child("signals", dir.path(), &["wait".into()]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut sent = running.child.stdin.take().unwrap();
    assert_eq!(running.line().as_deref(), Some("BLOCKS"));
    let pid = Pid::from_child(&running.child);
    for signal in SIGNALS {
        kill_process(pid, Signal::from_named_raw(signal).unwrap()).unwrap();
        writeln!(sent).unwrap();
        assert_eq!(running.line().as_deref(), Some("GOT"), "{signal}");
    }
    running.succeeds();
    seen("signals that a program waits for", SIGNALS.len() as u64);
}

#[test]
fn writes_of_a_caller_at_a_file_size_limit_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let child = child("signals", dir.path(), &["limit".into()]);
    // The signal may have been ignored where the tests were started.
    let mut limited = Command::new("env");
    let limit = "ulimit -f 1; exec \"$@\"";
    limited.args(["--default-signal=XFSZ", "sh", "-c", limit, "sh"]);
    limited.arg(child.get_program()).args(child.get_args());
    limited.stdout(Stdio::piped());
    let mut running = Running::start(limited);
    assert_eq!(running.line().as_deref(), Some("WRITES"));
    let (_, status) = running.rest();
    assert_eq!(status.signal(), Some(Signal::XFSZ.as_raw()), "{status}");
    seen("writes of a caller at a file size limit", 1);
}
