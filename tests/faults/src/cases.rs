//! How many cases a test runs, and how. `cargo xtask soak` runs the same tests with many more.

use std::fmt::Arguments;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::test_runner::Config;

/// A series of failing calls that is longer has no end.
const LONGEST_SERIES: u64 = 10_000;

/// Whether this is the long form, which takes minutes for each test.
fn is_soak() -> bool {
    std::env::var_os("TORCHCACHE_SOAK").is_some()
}

/// How many cases a test runs: of the short form, or of the long one.
pub fn cases(short: u32, long: u32) -> u32 {
    if is_soak() { long } else { short }
}

/// How long a test runs whose threads or processes work against each other.
pub fn duration() -> Duration {
    Duration::from_secs(if is_soak() { 60 } else { 3 })
}

/// So many random cases.
pub fn random(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    }
}

/// Runs a case. The name is printed if it panics.
pub fn case<T>(name: Arguments<'_>, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        eprintln!("case: {name}");
        resume_unwind(panic)
    })
}

/// Runs cases with rising numbers until one returns that it did not cause its fault: the whole run
/// passed untouched. The first must cause it. Returns how many did.
pub fn series(name: Arguments<'_>, mut run: impl FnMut(u64) -> bool) -> u64 {
    for nth in 1..LONGEST_SERIES {
        if !case(format_args!("{name}, number {nth}"), || run(nth)) {
            assert!(nth > 1, "{name}: the fault was not caused");
            return nth - 1;
        }
    }
    panic!("{name}: there is no end to it");
}

/// Prints what `cargo xtask soak` reads: how often a test caused its fault, which must not be never.
pub fn seen(fault: &str, times: u64) {
    assert!(times > 0, "{fault}: it was never caused");
    println!("seen {times} {fault}");
}

/// Waits for something that another thread or process does. Returns whether it did.
pub fn eventually(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > within {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Counts, across threads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one, and returns how many there are now.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics(run: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(run)).is_err()
    }

    #[test]
    fn a_test_that_never_causes_its_fault_fails() {
        assert!(panics(|| seen("a fault", 0)));
        assert!(!panics(|| seen("a fault", 1)));
    }

    #[test]
    fn a_series_ends_with_a_case_that_causes_nothing() {
        let mut last = 0;
        let caused = series(format_args!("three"), |nth| {
            last = nth;
            nth <= 3
        });
        assert_eq!((caused, last), (3, 4));
        assert!(panics(|| _ = series(format_args!("none"), |_| false)));
        assert!(panics(|| _ = series(format_args!("fails"), |_| panic!())));
    }
}
