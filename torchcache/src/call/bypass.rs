//! Calls that bypass the cache: when, and how.

use crate::argument::{Arguments, SelectedRows, TensorArgument};
use crate::cache::stats::Counters;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::function::Function;
use crate::output::Output;
use crate::tensor::layout;

/// Whether the cache can serve a call with these arguments, a batch of `rows`.
///
/// # Errors
///
/// Why it cannot.
pub(crate) fn check(function: &Function, arguments: &Arguments, rows: i64) -> Result<(), Reason> {
    let name = |argument: &TensorArgument| function.argument(argument.position);
    if arguments.plain_locked {
        return Err(Reason::Locked);
    }
    if let Some(position) = arguments.plain_gradient {
        return Err(Reason::Gradient(function.argument(position)));
    }
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
        if !layout::is_strided(&argument.tensor) {
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

/// Runs the body on the whole batch.
#[track_caller]
pub(crate) fn bypass<O: Output>(
    target: &dyn Target,
    reason: &Reason,
    arguments: &Arguments,
    body: &dyn Fn(&SelectedRows) -> O,
) -> O {
    count(target, reason);
    body(&SelectedRows::all(arguments))
}

/// Counts a call that bypasses the cache.
pub(crate) fn count(target: &dyn Target, reason: &Reason) {
    let handle = target.handle();
    if matches!(reason, Reason::Training) {
        // The training step may change the module without a trace.
        handle.changes().report();
    }
    Counters::add(&handle.counters.bypassed, 1);
    handle.warnings.warn_once(|| target.name(), reason);
}
