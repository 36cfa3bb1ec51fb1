//! A process is killed: at any moment, and at each call that it makes of the file system, before
//! it, after it, and in the middle of a write; while it writes, merges, evicts and opens.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use torchcache_store::fs::Os;
use torchcache_store::{Config, Store};

use crate::children::{Running, command, number, say};
use crate::faulty::{Call, Fate, Faulty};
use crate::rows::{batch, patient};
use crate::tally::{Counter, Plan, Tally, ensure};

/// Rows of this length fill a segment each where the target is small.
const LEN: usize = 5000;

/// After so many kills another directory is begun.
const KILLS_EACH: u64 = 10;

/// What a child does until it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Segments of some rows each.
    Write,
    /// A segment for each row, so that segments are merged all the time.
    Merge,
    /// Segments beyond the limit, so that others go.
    Evict,
    /// Opening a directory that holds segments, and what the killed left behind.
    Open,
}

impl Work {
    const ALL: [Work; 4] = [Work::Write, Work::Merge, Work::Evict, Work::Open];

    fn config(self) -> Config {
        match self {
            Work::Evict => Config {
                segment_bytes: 4096,
                max_bytes: 100_000,
                ..patient()
            },
            _ => Config {
                segment_bytes: 1 << 20,
                ..patient()
            },
        }
    }

    fn rows_each(self) -> u64 {
        match self {
            Work::Merge => 1,
            _ => 40,
        }
    }

    /// The calls that it makes again and again.
    fn calls(self) -> &'static [Call] {
        const WRITE: [Call; 8] = [
            Call::OpenDir,
            Call::LookDir,
            Call::List,
            Call::Create,
            Call::Write,
            Call::Sync,
            Call::Rename,
            Call::SyncDir,
        ];
        match self {
            Work::Write => &WRITE,
            Work::Merge => &[
                Call::Open,
                Call::Read,
                Call::Create,
                Call::Write,
                Call::Sync,
                Call::SetModified,
                Call::Rename,
                Call::Stat,
                Call::SyncDir,
                Call::Remove,
            ],
            Work::Evict => &[Call::Stat, Call::Remove, Call::Rename, Call::List],
            Work::Open => &[
                Call::OpenDir,
                Call::LookDir,
                Call::Create,
                Call::List,
                Call::Open,
                Call::Look,
                Call::Read,
            ],
        }
    }
}

/// Where a child is killed.
struct Point {
    call: Call,
    fate: Fate,
    nth: u64,
}

fn some_point(work: Work, rng: &mut Rng) -> Point {
    let call = rng.choice(work.calls()).copied().unwrap_or(Call::OpenDir);
    let mut fates = vec![Fate::KillsBefore, Fate::KillsAfter];
    if call == Call::Write {
        fates.push(Fate::KillsHalfway);
    }
    let fate = rng.choice(fates).unwrap_or(Fate::KillsBefore);
    // Opening makes some calls but once.
    let nth = if work == Work::Open {
        1
    } else {
        rng.u64(1..30)
    };
    Point { call, fate, nth }
}

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    let mut round = 0;
    while round < plan.rounds {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut history = History::default();
        for _ in 0..KILLS_EACH.min(plan.rounds - round) {
            let work = Work::ALL[(round % 4) as usize];
            // Every third kill comes at any moment, the others at a point.
            let point = (round % 3 != 0).then(|| some_point(work, &mut rng));
            let after = Duration::from_micros(rng.u64(0..60_000));
            let at = point.as_ref().map_or_else(
                || format!("after {after:?}"),
                |Point { call, fate, nth }| format!("at {call:?} number {nth}, {fate:?}"),
            );
            let name = format!("killed {at} in {work:?}");
            let dir = root.path();
            tally.round(&name, |tally| {
                kill(tally, dir, &mut history, work, point, after)
            });
            round += 1;
        }
    }
    tally
}

/// What a directory holds by now.
#[derive(Default)]
struct History {
    /// Rows from the first up to this were begun.
    begun: u64,
    /// Those of them that were flushed, and that nothing was evicted after.
    flushed: Vec<std::ops::Range<u64>>,
}

