//! Warnings, each logged once per handle: why calls bypass the cache, and which faults turned hits
//! into misses.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tch::{Kind, TchError};
use torchcache_store::size::human;

use super::hash_changes::MAX_CHANGES;

/// Why a call bypasses the cache, or what went wrong in one that did not.
#[derive(Debug)]
pub(crate) enum Reason {
    /// A batch without rows has nothing to look up.
    NoRows,
    /// The module is being trained.
    Training,
    /// The named argument requires grad.
    Gradient(String),
    /// The named argument, of a layout in words, cannot be cut into rows.
    ArgumentLayout(String, &'static str),
    /// A tensor cannot be hashed, and what holds it: "argument `mask` is".
    Unreadable(String),
    /// The named argument is undefined, or of a kind without a name in tch.
    ArgumentKind(String, TchError),
    /// The output cannot be cut into rows.
    OutputLayout,
    /// The output holds no tensor.
    NoTensors,
    /// Rows of one batch have different shapes or kinds.
    ChangingShape,
    /// The shape of output rows follows one of the input that keys leave out.
    ShapeFollowsInput,
    /// The cache holds rows that this version cannot read.
    ForeignRows,
    /// Another thread, or the caller, holds a lock that is needed to read the module.
    Locked,
    /// libtorch could not copy or read what the cache needs.
    Libtorch(TchError),
    /// The memory tier could not hold or copy rows.
    MemoryTier(String),
    /// The disk tier could not be opened.
    DiskTier(String),
    /// A TorchScript module is in train mode.
    TrainMode,
    /// The forward failed on some rows of a batch, and not on all of it.
    CutBatch {
        /// What it did, such as "panicked".
        failure: String,
        rows: i64,
        of: i64,
        /// The length to which the rows were cut as well, and the one that they have.
        lengths: Option<(i64, i64)>,
    },
    /// The output for a batch of one row has no dimension for it.
    OneRow,
    /// The first dimension of the output has the length of a batch of so many rows by chance.
    BatchNotFirst(usize),
    /// The types with derived fingerprints that have code.
    UnknownCode(String),
    /// Rows are on disk in a directory that is removed at exit.
    TemporaryDirectory,
    /// Options that do nothing, and the setting that they need.
    WithoutEffect(Vec<&'static str>, &'static str),
    /// The only tensors of a call have one dimension, as the named one, with so many elements.
    OneDimension(String, i64),
    /// A value of an output that `cache_dtype` cannot hold.
    Unrepresentable { value: f64, kind: Kind },
    /// The named argument was written in place during the forward.
    ArgumentWritten(String),
    /// The module hash changed so many times in a row.
    ChangingHash {
        times: u64,
        /// What the last change was.
        change: String,
        /// The last one while the forward ran.
        in_forward: bool,
    },
    /// The module changed while the forward ran, in so many calls in a row.
    ModuleChanged(u64),
    /// The named plain argument changed while the forward ran.
    ArgumentChanged(String),
    /// The memory tiers of the process have reached this bound.
    ProcessMemory(u64),
    /// A call waited so long for rows that another one computes.
    Waited(Duration),
    /// Recomputed rows differ from the cached ones.
    Mismatch {
        mismatched: usize,
        verified: usize,
        example: String,
    },
}

impl From<TchError> for Reason {
    fn from(error: TchError) -> Self {
        Reason::Libtorch(error)
    }
}

/// What to do where no row is kept.
const WHILE_FORWARD_RAN: &str = "The module changed while the forward ran, and the rows of such a call are not kept, since a hit would not repeat the change: keep state outside the module and pass it as an argument, and mark a field that the output does not depend on, such as a buffer for intermediate results, with `#[torchcache(skip)]`";

impl Reason {
    /// The bit that marks this reason as logged, and its message; `None` for reasons that are no
    /// news.
    fn message(&self) -> Option<(u32, String)> {
        Some(match self {
            Reason::NoRows | Reason::Training => return None,
            Reason::Gradient(argument) => (
                0,
                format!("argument `{argument}` requires grad, and a cached output has none: such calls bypass the cache; detach the input to cache them"),
            ),
            Reason::ArgumentLayout(argument, layout) => (
                1,
                format!("argument `{argument}` is {layout} and cannot be cut into rows: such calls bypass the cache"),
            ),
            Reason::ArgumentKind(argument, error) => (
                2,
                format!("argument `{argument}` is undefined or of a kind that tch does not know ({}): such calls bypass the cache", first_line(error)),
            ),
            Reason::OutputLayout => (
                3,
                "the output is sparse, quantized, undefined, of an unknown kind or layout or has too many tensors to be cut into rows: it is not cached".into(),
            ),
            Reason::NoTensors => (4, "the output holds no tensor: it is not cached".into()),
            Reason::ChangingShape => (
                5,
                "the shape or kind of an output row changes with the batch that it is computed in, or a plain value, key or variant in the output does: batches that mix such rows bypass the cache; pad to a fixed length to cache them".into(),
            ),
            Reason::ForeignRows => (
                6,
                "the cache holds rows that this version cannot read: they are computed again".into(),
            ),
            Reason::Libtorch(error) => (
                7,
                format!("libtorch could not copy what the cache needs, so the call bypassed it: {}", first_line(error)),
            ),
            Reason::MemoryTier(error) => (
                8,
                format!("rows could not be kept in or copied from memory, and are misses: {error}"),
            ),
            Reason::DiskTier(error) => (
                9,
                format!("the disk tier could not be opened, so rows are kept in memory only for now: {error}"),
            ),
            Reason::Mismatch { mismatched, verified, example } => (
                10,
                format!("{mismatched} of {verified} recomputed rows differ from the cached ones: {example}. Either the module is in train mode, has dropout, keeps state between calls, or computes a row from the rest of its batch, or code outside the module changed (then bump `version`)"),
            ),
            Reason::TrainMode => (
                15,
                "a TorchScript module is in train mode, in which a row may depend on chance and on the rest of its batch: call `set_eval()` before it is cached".into(),
            ),
            Reason::UnknownCode(types) => (
                16,
                format!("the code of {types} is unknown, since `Fingerprint` is derived: every build computes the rows on disk again; replace the derive by `#[torchcache(enabled = false)]`, and put `#[torchcache]` on the impl, or put `#[fingerprint(version = \"1\")]` next to the derive"),
            ),
            Reason::TemporaryDirectory => (
                20,
                "`persistent` is set without a directory: rows are on disk until the process ends, and are then removed; name a directory with `persistent_cache_dir` or TORCHCACHE_DIR to keep them".into(),
            ),
            Reason::WithoutEffect(names, needed) => {
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                let have = if names.len() == 1 { "has" } else { "have" };
                let effect = match *needed {
                    "persistent = true" => "no row is kept on disk",
                    _ => "rows on disk are not compressed",
                };
                (
                    21,
                    format!("{} {have} no effect without `{needed}`: {effect}", names.join(" and ")),
                )
            }
            Reason::OneDimension(argument, elements) => (
                22,
                format!("argument `{argument}` has one dimension, so each of its {elements} elements is a row: if it is one sample, add the dimension of the batch with `unsqueeze(0)`"),
            ),
            Reason::Unrepresentable { value, kind } => (
                23,
                format!("the output holds {value:e}, which `cache_dtype = Kind::{kind:?}` cannot hold: such calls bypass the cache; use a kind with a larger range, one that has infinities and NaN if the output does, or leave `cache_dtype` out"),
            ),
            Reason::ChangingHash { times, change, in_forward } => {
                let advice = match in_forward {
                    true => WHILE_FORWARD_RAN,
                    false => "Each module hash has its own rows, and on disk a directory of its own: mark a field that the output does not depend on with `#[torchcache(skip)]`",
                };
                (
                    24,
                    format!("the module hash changed {times} times in a row and no row was found again: {change}. {advice}"),
                )
            }
            // The hint about the hash says more, if that changes from call to call.
            Reason::ModuleChanged(calls) if *calls <= 2 * MAX_CHANGES => return None,
            Reason::ModuleChanged(calls) => (
                24,
                format!("no row of the last {calls} calls is kept. {WHILE_FORWARD_RAN}"),
            ),
            Reason::ArgumentWritten(argument) => (
                26,
                format!("argument `{argument}` was written in place during the forward, and a hit would leave it as it is: such calls bypass the cache; write to a copy, as `relu()` does and `relu_()` does not"),
            ),
            Reason::ArgumentChanged(argument) => (
                29,
                format!("argument `{argument}` changed while the forward ran, and the rows of such a call are not kept, since a hit would not repeat the change"),
            ),
            Reason::ProcessMemory(bound) => (
                25,
                format!("the memory tiers of this process have reached their common bound of {}, so this one keeps fewer rows than `max_memory_cache_size` allows: set TORCHCACHE_MAX_MEMORY to change the bound, or lower `max_memory_cache_size` of other caches", human(*bound)),
            ),
            Reason::Waited(timeout) => (
                27,
                format!("a call waited {timeout:?} for rows that another thread was computing, and then computed them itself: if the forward takes longer, raise `single_flight_timeout`; if it waits for threads that call this cache, set that to 0.0"),
            ),
            Reason::ShapeFollowsInput => (
                28,
                "the shape of an output row follows that of the input, which `#[padded]` and `#[id(any_shape)]` leave out of the key: such calls bypass the cache; return rows of one shape, such as the mean over the places, or remove the mark and pad to one length".into(),
            ),
            Reason::Locked => (
                11,
                "a lock in the module is held, such as that of its `VarStore` or the borrow of a `RefCell`: calls that cannot take it within 100 ms bypass the cache; release it before the call".into(),
            ),
            Reason::CutBatch { failure, rows, of, lengths } => {
                let cut = lengths.map(|(length, of)| format!(", cut to {length} of {of} places"));
                let cut = cut.unwrap_or_default();
                (
                    12,
                    format!("the forward {failure} on {rows} of the {of} rows of a batch{cut}, and not on the whole batch, which ran instead: it seems to need whole batches; set `whole_batch = true`, and it gets no others"),
                )
            }
            Reason::OneRow => (
                13,
                "the output for a batch of one row has no dimension for it, as after `squeeze()`: such calls bypass the cache; name the dimension to drop, as in `squeeze_dim(-1)`, to cache them".into(),
            ),
            Reason::BatchNotFirst(rows) => (
                30,
                format!("the first dimension of an output tensor is not the batch, although both have {rows} elements, or its rows have another shape in a larger batch: such calls bypass the cache; return tensors with the batch first, as after `transpose(0, 1)`"),
            ),
            Reason::Unreadable(holder) => (
                14,
                format!("{holder} a tensor that cannot be hashed, since it is nested, without memory, or of a kind that tch does not know: such calls bypass the cache"),
            ),
        })
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.message()) {
            (_, Some((_, message))) => f.write_str(&message),
            (Reason::Training, None) => f.write_str("the module is being trained"),
            (Reason::NoRows, None) => f.write_str("the batch is empty"),
            (_, None) => f.write_str("the module changes in every call"),
        }
    }
}

/// The first line of a libtorch error; the others say where in its own code it came from.
pub(crate) fn first_line(error: &TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The warnings that a handle has logged, one bit each.
#[derive(Debug)]
pub(crate) struct Warnings(AtomicU64);

impl Warnings {
    pub(crate) const fn new() -> Self {
        Warnings(AtomicU64::new(0))
    }

    /// Logs `reason` for a module the first time that it occurs.
    pub(crate) fn warn_once(&self, module: impl FnOnce() -> String, reason: &Reason) {
        let Some((bit, message)) = reason.message() else {
            return;
        };
        if self.0.fetch_or(1 << bit, Relaxed) & (1 << bit) == 0 {
            tracing::warn!(module = module(), "{message} (logged once)");
        }
    }
}
