//! The table of the passes over the texts, and the checks of the embeddings.

use std::fmt;

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torchcache_examples::seconds;

/// The allowed difference to an embedding by sentence-transformers. Embeddings have length one.
const AGREEMENT: f64 = 1e-4;

/// The allowed difference to an embedding by another forward. The last bits of PyTorch's result for a row
/// depend on the other rows of its batch.
const TOLERANCE: f64 = 1e-5;

/// The results of one pass over the texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) from_memory: u64,
    pub(crate) from_disk: u64,
    pub(crate) computed: u64,
}

impl Pass {
    pub(crate) fn texts(&self) -> u64 {
        self.hits() + self.computed
    }

    fn hits(&self) -> u64 {
        self.from_memory + self.from_disk
    }
}

/// A line for each pass; times are compared with the first, which is without the cache.
pub(crate) fn table(passes: &[Pass]) -> String {
    let line = |cells: [&str; 7]| {
        let [name, time, faster, memory, disk, computed, hits] = cells;
        let line =
            format!("{name:<18}{time:>10}{faster:>9}{memory:>13}{disk:>11}{computed:>10}{hits:>9}");
        line.trim_end().to_owned() + "\n"
    };
    let mut table = line([
        "",
        "time",
        "faster",
        "from memory",
        "from disk",
        "computed",
        "hits",
    ]);
    for (number, pass) in passes.iter().enumerate() {
        let faster = passes[0].seconds / pass.seconds;
        let faster = match faster < 9.95 {
            true => format!("{faster:.1} x"),
            false => format!("{faster:.0} x"),
        };
        let hits = pass.hits() as f64 * 100.0 / pass.texts() as f64;
        let cells = [
            faster,
            pass.from_memory.to_string(),
            pass.from_disk.to_string(),
            pass.computed.to_string(),
            format!("{hits:.1} %"),
        ];
        let [faster, memory, disk, computed, hits] = cells.each_ref().map(String::as_str);
        let time = seconds(pass.seconds);
        table += &match number {
            0 => line([&pass.name, &time, "", "", "", computed, ""]),
            _ => line([&pass.name, &time, faster, memory, disk, computed, hits]),
        };
    }
    table
}

/// The largest difference between two matrices: NaN if one has a NaN, infinite if the shapes differ.
pub(crate) fn difference(left: &Tensor, right: &Tensor) -> f64 {
    match left.size() == right.size() {
        true => (left - right).abs().max().double_value(&[]),
        false => f64::INFINITY,
    }
}

/// What this example claims, and whether it holds.
#[derive(Debug, Clone)]
pub(crate) struct Checks {
    /// The number of texts of the sample.
    pub(crate) sample: usize,
    /// Largest difference on the sample to sentence-transformers.
    pub(crate) agreement: f64,
    /// Largest difference of the first pass to a forward without the cache.
    pub(crate) first: f64,
    /// The same for the changed texts.
    pub(crate) edited: f64,
    /// Hits that differ from the first result in any bit.
    pub(crate) changed_rows: i64,
}

impl Checks {
    /// Whether the embeddings are right. Times depend on the machine and are only reported.
    pub(crate) fn hold(&self) -> bool {
        self.agrees() && self.fits() && self.changed_rows == 0
    }

    /// False for NaN.
    fn agrees(&self) -> bool {
        self.agreement <= AGREEMENT
    }

    fn fits(&self) -> bool {
        self.first <= TOLERANCE && self.edited <= TOLERANCE
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |holds| if holds { "ok  " } else { "FAIL" };
        writeln!(
            f,
            "{} {} texts against sentence-transformers: largest difference {:.1e} (allowed {AGREEMENT:.0e})",
            verdict(self.agrees()),
            self.sample,
            self.agreement
        )?;
        writeln!(
            f,
            "{} with the cache against without it: largest difference {:.1e}, of changed texts {:.1e} (allowed {TOLERANCE:.0e})",
            verdict(self.fits()),
            self.first,
            self.edited
        )?;
        write!(
            f,
            "{} hits against the first results, bit for bit: {} rows differ (allowed 0)",
            verdict(self.changed_rows == 0),
            self.changed_rows
        )
    }
}
