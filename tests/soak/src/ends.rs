//! A process ends while its caches, which are in statics, hold rows that nobody flushed.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tch::Tensor;
use torchcache::torchcache;
use torchcache_faults::Tally;
use torchcache_faults::children::{Running, command, say, sums};
use torchcache_faults::tally::{Plan, ensure};

use crate::modules::{check, rows};

/// Its cache is a static; its directory comes from the environment.
#[torchcache(persistent = true)]
fn tripled(xs: &Tensor) -> Tensor {
    xs * 3
}

const ROWS: i64 = 200;

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

pub(crate) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..plan.rounds {
        for end in ENDS {
            let name = format!("the end by {} {:?}", end.0, end.1);
            tally.round(&name, |tally| ends(tally, end));
        }
    }
    tally
}

fn ends(tally: &mut Tally, (how, signal, is_right): End) -> Result<(), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let start = |how: &str| {
        let mut command = command("ends", root.path(), &[how.to_owned()]);
        command.env("TORCHCACHE_DIR", root.path());
        command
            .env_remove("TORCHCACHE_DISABLE")
            .stderr(Stdio::null());
        Running::start(command)
    };
    let mut first = start(how)?;
    let line = first.line();
    ensure(line.as_deref() == Some("COMPUTED"), || {
        format!("it said {line:?}")
    })?;
    if let Some(signal) = signal {
        let pid = Pid::from_child(&first.child);
        kill_process(pid, signal).map_err(|error| error.to_string())?;
    }
    let status = first.child.wait().map_err(|error| error.to_string())?;
    ensure(is_right(status), || format!("it ended with {status}"))?;
    tally.caused += 1;
    sums(tally, start("again")?)
}

/// The child: computes rows and ends, or finds them all.
pub(crate) fn child(_: &Path, words: &[String]) {
    let xs = rows(&(0..ROWS).collect::<Vec<_>>());
    let mut tally = Tally::default();
    check(&mut tally, &tripled(&xs), &(&xs * 3));
    let stats = tripled::cache().stats();
    match words {
        [how] if how == "again" => {
            tally.lost += stats.misses;
            assert!(stats.faults.is_empty(), "{:?}", stats.faults);
            return say(tally.line());
        }
        _ => assert_eq!((stats.misses, tally.wrong), (ROWS as u64, 0)),
    }
    say("COMPUTED");
    match words {
        [how] if how == "exit" => std::process::exit(7),
        [how] if how == "panic" => panic!("as asked"),
        [how] if how == "wait" => std::thread::sleep(Duration::from_secs(60)),
        _ => {}
    }
}
