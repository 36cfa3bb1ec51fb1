//! The table of the three runs, and the checks of the cached features.

use std::fmt;

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torchcache_examples::{rows_that_differ, seconds};

/// The allowed difference of a feature to that of another forward, as a share of the largest feature. The
/// last bits of PyTorch's result for a row depend on the other rows of its batch.
const TOLERANCE: f64 = 1e-4;

/// The expected speed-up of the second epoch.
const SPEED_UP: f64 = 20.0;

/// The allowed difference of accuracies: the last bits of the features differ.
const NOISE: f64 = 0.02;

/// The results of a run that are passed between processes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Seconds.
    pub(crate) epochs: Vec<f64>,
    pub(crate) accuracy: f64,
    pub(crate) from_memory: u64,
    pub(crate) from_disk: u64,
    pub(crate) repeated: u64,
    pub(crate) computed: u64,
    pub(crate) changed_rows: i64,
}

/// The table of the three runs.
pub(crate) fn table(runs: [&Summary; 3]) -> String {
    let [plain, cached, again] = runs;
    let line = |name: &str, cells: [String; 3]| {
        format!(
            "{name:<16}{:>16}{:>16}{:>16}\n",
            cells[0], cells[1], cells[2]
        )
    };
    let count = |name: &str, of: fn(&Summary) -> u64| {
        let cell = |run: &Summary| of(run).to_string();
        line(name, ["-".to_owned(), cell(cached), cell(again)])
    };
    let mut table = line(
        "",
        ["without cache", "with cache", "second process"].map(str::to_owned),
    );
    for epoch in 0..plain.epochs.len() {
        let name = format!("epoch {}", epoch + 1);
        table += &line(&name, runs.map(|run| seconds(run.epochs[epoch])));
    }
    table += &count("from memory", |run| run.from_memory);
    table += &count("from disk", |run| run.from_disk);
    table += &count("repeated", |run| run.repeated);
    table += &count("computed", |run| run.computed);
    table += &line(
        "test accuracy",
        runs.map(|run| format!("{:.1} %", run.accuracy * 100.0)),
    );
    table
}

/// What this example claims, and whether it holds.
pub(crate) struct Checks {
    rows: i64,
    /// Rows of the first cached epoch that equal those of the run without a cache in every bit.
    equal_rows: i64,
    /// The largest difference of a feature to that of the run without a cache.
    difference: f64,
    changed_rows: i64,
    accuracies: [f64; 3],
    second_epoch: f64,
    second_process: f64,
}

impl Checks {
    /// Compares three runs: without a cache, with it, and in a second process. `computed` and
    /// `cached_features` are those of the first epochs of the first two.
    pub(crate) fn new(runs: [&Summary; 3], computed: &Tensor, cached_features: &Tensor) -> Self {
        let [plain, cached, again] = runs;
        let largest = computed.abs().max().double_value(&[]);
        Checks {
            rows: computed.size()[0],
            equal_rows: computed.size()[0] - rows_that_differ(computed, cached_features),
            difference: (computed - cached_features).abs().max().double_value(&[]) / largest,
            changed_rows: cached.changed_rows + again.changed_rows,
            accuracies: runs.map(|run| run.accuracy),
            second_epoch: plain.epochs[1] / cached.epochs[1],
            second_process: plain.epochs[0] / again.epochs[0],
        }
    }

    /// Whether the features are right. Times depend on the machine and are only reported.
    pub(crate) fn hold(&self) -> bool {
        self.features_fit() && self.changed_rows == 0 && self.accuracies_agree()
    }

    /// False for NaN.
    fn features_fit(&self) -> bool {
        self.difference <= TOLERANCE
    }

    fn accuracies_agree(&self) -> bool {
        let [plain, others @ ..] = self.accuracies;
        others.iter().all(|other| (plain - other).abs() <= NOISE)
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |holds| if holds { "ok  " } else { "FAIL" };
        writeln!(
            f,
            "{} features of the first epoch against a forward without the cache: {} of {} rows equal bit for bit, largest difference {:.1e} (allowed {TOLERANCE:.0e})",
            verdict(self.features_fit()),
            self.equal_rows,
            self.rows,
            self.difference
        )?;
        writeln!(
            f,
            "{} features of later epochs and of the second process against the first epoch: {} rows differ (allowed 0)",
            verdict(self.changed_rows == 0),
            self.changed_rows
        )?;
        writeln!(
            f,
            "{} accuracies equal within {:.0} points",
            verdict(self.accuracies_agree()),
            NOISE * 100.0
        )?;
        let reached = if self.second_epoch >= SPEED_UP {
            "ok  "
        } else {
            "slow"
        };
        writeln!(
            f,
            "{reached} second epoch {:.0} x faster with the cache (expected {SPEED_UP:.0} x)",
            self.second_epoch
        )?;
        write!(
            f,
            "     first epoch of a second process {:.0} x faster than without the cache",
            self.second_process
        )
    }
}
