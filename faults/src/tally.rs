//! What a scenario saw, and the watch over it.

use std::any::Any;
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
    /// What could not be caused on this machine.
    pub notes: Vec<String>,
}

impl Tally {
    /// Makes one round. What it returns as an error, or panics with, counts against it; that it
    /// hangs ends the process.
    pub fn round(&mut self, name: &str, round: impl FnOnce(&mut Tally) -> Result<(), String>) {
        self.rounds += 1;
        let before = (self.wrong, self.lost);
        let outcome = watched(name, || catch_unwind(AssertUnwindSafe(|| round(self))));
        let outcome = outcome.unwrap_or_else(|panic| Err(format!("it panicked: {}", text(&panic))));
        match outcome {
            Ok(()) if before == (self.wrong, self.lost) => self.survived += 1,
            Ok(()) => self.fail(format!("{name}: a row was wrong or lost")),
            Err(failure) => self.fail(format!("{name}: {failure}")),
        }
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
    /// What there is; among it that the fault was never caused.
    pub fn verdict(&self) -> Result<(), String> {
        if self.failures.is_empty()
            && self.survived == self.rounds
            && self.caused >= self.rounds.min(1)
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
