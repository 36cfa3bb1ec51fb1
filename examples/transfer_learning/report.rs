//! What the three runs showed, side by side, and whether the cached features are the right ones.

use std::fmt;

use tch::{Kind, Tensor};

/// How far a feature may be from that of another forward, as a share of the largest feature.
/// PyTorch's result for a row depends in the last bits on the rows beside it.
const TOLERANCE: f64 = 1e-4;

/// By how much the second epoch should be faster with the cache.
const SPEED_UP: f64 = 20.0;

/// How far two accuracies may be apart to be called equal: the last bits of the features differ.
const NOISE: f64 = 0.02;

/// What one run showed, small enough to be passed between processes.
#[derive(Debug, PartialEq)]
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

impl Summary {
    /// Numbers with spaces between them.
    pub(crate) fn to_line(&self) -> String {
        let counts = [
            self.from_memory,
            self.from_disk,
            self.repeated,
            self.computed,
        ];
        let counts = counts.map(|count| count.to_string()).join(" ");
        let epochs: Vec<_> = self.epochs.iter().map(f64::to_string).collect();
        format!(
            "{} {counts} {} {}",
            self.accuracy,
            self.changed_rows,
            epochs.join(" ")
        )
    }

    pub(crate) fn from_line(line: &str, epochs: u32) -> Option<Self> {
        let mut words = line.split(' ');
        let summary = Summary {
            accuracy: words.next()?.parse().ok()?,
            from_memory: words.next()?.parse().ok()?,
            from_disk: words.next()?.parse().ok()?,
            repeated: words.next()?.parse().ok()?,
            computed: words.next()?.parse().ok()?,
            changed_rows: words.next()?.parse().ok()?,
            epochs: words.map(|word| word.parse().ok()).collect::<Option<_>>()?,
        };
        (summary.epochs.len() == epochs as usize).then_some(summary)
    }
}

/// How many rows of two matrices of floats are not the same, bit for bit.
pub(crate) fn rows_that_differ(left: &Tensor, right: &Tensor) -> i64 {
    let bits = |tensor: &Tensor| tensor.contiguous().view_dtype(Kind::Int);
    let differs = bits(left).ne_tensor(&bits(right)).any_dim(1, false);
    differs.sum(Kind::Int64).int64_value(&[])
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

/// The claims of this example, and whether they held.
pub(crate) struct Checks {
    rows: i64,
    /// Rows of the first cached epoch that are bit for bit those of the run without a cache.
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
    /// `held` are what the first epochs of the first two saw.
    pub(crate) fn of(runs: [&Summary; 3], computed: &Tensor, held: &Tensor) -> Self {
        let [plain, cached, again] = runs;
        let largest = computed.abs().max().double_value(&[]);
        Checks {
            rows: computed.size()[0],
            equal_rows: computed.size()[0] - rows_that_differ(computed, held),
            difference: (computed - held).abs().max().double_value(&[]) / largest,
            changed_rows: cached.changed_rows + again.changed_rows,
            accuracies: runs.map(|run| run.accuracy),
            second_epoch: plain.epochs[1] / cached.epochs[1],
            second_process: plain.epochs[0] / again.epochs[0],
        }
    }

    /// Whether the features are the right ones. Times depend on the machine and do not count.
    pub(crate) fn hold(&self) -> bool {
        self.features_fit() && self.changed_rows == 0 && self.accuracies_agree()
    }

    /// Written so that a NaN does not fit.
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

/// Seconds for people.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}
