//! What a test did: for its own assertion that the fault happened, and for the table of
//! `cargo xtask soak`, which runs the same tests with more cases.

use std::collections::BTreeMap;
use std::fmt::{Arguments, Display};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestError, TestRunner};
use torchcache_store::Store;

use crate::rows::{fetch, keys, value};

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

/// Counts what a test did. A check that fails panics.
#[derive(Debug)]
pub struct Report {
    fault: &'static str,
    cases: AtomicU64,
    caused: AtomicU64,
    rows: AtomicU64,
    /// Cases that this machine cannot cause.
    skipped: Mutex<BTreeMap<String, u64>>,
}

impl Report {
    /// A report on tests with this fault.
    pub fn new(fault: &'static str) -> Report {
        Report {
            fault,
            cases: AtomicU64::new(0),
            caused: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            skipped: Mutex::default(),
        }
    }

    /// Runs one case, which must cause its fault, or [skip](Self::skip) it. The name is printed if
    /// it panics.
    pub fn case<T>(&self, name: Arguments<'_>, run: impl FnOnce() -> T) -> T {
        let before = self.progress();
        let done = self.series_case(name, run);
        assert!(self.progress() > before, "{name}: the fault was not caused");
        done
    }

    /// Runs cases with rising numbers until one did not cause the fault: the whole run passed
    /// untouched. The first must cause it.
    pub fn series(&self, name: Arguments<'_>, mut case: impl FnMut(u64)) {
        for nth in 1..LONGEST_SERIES {
            let before = self.progress();
            self.series_case(format_args!("{name}, number {nth}"), || case(nth));
            if self.progress() == before {
                assert!(nth > 1, "{name}: the fault was not caused");
                return;
            }
        }
        panic!("{name}: there is no end to it");
    }

    /// Runs random cases.
    ///
    /// # Panics
    /// With the smallest input that was found to fail.
    pub fn random<S: Strategy>(&self, cases: u32, inputs: S, case: impl Fn(S::Value)) {
        let config = Config {
            cases,
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        };
        let run = TestRunner::new(config).run(&inputs, |input| {
            self.case(format_args!("a random case"), || case(input));
            Ok(())
        });
        match run {
            Ok(()) => {}
            Err(TestError::Fail(reason, input)) => panic!("{reason}\nminimal input: {input:#?}"),
            Err(TestError::Abort(reason)) => panic!("{reason}"),
        }
    }

    fn series_case<T>(&self, name: Arguments<'_>, run: impl FnOnce() -> T) -> T {
        struct OnPanic<'a>(Arguments<'a>);
        impl Drop for OnPanic<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    eprintln!("case: {}", self.0);
                }
            }
        }
        let _on_panic = OnPanic(name);
        let done = run();
        self.cases.fetch_add(1, Ordering::Relaxed);
        done
    }

    fn progress(&self) -> u64 {
        self.caused.load(Ordering::Relaxed) + self.skips().values().sum::<u64>()
    }

    fn skips(&self) -> BTreeMap<String, u64> {
        let skipped = self.skipped.lock();
        skipped.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fault was caused so many times.
    pub fn caused(&self, times: u64) {
        self.caused.fetch_add(times, Ordering::Relaxed);
    }

    /// So many rows were compared outside of this type.
    pub fn checked(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// This machine cannot cause a fault. The case does not fail.
    pub fn skip(&self, what: &str) {
        let skipped = self.skipped.lock();
        let skipped = &mut *skipped.unwrap_or_else(PoisonError::into_inner);
        *skipped.entry(what.to_owned()).or_default() += 1;
    }

    /// Compares every byte of rows that must be there.
    #[track_caller]
    pub fn expect_all(&self, store: &Store, numbers: Range<u64>, len: usize) {
        let wanted = numbers.end - numbers.start;
        let there = self.count_right(store, numbers.clone(), len);
        assert!(there == wanted, "{there} of rows {numbers:?} are there");
    }

    /// Compares every byte of what a store has of some rows, and returns how many it has.
    #[track_caller]
    pub fn count_right(&self, store: &Store, numbers: Range<u64>, len: usize) -> u64 {
        let mut there = 0;
        for first in numbers.clone().step_by(256) {
            let keys = keys(first..numbers.end.min(first + 256));
            for (key, row) in keys.iter().zip(fetch(store, &keys)) {
                let Some(row) = row else { continue };
                there += 1;
                assert!(row == value(key, len), "a row of {numbers:?} is wrong");
            }
        }
        self.checked(there);
        there
    }

    /// What a child process did, for [`add`](Self::add).
    pub fn line(&self) -> impl Display {
        let (caused, rows) = (&self.caused, &self.rows);
        format!(
            "DID {} {}",
            caused.load(Ordering::Relaxed),
            rows.load(Ordering::Relaxed)
        )
    }

    /// Adds what a child process did. Returns its number of rows.
    #[track_caller]
    pub fn add(&self, lines: &[String]) -> u64 {
        let line = lines.iter().find_map(|line| line.strip_prefix("DID "));
        let line = line.unwrap_or_else(|| panic!("no line of what it did: {lines:?}"));
        let counts: Vec<u64> = line.split(' ').flat_map(str::parse).collect();
        let [caused, rows] = counts[..] else {
            panic!("not two numbers: {line}");
        };
        self.caused(caused);
        self.checked(rows);
        rows
    }

    /// Ends the test: the fault must have been caused. Prints what `cargo xtask soak` reads.
    pub fn finish(&self) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let caused = count(&self.caused);
        let skipped = self.skips();
        let left_out = match skipped.is_empty() {
            true => String::new(),
            false => format!(" (left out: {skipped:?})"),
        };
        assert!(caused > 0, "the fault was never caused{left_out}");
        let (cases, rows) = (count(&self.cases), count(&self.rows));
        println!("seen {cases} {caused} {rows} {}{left_out}", self.fault);
    }
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
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn panics(run: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(run)).is_err()
    }

    #[test]
    fn a_case_without_its_fault_fails() {
        let report = Report::new("a fault");
        assert!(panics(|| report.finish()));
        report.case(format_args!("caused"), || report.caused(1));
        report.finish();
        assert!(panics(|| report.case(format_args!("not caused"), || ())));
        report.case(format_args!("left out"), || report.skip("an owner"));
    }

    #[test]
    fn a_series_ends_with_a_case_that_causes_nothing() {
        let report = Report::new("a fault");
        let mut last = 0;
        report.series(format_args!("three"), |nth| {
            last = nth;
            report.caused(u64::from(nth <= 3));
        });
        assert_eq!(last, 4);
        assert!(panics(|| report.series(format_args!("none"), |_| ())));
    }

    #[test]
    fn random_cases_fail_with_their_smallest_input() {
        let report = Report::new("a fault");
        let failed = catch_unwind(AssertUnwindSafe(|| {
            report.random(100, 0..1000u32, |n| {
                report.caused(1);
                assert!(n < 20);
            });
        }));
        let message = failed.expect_err("it fails");
        let message = message.downcast_ref::<String>().expect("a text");
        assert!(message.contains("minimal input: 20"), "{message}");
    }
}
