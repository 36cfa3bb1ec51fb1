//! What a scenario saw, and the watch over it.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use torchcache_store::Store;

use crate::rows::{fetch, keys, value};

/// A round that takes so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(180);

/// Failures that are told in full.
const TOLD: usize = 5;

/// A series that is longer has something wrong with it.
const MOST: u64 = 10_000;

/// What a scenario saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How often it was tried.
    pub rounds: u64,
    /// How often the fault was really caused, which may be several times a round.
    pub caused: u64,
    /// In how many rounds all was as promised, up to the end.
    pub survived: u64,
    /// Rows whose every byte was compared.
    pub rows: u64,
    /// Rows that were something else than their value.
    pub wrong: u64,
    /// Rows that a flush had promised, that nobody evicted, cleared or damaged, and that were gone.
    pub lost: u64,
    /// What was not as promised, the first few times.
    pub failures: Vec<String>,
    /// What could not be caused on this machine, and how many rounds of it were left out.
    pub skipped: BTreeMap<String, u64>,
}

impl Tally {
    /// Makes one round, in which the fault must be caused: [`caused`](Self::caused) has to grow, or
    /// the round is [skipped](Self::skip). What it returns as an error, or panics with, counts
    /// against it; that it hangs ends the process.
    pub fn round(&mut self, name: &str, round: impl FnOnce(&mut Tally) -> Result<(), String>) {
        let before = (self.caused, self.skips());
        if self.one(name, round) && before == (self.caused, self.skips()) {
            self.survived -= 1;
            self.fail(format!("{name}: the fault was not caused"));
        }
    }

    /// Makes rounds with one number more each, until the fault was not caused in one: a whole run
    /// passed untouched. The first has to cause it.
    pub fn series(
        &mut self,
        name: &str,
        mut round: impl FnMut(&mut Tally, u64) -> Result<(), String>,
    ) {
        let mut before = self.caused;
        for nth in 1..MOST {
            let name = format!("{name}, number {nth}");
            let make = |tally: &mut Tally| round(tally, nth);
            let went_well = match nth {
                1 => {
                    let survived = self.survived;
                    self.round(&name, make);
                    self.survived > survived
                }
                _ => self.one(&name, make),
            };
            // What failed once would most often fail again.
            if !went_well || self.caused == before {
                return;
            }
            before = self.caused;
        }
        self.fail(format!("{name}: there is no end to it"));
    }

    /// A round that may cause nothing. Returns whether all was as promised.
    fn one(&mut self, name: &str, round: impl FnOnce(&mut Tally) -> Result<(), String>) -> bool {
        let (before, skips) = ((self.wrong, self.lost), self.skips());
        let outcome = watched(name, || catch_unwind(AssertUnwindSafe(|| round(self))));
        let outcome = outcome.unwrap_or_else(|panic| Err(format!("it panicked: {}", text(&panic))));
        if self.skips() > skips && outcome.is_ok() {
            return true;
        }
        self.rounds += 1;
        match outcome {
            Ok(()) if before == (self.wrong, self.lost) => {
                self.survived += 1;
                return true;
            }
            Ok(()) => self.fail(format!("{name}: a row was wrong or lost")),
            Err(failure) => self.fail(format!("{name}: {failure}")),
        }
        false
    }

    /// Says that what the round wants cannot be caused on this machine. The round counts neither as
    /// made nor as survived.
    pub fn skip(&mut self, what: &str) {
        *self.skipped.entry(what.to_owned()).or_default() += 1;
    }

