//! A process ends in each possible way with rows that it did not flush. They are on disk afterwards.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use torchcache_faults::cases::{case, cases, eventually, seen};
use torchcache_faults::process::Running;
use torchcache_faults::roles::shutdown::{ENDS_WITHIN, LEN, PAUSE, ROWS};
use torchcache_faults::rows::{count_right, expect_all, expect_no_faults, manual_flush};
use torchcache_store::{Store, TempCache};

use crate::child;

/// A way to end.
struct End {
    name: &'static str,
    /// The command that starts the process, with the arguments before it.
    through: &'static [&'static str],
    /// The signals that it gets after it has put its rows.
    signals: &'static [Signal],
    /// The pause between them.
    pause: Duration,
    how: How,
    /// Whether all of its rows must be there.
    keeps: bool,
}

enum How {
    Code(i32),
    Signal(Signal),
}

impl How {
    fn is(&self, status: ExitStatus) -> bool {
        match self {
            How::Code(code) => status.code() == Some(*code),
            How::Signal(signal) => status.signal() == Some(signal.as_raw()),
        }
    }
}

const RETURN: End = End {
    name: "return",
    through: &[],
    signals: &[],
    pause: PAUSE,
    how: How::Code(0),
    keeps: true,
};

/// With the signal handlers of `flush_on_signals`.
const WAIT: End = End {
    name: "wait",
    ..RETURN
};

/// As the first process of a container.
const FIRST: &[&str] = &["unshare", "--user", "--map-root-user", "--pid", "--fork"];

/// Tests may have been started with signals ignored, as in the background of a shell.
const DEFAULT: &[&str] = &["env", "--default-signal=HUP,INT"];

/// A process may be started with a signal ignored.
const NOHUP: &[&str] = &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];

/// Memory of threads that a forked child does not have looks leaked to a sanitizer.
const UNCOUNTED: &[&str] = &["env", "LSAN_OPTIONS=detect_leaks=0"];

const ENDS: &[End] = &[
    RETURN,
    End {
        name: "exit",
        how: How::Code(7),
        ..RETURN
    },
    End {
        name: "panic",
        how: How::Code(101),
        ..RETURN
    },
    End {
        name: "panic-elsewhere",
        ..RETURN
    },
    End {
        name: "command",
        ..RETURN
    },
    End {
        name: "fork",
        through: UNCOUNTED,
        ..RETURN
    },
    End {
        name: "disks-hang",
        ..RETURN
    },
    End {
        name: "exit-while-rows-come",
        how: How::Code(7),
        ..RETURN
    },
    End {
        name: "rows-keep-coming",
        signals: &[Signal::TERM],
        how: How::Signal(Signal::TERM),
        ..RETURN
    },
    End {
        signals: &[Signal::TERM],
        how: How::Signal(Signal::TERM),
        ..WAIT
    },
    End {
        through: DEFAULT,
        signals: &[Signal::INT],
        how: How::Signal(Signal::INT),
        ..WAIT
    },
    End {
        through: DEFAULT,
        signals: &[Signal::HUP],
        how: How::Signal(Signal::HUP),
        ..WAIT
    },
    // Without `flush_on_signals`, a signal works like a kill.
    End {
        name: "no-handlers",
        signals: &[Signal::TERM],
        how: How::Signal(Signal::TERM),
        keeps: false,
        ..RETURN
    },
    // A terminal that is closed sends two.
    End {
        through: DEFAULT,
        signals: &[Signal::HUP, Signal::HUP],
        pause: Duration::from_millis(1),
        how: How::Signal(Signal::HUP),
        ..WAIT
    },
    // A signal that the process ignores stays ignored.
    End {
        through: NOHUP,
        signals: &[Signal::HUP, Signal::TERM],
        how: How::Signal(Signal::TERM),
        ..WAIT
    },
    // A disk that does not answer is waited for until a second signal.
    End {
        name: "disk-hangs",
        signals: &[Signal::TERM, Signal::TERM],
        how: How::Signal(Signal::TERM),
        keeps: false,
        ..RETURN
    },
    // The system does not end PID 1 by a signal without a handler.
    End {
        name: "first",
        through: FIRST,
        how: How::Code(128 + Signal::TERM.as_raw()),
        ..RETURN
    },
    // A handler of the program, installed later or before.
    End {
        name: "handle",
        signals: &[Signal::TERM],
        ..RETURN
    },
    End {
        name: "handle-before",
        signals: &[Signal::TERM],
        ..RETURN
    },
];

#[test]
fn the_end_of_a_process_writes_what_is_queued() {
    let mut ended = 0;
    for _ in 0..cases(1, 20) {
        for end in ENDS {
            let name = format_args!("the end by {} {:?}", end.name, end.signals);
            ended += u64::from(case(name, || ends(end)));
        }
    }
    let fault = "exit, panic, fork, SIGTERM, SIGINT, SIGHUP with rows not flushed";
    seen(fault, ended);
}

/// Returns whether this machine can start such a process.
fn ends(end: &End) -> bool {
    let root = tempfile::tempdir().unwrap();
    let child = child("shutdown", root.path(), &[end.name.to_owned()]);
    let Some(mut command) = through(end.through, child) else {
        println!("left out: no {} here", end.through.join(" "));
        return false;
    };
    command.stderr(Stdio::null());
    let mut running = Running::start(command);
    let line = running.line();
    assert!(line.as_deref() == Some("PUT"), "it said {line:?}");
    let pid = Pid::from_child(&running.child);
    for (nth, signal) in end.signals.iter().enumerate() {
        if nth > 0 {
            thread::sleep(end.pause);
            if let Some(status) = running.child.try_wait().unwrap() {
                assert!(end.pause < PAUSE, "too early it ended with {status}");
                break;
            }
        }
        kill_process(pid, *signal).unwrap();
    }
    let mut status = None;
    eventually(ENDS_WITHIN, || {
        status = running.child.try_wait().ok().flatten();
        status.is_some()
    });
    let status = status.expect("it ends");
    assert!(end.how.is(status), "it ended with {status}");
    if end.keeps {
        let left = private_dirs(root.path());
        assert!(left.is_empty(), "{left:?} are left");
    }
    removes_private_dirs(root.path());
    let store = Store::open(root.path(), manual_flush()).unwrap();
    if end.keeps {
        expect_all(&store, 0..ROWS, LEN);
    } else {
        count_right(&store, 0..ROWS, LEN);
    }
    expect_no_faults(&store);
    true
}

/// The private directory of a process that is gone is removed by the next one that makes one.
fn removes_private_dirs(root: &Path) {
    let own = TempCache::new_in(root).unwrap();
    assert_eq!(private_dirs(root), [own.path()]);
}

fn private_dirs(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().contains("/torchcache-"))
        .collect()
}

/// A command that starts another one, if this machine supports it.
fn through(args: &[&str], command: Command) -> Option<Command> {
    let [program, args @ ..] = args else {
        return Some(command);
    };
    let outer = || {
        let mut outer = Command::new(program);
        outer.args(args);
        outer
    };
    let mut probe = outer();
    let probed = probe.arg("true").stderr(Stdio::null()).status();
    probed.ok().filter(ExitStatus::success)?;
    let mut outer = outer();
    outer.arg(command.get_program()).args(command.get_args());
    outer.stdout(Stdio::piped());
    Some(outer)
}
