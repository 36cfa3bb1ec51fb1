//! A process is killed: at any moment, and at each call that it makes of the file system, before
//! it, after it, and in the middle of a write; while it writes, merges, evicts and opens.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use torchcache_store::fs::Os;
use torchcache_store::{Config, Store};

use crate::children::{Running, command, number, say};
use crate::faulty::{Call, Fate, Faulty};
use crate::rows::{batch, patient};
use crate::tally::{Counter, Plan, Tally, ensure};

/// Rows of this length fill a segment each where the target is small.
const LEN: usize = 5000;

/// After so many kills other directories are begun.
const KILLS_EACH: u64 = 10;

/// Files of writers that were killed long ago, for whoever opens the directory to remove.
const LEFT_BEHIND: u64 = 3;

/// The limit where segments are evicted. Each of them has one row.
const LIMIT: u64 = 100_000;

/// So many rows are there at least once there were more, however an eviction is cut short: what
/// fits, but for the segment that goes last and the one that comes.
const KEPT: u64 = LIMIT / (LEN as u64 + 200) - 2;

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
                max_bytes: LIMIT,
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
            Work::Evict => 10, // more than all that may be kept would be refused
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
                Call::Lock,
                Call::Write,
                Call::Remove,
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
    let nth = match work {
        // Some come but once when a directory is opened: the later ones are those of when it is
        // opened again. Every other one is among the first, which find what killed writers left.
        Work::Open if rng.bool() => rng.u64(1..1 + LEFT_BEHIND + 1),
        _ => rng.u64(1..30),
    };
    Point { call, fate, nth }
}

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut rng = Rng::with_seed(plan.seed);
    let mut round = 0;
    while round < plan.rounds {
        // What is evicted would tell nothing of the rows that must stay.
        let mut places = [Place::new(), Place::new()];
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
            let place = &mut places[usize::from(work == Work::Evict)];
            tally.round(&name, |tally| kill(tally, place, work, point, after));
            round += 1;
        }
    }
    tally
}

/// A directory, and what it holds by now.
struct Place {
    root: tempfile::TempDir,
    /// Rows from the first up to this were begun.
    begun: u64,
    /// Those of them that were flushed.
    flushed: Vec<Range<u64>>,
}

impl Place {
    fn new() -> Place {
        Place {
            root: tempfile::tempdir().expect("a temporary directory"),
            begun: 0,
            flushed: Vec::new(),
        }
    }

    /// Files in the making, but of long ago.
    fn leave_behind(&self) -> std::io::Result<Vec<PathBuf>> {
        let name = |n| format!(".tmp-{n:016x}-1-{n:016x}.tcs");
        let paths = (0..LEFT_BEHIND).map(|n| self.root.path().join(name(n)));
        let paths: Vec<_> = paths.collect();
        for path in &paths {
            let file = fs::File::create(path)?;
            file.set_modified(SystemTime::now() - Duration::from_secs(3600))?;
        }
        Ok(paths)
    }
}

fn kill(
    tally: &mut Tally,
    place: &mut Place,
    work: Work,
    point: Option<Point>,
    after: Duration,
) -> Result<(), String> {
    let left_behind = match work {
        Work::Open => place.leave_behind().map_err(|error| error.to_string())?,
        _ => Vec::new(),
    };
    let (first, dir) = (place.begun, place.root.path());
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
    place.begun = last("BEGUN").unwrap_or(first).max(first);
    if let Some(flushed) = last("FLUSHED") {
        place.flushed.push(first..flushed);
    }
    let store = Store::open(dir, patient()).map_err(|error| error.to_string())?;
    if work == Work::Evict {
        is_kept(tally, &store, place)?;
    } else {
        for rows in &place.flushed {
            tally.all_there(&store, rows.clone(), LEN);
        }
        tally.right_or_missing(&store, 0..place.begun, LEN);
    }
    // Killed while it removed them or before, what it left is gone now.
    ensure(!left_behind.iter().any(|path| path.exists()), || {
        "files of writers that are dead for long are still there".into()
    })?;
    let faults = store.stats().faults;
    ensure(faults.total() == 0, || {
        format!("something was left unreadable: {faults:?}")
    })
}

/// Rows go in the order in which they came, and no more of them than have to.
fn is_kept(tally: &mut Tally, store: &Store, place: &Place) -> Result<(), String> {
    let there = |tally: &mut Tally, row| tally.right_or_missing(store, row..row + 1, LEN) == 1;
    let rows: Vec<u64> = (0..place.begun).filter(|row| there(tally, *row)).collect();
    let flushed: Vec<u64> = place.flushed.iter().cloned().flatten().collect();
    if flushed.len() as u64 <= KEPT {
        return Ok(()); // killed before there was anything to evict
    }
    ensure(rows.len() as u64 >= KEPT, || {
        format!("only {} of at least {KEPT} rows are there", rows.len())
    })?;
    let is_missing = |row: &&u64| **row > rows[0] && !rows.contains(row);
    let missing = flushed.iter().filter(is_missing).count();
    tally.lost += missing as u64;
    ensure(missing == 0, || {
        format!("{missing} rows went before older ones; there are {rows:?}")
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
