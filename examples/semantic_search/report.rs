//! What the passes over the texts showed, side by side, and whether the embeddings are the right
//! ones.

use std::fmt;

use tch::{Kind, Tensor};

/// How far an embedding may be from that of sentence-transformers. Embeddings have length one.
const AGREEMENT: f64 = 1e-4;

/// How far one may be from that of another forward of ours. PyTorch's result for a row depends in
/// the last bits on the rows beside it.
const TOLERANCE: f64 = 1e-5;

/// What one pass over the texts showed.
#[derive(Debug, Clone, PartialEq)]
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

    /// Numbers with spaces between them.
    pub(crate) fn to_line(&self) -> String {
        format!(
            "{} {} {} {}",
            self.seconds, self.from_memory, self.from_disk, self.computed
        )
    }

    pub(crate) fn from_line(name: &str, line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let pass = Pass {
            name: name.to_owned(),
            seconds: words.next()?.parse().ok()?,
            from_memory: words.next()?.parse().ok()?,
            from_disk: words.next()?.parse().ok()?,
            computed: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(pass)
    }
}

/// A line for each pass; the first, without the cache, is what the others are compared with.
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

/// How many rows of two matrices of floats are not the same, bit for bit. All of them, if the
/// matrices have different shapes.
pub(crate) fn rows_that_differ(left: &Tensor, right: &Tensor) -> i64 {
    if left.size() != right.size() || left.kind() != right.kind() {
        return left.size()[0].max(right.size()[0]);
    }
    let bits = |tensor: &Tensor| tensor.contiguous().view_dtype(Kind::Int);
    let differs = bits(left).ne_tensor(&bits(right)).any_dim(1, false);
    differs.sum(Kind::Int64).int64_value(&[])
}

/// The largest difference between two matrices. NaN where one holds it, and infinite if they have
/// different shapes.
pub(crate) fn difference(left: &Tensor, right: &Tensor) -> f64 {
    match left.size() == right.size() {
        true => (left - right).abs().max().double_value(&[]),
        false => f64::INFINITY,
    }
}

/// The claims of this example, and whether they held.
#[derive(Debug, Clone)]
pub(crate) struct Checks {
    /// Texts of the sample.
    pub(crate) sample: usize,
    /// Largest difference on the sample to what sentence-transformers gives.
    pub(crate) agreement: f64,
    /// Largest difference of what the cache gave to a forward without it, in the first pass.
    pub(crate) first: f64,
    /// The same for the texts that were changed.
    pub(crate) edited: f64,
    /// Hits that were not bit for bit what was given first.
    pub(crate) changed_rows: i64,
}

impl Checks {
    /// Whether the embeddings are the right ones. Times depend on the machine and do not count.
    pub(crate) fn hold(&self) -> bool {
        self.agrees() && self.fits() && self.changed_rows == 0
    }

    /// Written so that a NaN does not agree.
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
            "{} hits against what was given first, bit for bit: {} rows differ (allowed 0)",
            verdict(self.changed_rows == 0),
            self.changed_rows
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
