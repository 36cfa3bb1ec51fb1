//! One of several processes that use a directory at the same time: it writes, evicts, clears or reads,
//! and compares every row that it gets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use torchcache_store::{Compression, Config, Fault, Store};

use crate::process::say;
use crate::rows::{self, batch};

/// The length of the rows.
pub const LEN: usize = 2500;

/// Where the cache is, next to a file for each deed that was done.
pub const CACHE: &str = "cache";

/// What the processes do to each other.
pub const DEEDS: [&str; 4] = ["EVICTED", "CLEARED", "GONE", "COMPACTED"];

/// The rows that all write.
const COMMON: u64 = 3000;

/// It ends after this time although not every deed was done.
const LONGEST: Duration = Duration::from_secs(90);

/// How often the process that clears does so.
const CLEAR_EVERY: Duration = Duration::from_millis(500);

/// The arguments: the part, its number, the milliseconds, a seed, and the deeds to wait for.
pub fn run(root: &Path, args: &[String]) {
    let [part, place, time, seed, deeds] = args else {
        panic!("got {args:?}");
    };
    let number = |text: &String| text.parse::<u64>().unwrap();
    let mut rng = Rng::with_seed(number(seed));
    let mut config = Config::default()
        .with_segment_bytes(2_000_000)
        .with_batch_delay(Duration::from_millis(20))
        .with_mmap(part == "read-mapped")
        .with_compression((number(place) % 2 == 1).then_some(Compression::new(1, 1)));
    if part == "evict" {
        config.max_bytes = 1_500_000;
    }
    let store = Store::open(root.join(CACHE), config).unwrap();
    let mut compared = 0;
    let mut count_right = |numbers| {
        let there = rows::count_right(&store, numbers, LEN);
        compared += there;
        there
    };
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
    while begin.elapsed() < time || begin.elapsed() < LONGEST && !deeds.split(' ').all(is_done) {
        match part.as_str() {
            "own" => {
                store.put(batch(next..next + 16, LEN));
                next += 16;
                if rng.u8(..8) == 0 {
                    store.flush().unwrap();
                    flushed = next;
                }
                let back = next.saturating_sub(rng.u64(0..500)).max(first);
                count_right(back..next);
            }
            "common" | "evict" | "clear" => {
                let from = rng.u64(0..COMMON);
                store.put(batch(from..from + rng.u64(1..20), LEN));
                count_right(from..from + 64);
                // If it were cleared too often, nothing would be evicted.
                let pause = if is_done("EVICTED") { 1 } else { 8 };
                if part == "clear" && last_clear.elapsed() > CLEAR_EVERY * pause {
                    store.clear();
                    (last_clear, cleared) = (Instant::now(), cleared + 1);
                }
                // If rows were evicted all the time, nothing would be compacted.
                if part == "evict" {
                    thread::sleep(Duration::from_millis(150));
                }
                // Small segments, which are compacted.
                if part == "common" {
                    store.flush().unwrap();
                }
            }
            _ => {
                let from = rng.u64(0..COMMON);
                seen.insert(from, count_right(from..from + 64));
                // Look again at rows that were there before.
                let (&from, there) = seen.iter_mut().next().unwrap();
                let before = *there;
                *there = count_right(from..from + 64);
                gone += before.saturating_sub(*there);
                if *there == 0 {
                    seen.remove(&from);
                }
                let place = rng.u64(2..4) * 1_000_000 + rng.u64(0..2000);
                count_right(place..place + 64);
            }
        }
        let stats = store.stats();
        own = [stats.evicted_rows, cleared, gone, stats.compacted_segments];
        for (deed, times) in DEEDS.iter().zip(own) {
            if times > 0 && !is_done(deed) {
                fs::write(root.join(deed), []).unwrap();
            }
        }
    }
    let faults = store.stats().faults;
    let is_bad = |(fault, count): (Fault, u64)| count > 0 && fault != Fault::Vanished;
    if faults.iter().any(is_bad) {
        say(format_args!("FAULTS {faults:?}"));
    }
    say(format_args!("COMPARED {compared}"));
    say(format_args!("FIRST {first}"));
    say(format_args!("FLUSHED {flushed}"));
    for (deed, times) in DEEDS.iter().zip(own) {
        say(format_args!("{deed} {times}"));
    }
}
