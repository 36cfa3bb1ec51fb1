//! A process ends while its caches, which are in statics, hold rows that were not flushed.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use torchcache_faults::cases::{case, cases, seen};
use torchcache_faults::process::{self, Running};

/// How it ends, by what signal, and whether that is how it ended.
type End = (&'static str, Option<Signal>, fn(ExitStatus) -> bool);

const ENDS: [End; 5] = [
    ("return", None, |status| status.success()),
    ("exit", None, |status| status.code() == Some(7)),
    ("panic", None, |status| status.code() == Some(101)),
    ("wait", Some(Signal::TERM), |status| {
        status.signal() == Some(Signal::TERM.as_raw())
    }),
    ("wait", Some(Signal::INT), |status| {
        status.signal() == Some(Signal::INT.as_raw())
    }),
];

#[test]
fn the_end_of_a_process_writes_caches_in_statics() {
    let rounds = cases(1, 20);
    for _ in 0..rounds {
        for end in ENDS {
            let name = format_args!("the end by {} {:?}", end.0, end.1);
            case(name, || ends(end));
        }
    }
    let fault = "the end of a process whose caches are in statics";
    seen(fault, u64::from(rounds) * ENDS.len() as u64);
}

fn ends((how, signal, is_right): End) {
    let root = tempfile::tempdir().unwrap();
    let start = |how: &str| {
        let mut command = process::command(env!("CARGO_BIN_EXE_soak-child"), how, root.path(), &[]);
        command.env("TORCHCACHE_DIR", root.path());
        command
            .env_remove("TORCHCACHE_DISABLE")
            .stderr(Stdio::null());
        Running::start(command)
    };
    let mut first = start(how);
    let line = first.line();
    assert!(line.as_deref() == Some("COMPUTED"), "it said {line:?}");
    if let Some(signal) = signal {
        let pid = Pid::from_child(&first.child);
        kill_process(pid, signal).unwrap();
    }
    let status = first.child.wait().unwrap();
    assert!(is_right(status), "it ended with {status}");
    start("again").succeeds();
}