fn kill(
    tally: &mut Tally,
    dir: &Path,
    history: &mut History,
    work: Work,
    point: Option<Point>,
    after: Duration,
) -> Result<(), String> {
    let first = history.begun;
    let mut words = vec![format!("{work:?}"), first.to_string()];
    if let Some(Point { call, fate, nth }) = &point {
        words.extend([format!("{call:?}"), format!("{fate:?}"), nth.to_string()]);
    }
    let mut running = Running::start(command("steady", dir, &words))?;
    let mut lines = Vec::new();
    if point.is_none() {
        // When it is at work.
        lines.extend(running.line());
        thread::sleep(after);
        running.child.kill().map_err(|error| error.to_string())?;
    }
    lines.extend(running.rest());
    let status = running.child.wait().map_err(|error| error.to_string())?;
    ensure(status.signal() == Some(9), || {
        format!("it was not killed: {status}, {lines:?}")
    })?;
    tally.caused += 1;

    let last = |word| lines.iter().rev().find_map(|line| number(line, word));
    history.begun = last("BEGUN").unwrap_or(first).max(first);
    if work == Work::Evict {
        history.flushed.clear();
    } else if let Some(flushed) = last("FLUSHED") {
        history.flushed.push(first..flushed);
    }
    let store = Store::open(dir, patient()).map_err(|error| error.to_string())?;
    for rows in &history.flushed {
        tally.all_there(&store, rows.clone(), LEN);
    }
    tally.right_or_missing(&store, 0..history.begun, LEN);
    let faults = store.stats().faults;
    ensure(faults.total() == 0, || {
        format!("something was left unreadable: {faults:?}")
    })
}

/// The child: works until it is killed, and tells what it began and what it flushed.
pub(super) fn steady(dir: &Path, words: &[String]) {
    let [work, first, point @ ..] = words else {
        panic!("got {words:?}");
    };
    let work = Work::ALL
        .into_iter()
        .find(|all| format!("{all:?}") == *work);
    let (work, first) = (work.expect("some work"), first.parse().expect("a number"));
    let is_open = Arc::new(AtomicBool::new(false));
    let decide = point_of(point, work, is_open.clone());
    let fs = Arc::new(Faulty::new(Os, decide));
    let mut put: u64 = first;
    loop {
        let store = Store::open_on(fs.clone(), dir, work.config()).expect("it opens");
        is_open.store(true, Ordering::SeqCst);
        for _ in 0..if work == Work::Open { 2 } else { u64::MAX } {
            say(format_args!("BEGUN {}", put + work.rows_each()));
            store.put(batch(put..put + work.rows_each(), LEN));
            put += work.rows_each();
            store.flush().expect("it is written");
            say(format_args!("FLUSHED {put}"));
        }
        drop(store);
        is_open.store(false, Ordering::SeqCst);
    }
}

fn point_of(
    point: &[String],
    work: Work,
    is_open: Arc<AtomicBool>,
) -> impl Fn(Call, &OsStr) -> Fate + Send + Sync + 'static {
    let fates = [Fate::KillsBefore, Fate::KillsHalfway, Fate::KillsAfter];
    let point = match point {
        [call, fate, nth] => {
            let call = Call::ALL
                .into_iter()
                .find(|all| format!("{all:?}") == *call);
            let fate = fates.into_iter().find(|all| format!("{all:?}") == *fate);
            let nth = nth.parse().expect("a number");
            call.zip(fate).map(|(call, fate)| Point { call, fate, nth })
        }
        _ => None,
    };
    let calls = Counter::default();
    move |call, _| match &point {
        // Points of opening lie before it is done, all others behind.
        Some(point)
            if point.call == call && is_open.load(Ordering::SeqCst) != (work == Work::Open) =>
        {
            match calls.next() == point.nth {
                true => point.fate,
                false => Fate::Done,
            }
        }
        _ => Fate::Done,
    }
}
