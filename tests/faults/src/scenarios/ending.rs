//! A process ends, in each way that there is, with rows that it put and never flushed. They are
//! there afterwards, but for those of a process that is killed.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use torchcache_store::{Config, RowBatch, RowValues, Store};

use super::forked;
use crate::children::{Running, command, say};
use crate::rows::{batch, key, patient};
use crate::tally::{Plan, Tally, ensure, eventually};

const LEN: usize = 2000;
const ROWS: u64 = 300;

/// A process that is still there so long after its end began hangs. Less than the patience of a
/// store, so that nothing that should not wait for a disk does.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// What a process that goes on after a signal has time for.
const PAUSE: Duration = Duration::from_millis(800);

/// A way to end.
struct End {
    name: &'static str,
    /// The command that starts the process, with the words before it.
    through: &'static [&'static str],
    /// What the process is sent once it has put its rows.
    signals: &'static [Signal],
    /// How long after one another.
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

const WAIT: End = End {
    name: "wait",
    ..RETURN
};

/// As the first process of a container.
const FIRST: &[&str] = &["unshare", "--user", "--map-root-user", "--pid", "--fork"];

/// Whoever starts a process may have told it to ignore a signal.
const NOHUP: &[&str] = &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];

/// What threads held that a copy of a process does not have looks leaked to a sanitizer.
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
        signals: &[Signal::TERM],
        how: How::Signal(Signal::TERM),
        ..WAIT
    },
    End {
        signals: &[Signal::INT],
        how: How::Signal(Signal::INT),
        ..WAIT
    },
    End {
        signals: &[Signal::HUP],
        how: How::Signal(Signal::HUP),
        ..WAIT
    },
    // A terminal that is closed says so twice.
    End {
        signals: &[Signal::HUP, Signal::HUP],
        pause: Duration::from_millis(1),
        how: How::Signal(Signal::HUP),
        ..WAIT
    },
    // What it ignores, it goes on ignoring.
    End {
        through: NOHUP,
        signals: &[Signal::HUP, Signal::TERM],
        how: How::Signal(Signal::TERM),
        ..WAIT
    },
    // A disk that does not answer is waited for, unless somebody asks twice.
    End {
        name: "disk-hangs",
        signals: &[Signal::TERM, Signal::TERM],
        how: How::Signal(Signal::TERM),
        keeps: false,
        ..RETURN
    },
    // The system does not end this one by a signal that it does not handle.
    End {
        name: "first",
        through: FIRST,
        how: How::Code(128 + Signal::TERM.as_raw()),
        ..RETURN
    },
    // A handler of its own, which leaves the loop and returns from main. It comes later, or before.
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

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..plan.rounds {
        for end in ENDS {
            let name = format!("the end by {} {:?}", end.name, end.signals);
            tally.round(&name, |tally| ends(tally, end));
        }
    }
    tally
}

fn ends(tally: &mut Tally, end: &End) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let child = command("ending", root.path(), &[end.name.to_owned()]);
    let Some(mut command) = through(end.through, child) else {
        tally.skip(&format!("no {} here", end.through.join(" ")));
        return Ok(());
    };
    command.stderr(Stdio::null());
    let mut running = Running::start(command)?;
    let line = running.line();
    ensure(line.as_deref() == Some("PUT"), || {
        format!("it said {line:?}")
    })?;
    let pid = Pid::from_child(&running.child);
    for (nth, signal) in end.signals.iter().enumerate() {
        if nth > 0 {
            thread::sleep(end.pause);
            let ended = running.child.try_wait();
            let goes_on = matches!(ended, Ok(None)) || end.pause < PAUSE;
            ensure(goes_on, || format!("too early it ended with {ended:?}"))?;
        }
        kill_process(pid, *signal).map_err(|error| error.to_string())?;
    }
    let mut status = None;
    eventually(ENDS_WITHIN, || {
        status = running.child.try_wait().ok().flatten();
        status.is_some()
    });
    let status = status.ok_or("it does not end")?;
    ensure(end.how.is(status), || format!("it ended with {status}"))?;
    tally.caused += 1;
    let store = Store::open(root.path(), patient()).map_err(|error| error.to_string())?;
    if end.keeps {
        tally.all_there(&store, 0..ROWS, LEN);
    } else {
        tally.right_or_missing(&store, 0..ROWS, LEN);
    }
    let faults = store.stats().faults;
    ensure(faults.total() == 0, || {
        format!("faults after it: {faults:?}")
    })
}

