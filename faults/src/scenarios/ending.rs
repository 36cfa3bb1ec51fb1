//! A process ends, in each way that there is, with rows that it put and never flushed. They are
//! there afterwards, but for those of a process that is killed.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use torchcache_store::Store;

use crate::children::{Running, command, say};
use crate::rows::{batch, patient};
use crate::tally::{Plan, Tally, ensure};

const LEN: usize = 2000;
const ROWS: u64 = 300;

/// A way to end.
struct End {
    name: &'static str,
    /// What the process is sent once it has put its rows.
    signal: Option<Signal>,
    is_right: fn(ExitStatus) -> bool,
}

const ENDS: [End; 9] = [
    End {
        name: "return",
        signal: None,
        is_right: |status| status.success(),
    },
    End {
        name: "exit",
        signal: None,
        is_right: |status| status.code() == Some(7),
    },
    End {
        name: "panic",
        signal: None,
        is_right: |status| status.code() == Some(101),
    },
    End {
        name: "panic-elsewhere",
        signal: None,
        is_right: |status| status.success(),
    },
    End {
        name: "fork",
        signal: None,
        is_right: |status| status.success(),
    },
    End {
        name: "wait",
        signal: Some(Signal::TERM),
        is_right: |status| status.signal() == Some(Signal::TERM.as_raw()),
    },
    End {
        name: "wait",
        signal: Some(Signal::INT),
        is_right: |status| status.signal() == Some(Signal::INT.as_raw()),
    },
    End {
        name: "wait",
        signal: Some(Signal::HUP),
        is_right: |status| status.signal() == Some(Signal::HUP.as_raw()),
    },
    // A handler of its own, which leaves the loop and returns from main.
    End {
        name: "handle",
        signal: Some(Signal::TERM),
        is_right: |status| status.code() == Some(0),
    },
];

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..plan.rounds {
        for end in &ENDS {
            let name = format!("the end by {} {:?}", end.name, end.signal);
            tally.round(&name, |tally| ends(tally, end));
        }
    }
    tally
}

fn ends(tally: &mut Tally, end: &End) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = command("ending", root.path(), &[end.name.to_owned()]);
    command.stderr(std::process::Stdio::null());
    let mut running = Running::start(command)?;
    let line = running.line();
    ensure(line.as_deref() == Some("PUT"), || {
        format!("it said {line:?}")
    })?;
    if let Some(signal) = end.signal {
        let pid = Pid::from_child(&running.child);
        kill_process(pid, signal).map_err(|error| error.to_string())?;
    }
    let status = running.child.wait().map_err(|error| error.to_string())?;
    ensure((end.is_right)(status), || format!("it ended with {status}"))?;
    tally.caused += 1;
    let store = Store::open(root.path(), patient()).map_err(|error| error.to_string())?;
    tally.all_there(&store, 0..ROWS, LEN);
    let faults = store.stats().faults;
    ensure(faults.total() == 0, || {
        format!("faults after it: {faults:?}")
    })
}

static STORE: OnceLock<Store> = OnceLock::new();

/// The child: puts rows and ends.
pub(super) fn ending(dir: &Path, words: &[String]) {
    let handled = Arc::new(AtomicBool::new(false));
    let store = STORE.get_or_init(|| Store::open(dir, patient()).expect("it opens"));
    if words == ["handle"] {
        let signal = Signal::TERM.as_raw();
        signal_hook::flag::register(signal, handled.clone()).expect("it can be handled");
    }
    store.put(batch(0..ROWS, LEN));
    assert_eq!(store.stats().pending_rows, ROWS, "nothing is written yet");
    say("PUT");
    match words {
        [end] if end == "return" => {}
        [end] if end == "exit" => std::process::exit(7),
        [end] if end == "panic" => panic!("as asked"),
        [end] if end == "panic-elsewhere" => {
            let panicked = thread::spawn(|| panic!("as asked")).join();
            assert!(panicked.is_err());
        }
        // Another program in between, whose end is none of ours.
        [end] if end == "fork" => {
            let status = std::process::Command::new("true").status();
            assert!(status.is_ok_and(|status| status.success()));
        }
        [end] if end == "handle" => {
            while !handled.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            // Time for a handler of the library's to end the process.
            thread::sleep(Duration::from_millis(300));
            assert_eq!(store.stats().pending_rows, ROWS, "nobody else handled it");
        }
        _ => thread::sleep(Duration::from_secs(60)),
    }
}
