//! Calls that go past the cache, and what is said of them: each thing once per handle.

use std::sync::OnceLock;

use tch::TchError;

use crate::argument::{Arguments, Rows, TensorArgument};
use crate::cache::stats::Counters;
use crate::cache::target::Subject;
use crate::function::Function;
use crate::output::Output;
use crate::tensor::layout;

/// Why the body runs on a whole batch, or what is worth a warning.
#[derive(Debug)]
pub(crate) enum Reason {
    /// A batch without rows has nothing to look up.
    NoRows,
    /// The module is being trained.
    Training,
    /// The named argument requires grad.
    Gradient(String),
    /// The named argument cannot be cut into rows.
    ArgumentLayout(String),
    /// The named argument is undefined, or of a kind without a name in tch; what tch says of it.
    ArgumentKind(String, TchError),
    /// The output cannot be cut into rows.
    OutputLayout,
    /// There is nothing in it.
    NoTensors,
    /// Rows of one batch have different shapes or kinds.
    ChangingShape,
    /// The cache holds rows that this version cannot read.
    ForeignRows,
    /// libtorch could not copy or read what the cache needs.
    Unreadable(TchError),
    /// The memory tier could not hold or copy rows.
    MemoryTier(String),
    /// The disk tier could not be opened.
    DiskTier(String),
    /// Rows that were computed anew differ from what the cache gave: so many, of how many, and how.
    Mismatch(usize, usize, String),
}

impl Reason {
    /// The bit under which it was said, and the words; `None` for what is no news.
    fn words(&self) -> Option<(u32, String)> {
        Some(match self {
            Reason::NoRows | Reason::Training => return None,
            Reason::Gradient(argument) => (
                0,
                format!("argument `{argument}` requires grad, and a cached output has none: such calls go past the cache; detach the input to cache them"),
            ),
            Reason::ArgumentLayout(argument) => (
                1,
                format!("argument `{argument}` is sparse or quantized and cannot be cut into rows: such calls go past the cache"),
            ),
            Reason::ArgumentKind(argument, error) => (
                7,
                format!("argument `{argument}` is undefined or of a kind that tch does not know ({}): such calls go past the cache", brief(error)),
            ),
            Reason::OutputLayout => (
                2,
                "the output is sparse, quantized, of an unknown kind or has too many parts to be cut into rows: it is not cached".into(),
            ),
            Reason::NoTensors => (10, "the output holds no tensor: it is not cached".into()),
            Reason::ChangingShape => (
                3,
                "the shape or kind of an output row changes with the batch it is computed in: batches that mix such rows go past the cache; pad to a fixed length to cache them".into(),
            ),
            Reason::ForeignRows => (
                4,
                "the cache holds rows that this version cannot read: they are computed again".into(),
            ),
            Reason::Unreadable(error) => (
                5,
                format!("libtorch could not copy what the cache needs, so the call went past it: {}", brief(error)),
            ),
            Reason::DiskTier(error) => (
                8,
                format!("the disk tier could not be opened, so rows are kept in memory only for now: {error}"),
            ),
            Reason::MemoryTier(error) => {
                (6, format!("rows could not be kept in or copied from memory, and are misses: {error}"))
            }
            Reason::Mismatch(rows, of, how) => (
                9,
                format!("{rows} of {of} rows that were computed anew do not agree with what the cache gave: {how}. Likely the module is in train mode, it has dropout, its rows depend on the rest of their batch, or code outside of the module has changed (then bump `version`)"),
            ),
        })
    }
}

/// What libtorch says of an error, without where in its own code that was.
pub(crate) fn brief(error: &TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether a call with these arguments can be served by a cache.
///
/// # Errors
///
/// Why not.
pub(crate) fn check(function: &Function, arguments: &Arguments, rows: i64) -> Result<(), Reason> {
    let name = |argument: &TensorArgument| function.argument(argument.position);
    for argument in &arguments.shared {
        if let Err(error) = argument.tensor.f_kind() {
            return Err(Reason::ArgumentKind(name(argument), error));
        }
        if layout::records_gradients(&argument.tensor) {
            return Err(Reason::Gradient(name(argument)));
        }
    }
    for argument in &arguments.tensors {
        let name = || arguments.name(function, argument);
        if let Err(error) = argument.tensor.f_kind() {
            return Err(Reason::ArgumentKind(name(), error));
        }
        if !layout::is_plain(&argument.tensor) {
            return Err(Reason::ArgumentLayout(name()));
        }
        if layout::records_gradients(&argument.tensor) {
            return Err(Reason::Gradient(name()));
        }
    }
    if rows == 0 {
        Err(Reason::NoRows)
    } else {
        Ok(())
    }
}

/// Runs the body on the whole call.
pub(crate) fn past_the_cache<O: Output>(
    subject: &dyn Subject,
    reason: Reason,
    arguments: &Arguments,
    body: &dyn Fn(&Rows) -> O,
) -> O {
    count(subject, &reason);
    body(&Rows::all(arguments))
}

/// Counts a call that goes past the cache.
pub(crate) fn count(subject: &dyn Subject, reason: &Reason) {
    Counters::add(&subject.handle().counters.bypassed, 1);
    tell_once(subject, reason);
}

/// Warns, the first time that this handle has this reason.
pub(crate) fn tell_once(subject: &dyn Subject, reason: &Reason) {
    if let Some((bit, words)) = reason.words()
        && subject.handle().counters.first(bit)
    {
        tracing::warn!(module = subject.name(), "{words} (said once)");
    }
}

/// Whether `TORCHCACHE_DISABLE` switches every cache of the process off: set to anything but
/// nothing, `0` or `false`.
pub(crate) fn switched_off() -> bool {
    static OFF: OnceLock<bool> = OnceLock::new();
    if let Some(off) = OFF.get() {
        return *off;
    }
    let off = std::env::var_os("TORCHCACHE_DISABLE")
        .is_some_and(|value| !["", "0", "false"].iter().any(|off| value == *off));
    // Whoever listens to the log may call a cached function.
    if OFF.set(off).is_ok() && off {
        tracing::info!("TORCHCACHE_DISABLE is set: every cache is switched off");
    }
    off
}