/// A command that starts another one, if this machine lets it.
fn through(words: &[&str], command: Command) -> Option<Command> {
    let [program, words @ ..] = words else {
        return Some(command);
    };
    let outer = || {
        let mut outer = Command::new(program);
        outer.args(words);
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

static STORE: OnceLock<Store> = OnceLock::new();

/// The child: puts rows and ends.
pub(super) fn ending(dir: &Path, words: &[String]) {
    let [end] = words else {
        panic!("one end is wanted, not {words:?}");
    };
    let handled = Arc::new(AtomicBool::new(false));
    let handle = || {
        let signal = Signal::TERM.as_raw();
        signal_hook::flag::register(signal, handled.clone()).expect("it can be handled");
    };
    if end == "handle-before" {
        handle();
    }
    let store = STORE.get_or_init(|| Store::open(dir, patient()).expect("it opens"));
    if end == "handle" {
        handle();
    }
    store.put(batch(0..ROWS, LEN));
    assert_eq!(store.stats().pending_rows, ROWS, "nothing is written yet");
    match end.as_str() {
        // Each of them for a while; one after the other, for longer than this process may take.
        "disks-hang" => (0..10).for_each(|n| hang(&dir.join(n.to_string()), 2)),
        "disk-hangs" => hang(&dir.join("hangs"), 60),
        _ => {}
    }
    say("PUT");
    match end.as_str() {
        "return" | "disks-hang" => {}
        "exit" => std::process::exit(7),
        "panic" => panic!("as asked"),
        "panic-elsewhere" => {
            let panicked = thread::spawn(|| panic!("as asked")).join();
            assert!(panicked.is_err());
        }
        // Another program in between, whose end is none of ours.
        "command" => {
            let status = Command::new("true").status();
            assert!(status.is_ok_and(|status| status.success()));
        }
        "fork" => forked::goes_on(dir),
        "first" => {
            assert_eq!(getpid(), Pid::INIT);
            kill_process(getpid(), Signal::TERM).expect("it is this process");
            thread::sleep(ENDS_WITHIN);
        }
        "handle" | "handle-before" => {
            while !handled.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            // Time for a handler of the library's to end the process.
            thread::sleep(PAUSE);
            assert_eq!(store.stats().pending_rows, ROWS, "nobody else handled it");
        }
        _ => thread::sleep(Duration::from_secs(60)),
    }
}

/// A store whose thread gets nothing done, as with a disk that does not answer. It is as good as in
/// a static: nobody drops it.
fn hang(dir: &Path, patience: u64) {
    let patience = Duration::from_secs(patience);
    let config = Config {
        patience,
        linger: Duration::ZERO,
        ..patient()
    };
    let store = Store::open(dir, config).expect("it opens");
    put_endless(&store);
    std::mem::forget(store);
}

/// Puts a row that cannot be read, and waits until somebody tries to.
pub(super) fn put_endless(store: &Store) {
    struct Endless(Arc<AtomicBool>);

    impl RowValues for Endless {
        fn row(&self, _: usize) -> &[u8] {
            self.0.store(true, Ordering::SeqCst);
            loop {
                thread::park();
            }
        }
    }

    let asked = Arc::new(AtomicBool::new(false));
    let values = Arc::new(Endless(asked.clone()));
    let rows = RowBatch::shared(vec![key(u64::MAX)], b"".as_slice().into(), values, 1);
    store.put(rows.expect("the parts fit"));
    let is_asked = || asked.load(Ordering::SeqCst);
    assert!(
        eventually(ENDS_WITHIN, is_asked),
        "nobody tries to write it"
    );
}