    fn skips(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// What was left out, in brackets, to be read behind the fault; nothing if nothing was.
    pub fn left_out(&self) -> String {
        if self.skipped.is_empty() {
            return String::new();
        }
        let parts: Vec<_> = self
            .skipped
            .iter()
            .map(|(what, rounds)| format!("{what}: {rounds} rounds"))
            .collect();
        format!(" (left out: {})", parts.join("; "))
    }

    fn fail(&mut self, failure: String) {
        if self.failures.len() < TOLD {
            self.failures.push(failure);
        }
    }

    /// Checks every byte of what a store has of some rows. Those that are not there are lost.
    pub fn all_there(&mut self, store: &Store, numbers: Range<u64>, len: usize) {
        let missing = (numbers.end - numbers.start) - self.right_or_missing(store, numbers, len);
        self.lost += missing;
    }

    /// Checks every byte of what a store has of some rows, and returns how many of them it has.
    pub fn right_or_missing(&mut self, store: &Store, numbers: Range<u64>, len: usize) -> u64 {
        let mut there = 0;
        let mut numbers = numbers;
        while !numbers.is_empty() {
            let end = numbers.end.min(numbers.start + 256);
            let keys = keys(numbers.start..end);
            for (key, row) in keys.iter().zip(fetch(store, &keys)) {
                let Some(row) = row else { continue };
                there += 1;
                self.rows += 1;
                self.wrong += u64::from(row != value(key, len));
            }
            numbers.start = end;
        }
        there
    }

    /// Rounds, faults caused, rounds survived, rows checked, wrong rows and lost ones.
    pub fn cells(&self) -> [String; 6] {
        [
            self.rounds,
            self.caused,
            self.survived,
            self.rows,
            self.wrong,
            self.lost,
        ]
        .map(|count| count.to_string())
    }

    /// What a child process saw, for [`add_line`](Self::add_line).
    pub fn line(&self) -> String {
        let Tally {
            caused,
            rows,
            wrong,
            lost,
            ..
        } = self;
        format!("SAW {caused} {rows} {wrong} {lost}")
    }

    /// Takes in what a child process saw, if this line says it.
    pub fn add_line(&mut self, line: &str) -> bool {
        let Some(counts) = line.strip_prefix("SAW ") else {
            return false;
        };
        let counts: Vec<u64> = counts.split(' ').flat_map(str::parse).collect();
        let [caused, rows, wrong, lost] = counts[..] else {
            return false;
        };
        self.caused += caused;
        self.rows += rows;
        self.wrong += wrong;
        self.lost += lost;
        true
    }

    /// Whether there is nothing to complain of.
    ///
    /// # Errors
    /// What there is; among it that a round did not cause its fault, or that there was none.
    pub fn verdict(&self) -> Result<(), String> {
        if self.failures.is_empty()
            && self.survived == self.rounds
            && self.caused > 0
            && (self.wrong, self.lost) == (0, 0)
        {
            return Ok(());
        }
        Err(format!(
            "{} of {} rounds survived, the fault was caused {} times, {} rows checked, {} wrong, {} \
             lost: {:#?}",
            self.survived,
            self.rounds,
            self.caused,
            self.rows,
            self.wrong,
            self.lost,
            self.failures
        ))
    }
}

/// What is said where something is not as promised.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn text(panic: &Box<dyn Any + Send>) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("with something that is no text")
}

/// Runs something that must end. If it does not, there is nothing to be done but to say so.
fn watched<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(HANGS_AFTER) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name}: hangs, for {HANGS_AFTER:?} now");
                std::process::abort();
            }
        });
        let result = run();
        drop(done);
        result
    })
}

/// How long a scenario goes on: for so many rounds, or for so long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds, where the scenario has no number of its own.
    pub rounds: u64,
    /// How long those last that go on for a time.
    pub time: Duration,
    /// What random choices begin with.
    pub seed: u64,
}

/// Waits for something that another thread or process does.
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

    fn caused(tally: &mut Tally) -> Result<(), String> {
        tally.caused += 1;
        Ok(())
    }

    #[test]
    fn a_round_that_does_not_cause_its_fault_is_a_failure_beside_others_that_do() {
        let mut tally = Tally::default();
        tally.round("caused", caused);
        tally.verdict().expect("all is well");
        tally.round("not caused", |_| Ok(()));
        assert_eq!((tally.rounds, tally.survived), (2, 1));
        let failures = tally.verdict().expect_err("one was not caused");
        assert!(failures.contains("not caused: the fault was"), "{failures}");
    }

    #[test]
    fn a_round_that_is_skipped_is_neither_made_nor_survived_and_is_told_of() {
        let mut tally = Tally::default();
        tally.round("of another", |tally| {
            tally.skip("another owner");
            Ok(())
        });
        assert_eq!((tally.rounds, tally.survived), (0, 0));
        assert_eq!(tally.left_out(), " (left out: another owner: 1 rounds)");
        tally
            .verdict()
            .expect_err("where all is skipped, nothing is shown");
        tally.round("caused", caused);
        tally.verdict().expect("the rest is as promised");
    }

    #[test]
    fn a_series_ends_with_a_round_that_causes_nothing_and_begins_with_one_that_does() {
        let up_to = |most| {
            move |tally: &mut Tally, nth| {
                tally.caused += u64::from(nth <= most);
                Ok(())
            }
        };
        let mut tally = Tally::default();
        tally.series("three", up_to(3));
        assert_eq!((tally.rounds, tally.survived, tally.caused), (4, 4, 3));
        tally.verdict().expect("all is well");
        tally.series("none", up_to(0));
        tally.verdict().expect_err("it was never caused");
    }
}
