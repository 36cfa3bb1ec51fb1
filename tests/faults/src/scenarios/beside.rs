//! Eight processes on one directory: they write the same rows and different ones, evict, clear, and
//! read, and each of them checks every byte of what it gets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use torchcache_store::{Compression, Config, Fault, Store};

use crate::children::{Running, command, number, say};
use crate::rows::{batch, patient};
use crate::tally::{Plan, Tally, ensure};

const LEN: usize = 2500;

/// The rows that all write.
const COMMON: u64 = 3000;

/// Where the cache is, beside the marks of what has come about.
const CACHE: &str = "cache";

/// For so long at most.
const MOST: Duration = Duration::from_secs(90);

/// How often the one that clears does so.
const CLEAR_EVERY: Duration = Duration::from_millis(500);

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

/// What they do to each other.
const DEEDS: [&str; 4] = ["EVICTED", "CLEARED", "GONE", "MERGED"];

/// They go on until all of this has come about. Where much is taken away, there is little to merge.
const TAKEN: &[&str] = DEEDS.split_at(3).0;

/// The same without those who take rows away.
const KEEPERS: [&str; 6] = ["common", "common", "own", "own", "read", "read-mapped"];

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    tally.round("eight processes", |tally| {
        let (_root, ends) = together(tally, &PARTS, TAKEN, plan)?;
        let sum = |deed: usize| ends.iter().map(|end| end.deeds[deed]).sum::<u64>();
        for (deed, what) in TAKEN.iter().enumerate() {
            ensure(sum(deed) > 0, || format!("nobody said {what} of anything"))?;
            tally.caused += sum(deed);
        }
        Ok(())
    });
    tally.round("six processes, none of which takes rows away", |tally| {
        let (root, ends) = together(tally, &KEEPERS, &DEEDS[3..], plan)?;
        let store = Store::open(root.path().join(CACHE), patient());
        let store = store.map_err(|error| error.to_string())?;
        for end in ends {
            tally.all_there(&store, end.first..end.flushed, LEN);
            let [evicted, cleared, gone, merged] = end.deeds;
            ensure(evicted + cleared + gone == 0, || {
                format!("somebody took rows away: {:?}", end.deeds)
            })?;
            tally.caused += merged;
        }
        let faults = store.stats().faults;
        ensure(faults.total() == 0, || format!("faults: {faults:?}"))
    });
    tally
}

/// What a child says at its end: which rows it flushed, and what it did to those of others.
struct End {
    first: u64,
    flushed: u64,
    /// Rows evicted, how often it cleared, rows that were there and were gone when it looked again,
    /// and segments merged.
    deeds: [u64; 4],
}

fn together(
    tally: &mut Tally,
    parts: &[&str],
    deeds: &[&str],
    plan: &Plan,
) -> Result<(tempfile::TempDir, Vec<End>), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut running = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let seed = plan.seed.wrapping_add(place as u64);
        let words = [
            (*part).to_owned(),
            place.to_string(),
            plan.time.as_millis().to_string(),
            seed.to_string(),
            deeds.join(" "),
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
        // What others take away goes missing; nothing of it can be unreadable.
        let faults = lines.iter().find(|line| line.starts_with("FAULTS"));
        ensure(faults.is_none(), || format!("{part} met {faults:?}"))?;
        ends.push(End {
            first: said("FIRST")?,
            flushed: said("FLUSHED")?,
            deeds: [
                said(DEEDS[0])?,
                said(DEEDS[1])?,
                said(DEEDS[2])?,
                said(DEEDS[3])?,
            ],
        });
    }
    Ok((root, ends))
}

/// The child: does its part for its time.
pub(super) fn beside(root: &Path, words: &[String]) {
    let [part, place, time, seed, deeds] = words else {
        panic!("got {words:?}");
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let mut rng = Rng::with_seed(number(seed));
    let mut config = Config {
        segment_bytes: 2_000_000,
        linger: Duration::from_millis(20),
        mmap: part == "read-mapped",
        compression: (number(place) % 2 == 1).then_some(Compression {
            level: 1,
            threads: 1,
        }),
        ..Config::default()
    };
    if part == "evict" {
        config.max_bytes = 1_500_000;
    }
    let store = Store::open(root.join(CACHE), config).expect("it opens");
    let mut tally = Tally::default();
    // Rows of its own, far from all others'.
    let first = if part == "own" {
        1_000_000 * number(place)
    } else {
        0
    };
    let (mut next, mut flushed) = (first, first);
    let (mut cleared, mut gone, mut last_clear) = (0, 0, Instant::now());
    let mut own = [0; 4];
    let mut seen = BTreeMap::new();
    let begin = Instant::now();
    let time = Duration::from_millis(number(time));
    let is_done = |deed: &str| root.join(deed).exists();
    while begin.elapsed() < time || begin.elapsed() < MOST && !deeds.split(' ').all(is_done) {
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
                // What is cleared too often, nobody has to evict.
                let pause = if is_done("EVICTED") { 1 } else { 8 };
                if part == "clear" && last_clear.elapsed() > CLEAR_EVERY * pause {
                    store.clear();
                    (last_clear, cleared) = (Instant::now(), cleared + 1);
                }
                // What is evicted all the time, nobody has to merge.
                if part == "evict" {
                    thread::sleep(Duration::from_millis(150));
                }
                // Small segments, which are merged.
                if part == "common" {
                    store.flush().expect("the disk works");
                }
            }
            _ => {
                let from = rng.u64(0..COMMON);
                seen.insert(from, tally.right_or_missing(&store, from..from + 64, LEN));
                // What was there a while ago.
                let (&from, there) = seen.iter_mut().next().expect("one at least");
                let before = *there;
                *there = tally.right_or_missing(&store, from..from + 64, LEN);
                gone += before.saturating_sub(*there);
                if *there == 0 {
                    seen.remove(&from);
                }
                let place = rng.u64(2..4) * 1_000_000 + rng.u64(0..2000);
                tally.right_or_missing(&store, place..place + 64, LEN);
            }
        }
        let stats = store.stats();
        own = [stats.evicted_rows, cleared, gone, stats.merged_segments];
        for (deed, times) in DEEDS.iter().zip(own) {
            if times > 0 && !is_done(deed) {
                fs::write(root.join(deed), []).expect("it can be written");
            }
        }
    }
    let faults = store.stats().faults;
    let is_bad = |(fault, count): (Fault, u64)| count > 0 && fault != Fault::Vanished;
    if faults.iter().any(is_bad) {
        say(format_args!("FAULTS {faults:?}"));
    }
    say(tally.line());
    say(format_args!("FIRST {first}"));
    say(format_args!("FLUSHED {flushed}"));
    for (deed, times) in DEEDS.iter().zip(own) {
        say(format_args!("{deed} {times}"));
    }
}
