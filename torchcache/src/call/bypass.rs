//! Calls that bypass the cache: when, and how.

use crate::argument::{Arguments, SelectedRows, TensorArgument};
use crate::cache::stats::Counters;
use crate::cache::target::Target;
use crate::cache::warnings::Reason;
use crate::function::Function;
use crate::output::Output;
use crate::tensor::layout;

/// Whether libtorch knows the shape of each argument, and the cache can cut or hash it.
///
/// # Errors
///
/// The first argument of which that is not so.
pub(crate) fn check_layouts(function: &Function, arguments: &Arguments) -> Result<(), Reason> {
    for argument in &arguments.shared {
        let name = || function.argument(argument.position);
        check_kind(argument, name)?;
        if !layout::has_digest(&argument.tensor) {
            return Err(Reason::Unreadable(format!("argument `{}` is", name())));
        }
    }
    for argument in &arguments.tensors {
        let name = || arguments.name(function, argument);
        check_kind(argument, name)?;
        if !layout::is_strided(&argument.tensor) {
            let layout = layout::describe(&argument.tensor);
            return Err(Reason::ArgumentLayout(name(), layout));
        }
    }
    match arguments.plain.unreadable {
        Some(position) => {
            let name = function.argument(position);
            Err(Reason::Unreadable(format!("argument `{name}` holds")))
        }
        None => Ok(()),
    }
}

fn check_kind(argument: &TensorArgument, name: impl Fn() -> String) -> Result<(), Reason> {
    match argument.tensor.f_kind() {
        Ok(_) => Ok(()),
        Err(error) => Err(Reason::ArgumentKind(name(), error)),
    }
}

/// Whether the cache can serve a call with these arguments, a batch of `rows`.
///
/// # Errors
///
/// Why it cannot.
pub(crate) fn check(function: &Function, arguments: &Arguments, rows: i64) -> Result<(), Reason> {
    if arguments.plain.is_locked {
        return Err(Reason::Locked);
    }
    if let Some(position) = arguments.plain.gradient {
        return Err(Reason::Gradient(function.argument(position)));
    }
    let requires_grad = |argument: &&TensorArgument| layout::records_gradients(&argument.tensor);
    if let Some(argument) = arguments.shared.iter().find(requires_grad) {
        return Err(Reason::Gradient(function.argument(argument.position)));
    }
    if let Some(argument) = arguments.tensors.iter().find(requires_grad) {
        return Err(Reason::Gradient(arguments.name(function, argument)));
    }
    match rows {
        0 => Err(Reason::NoRows),
        _ => Ok(()),
    }
}

/// A batch of single elements is more often one sample without the dimension of the batch. Where ids name
/// the rows, they are meant.
pub(crate) fn hint_one_dimension(
    target: &dyn Target,
    function: &Function,
    arguments: &Arguments,
    rows: i64,
) {
    let has_one = |argument: &TensorArgument| argument.tensor.dim() == 1;
    if let Some(first) = arguments.tensors.first()
        && rows > 1
        && arguments.ids.is_none()
        && arguments.tensors.iter().all(has_one)
    {
        let reason = Reason::OneDimension(arguments.name(function, first), rows);
        let warnings = &target.handle().warnings;
        warnings.warn_once(|| target.name(), &reason);
    }
}

/// Runs the body on the whole batch.
#[track_caller]
pub(crate) fn bypass<O: Output>(
    target: &dyn Target,
    counters: &Counters,
    reason: &Reason,
    arguments: &Arguments,
    body: &dyn Fn(&SelectedRows) -> O,
) -> O {
    count(target, counters, reason);
    body(&SelectedRows::all(arguments))
}

/// Counts a call that bypasses the cache.
pub(crate) fn count(target: &dyn Target, counters: &Counters, reason: &Reason) {
    let handle = target.handle();
    if matches!(reason, Reason::Training) {
        // The training step may change the module, and those among its arguments, without a trace.
        handle.changes().report();
        handle.plain.discard();
    }
    Counters::add(&counters.bypassed, 1);
    handle.warnings.warn_once(|| target.name(), reason);
}
