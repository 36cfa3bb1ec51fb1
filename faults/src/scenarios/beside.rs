//! Eight processes on one directory: they write the same rows and different ones, evict, clear, and
//! read, and each of them checks every byte of what it gets.

use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use torchcache_store::{Compression, Config, Store};

use crate::children::{Running, command, number, say};
use crate::rows::{batch, patient};
use crate::tally::{Plan, Tally, ensure};

const LEN: usize = 2500;

/// The rows that all write.
const COMMON: u64 = 3000;

/// What each of the eight does.
const PARTS: [&str; 8] = [
    "common",
    "common",
    "own",
    "own",
    "evict",
    "clear",
    "read",
    "read-mapped",
];

/// The same without those who take rows away.
const KEEPERS: [&str; 6] = ["common", "common", "own", "own", "read", "read-mapped"];

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    tally.round("eight processes", |tally| {
        together(tally, &PARTS, plan).map(drop)
    });
    tally.round("six processes, none of which takes rows away", |tally| {
        let (root, ends) = together(tally, &KEEPERS, plan)?;
        let store = Store::open(root.path(), patient()).map_err(|error| error.to_string())?;
        for end in ends {
            tally.all_there(&store, end.first..end.flushed, LEN);
        }
        let faults = store.stats().faults;
        ensure(faults.total() == 0, || format!("faults: {faults:?}"))
    });
    tally
}

/// What a child says at its end: which rows it flushed.
struct Flushed {
    first: u64,
    flushed: u64,
}

fn together(
    tally: &mut Tally,
    parts: &[&str],
    plan: &Plan,
) -> Result<(tempfile::TempDir, Vec<Flushed>), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut running = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let seed = plan.seed.wrapping_add(place as u64);
        let words = [
            (*part).to_owned(),
            place.to_string(),
            plan.time.as_millis().to_string(),
            seed.to_string(),
        ];
        running.push(Running::start(command("beside", root.path(), &words))?);
    }
    let mut ends = Vec::new();
    for (mut running, part) in running.into_iter().zip(parts) {
        let lines = running.rest();
        let status = running.child.wait().map_err(|error| error.to_string())?;
        ensure(status.success(), || format!("{part}: {status}: {lines:?}"))?;
        let said = |word| {
            let said = lines.iter().find_map(|line| number(line, word));
            said.ok_or_else(|| format!("{part} did not say {word}: {lines:?}"))
        };
        let before = tally.rows;
        let told = lines.iter().any(|line| tally.add_line(line));
        ensure(told && tally.rows > before, || {
            format!("{part} never found a row")
        })?;
        let (first, flushed) = (said("FIRST")?, said("FLUSHED")?);
        ends.push(Flushed { first, flushed });
    }
    Ok((root, ends))
}

/// The child: does its part for its time.
pub(super) fn beside(dir: &Path, words: &[String]) {
    let [part, place, time, seed] = words else {
        panic!("got {words:?}");
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let mut rng = Rng::with_seed(number(seed));
    let mut config = Config {
        segment_bytes: 200_000,
        linger: Duration::from_millis(20),
        mmap: part == "read-mapped",
        compression: (number(place) % 2 == 1).then_some(Compression {
            level: 1,
            threads: 1,
        }),
        ..Config::default()
    };
    if part == "evict" {
        config.max_bytes = 2_000_000;
    }
    let store = Store::open(dir, config).expect("it opens");
    let mut tally = Tally::default();
    // Rows of its own, far from all others'.
    let first = if part == "own" {
        1_000_000 * number(place)
    } else {
        0
    };
    let (mut next, mut flushed) = (first, first);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(number(time)) {
        tally.caused += 1;
        match part.as_str() {
            "own" => {
                store.put(batch(next..next + 16, LEN));
                next += 16;
                if rng.u8(..8) == 0 {
                    store.flush().expect("the disk works");
                    flushed = next;
                }
                let back = next.saturating_sub(rng.u64(0..500)).max(first);
                tally.right_or_missing(&store, back..next, LEN);
            }
            "common" | "evict" | "clear" => {
                let from = rng.u64(0..COMMON);
                store.put(batch(from..from + rng.u64(1..20), LEN));
                tally.right_or_missing(&store, from..from + 64, LEN);
                if part == "clear" && rng.u8(..200) == 0 {
                    store.clear();
                }
                if rng.u8(..50) == 0 {
                    store.flush().expect("the disk works");
                }
            }
            _ => {
                let from = rng.u64(0..COMMON);
                tally.right_or_missing(&store, from..from + 64, LEN);
                let place = rng.u64(2..4) * 1_000_000 + rng.u64(0..2000);
                tally.right_or_missing(&store, place..place + 64, LEN);
            }
        }
    }
    say(tally.line());
    say(format_args!("FIRST {first}"));
    say(format_args!("FLUSHED {flushed}"));
}
