//! The items that generated code names. Not part of the public interface.

pub use core::default::Default;
pub use core::iter::Iterator;
pub use core::option::Option;
pub use core::{cfg, column, concat, file, include_bytes, line, module_path, option_env};
pub use std::string::String;
pub use std::vec::Vec;

pub use tch::Tensor;
pub use tch::nn::ModuleT;

pub use crate::argument::{Arguments, SelectedRows};
pub use crate::cache::overrides::Overrides;
pub use crate::cache::target::{CachedForward, CachedFunction, CachedStruct};
pub use crate::definition::{Definition, Place};
pub use crate::function::{BuildInput, BuildValue, Function};
pub use crate::identity::{ModuleProbe, hashed_modules, type_of, unknown_code};
pub use crate::output::{Returned, Unreturnable, nested};
pub use crate::{
    Batched, Eviction, Fingerprint, Fingerprinter, Options, OptionsBuilder, Output, TorchCache,
};

use crate::cache::attach::Refused;
use crate::cache::target::{ModuleTarget, Target};
use crate::cache::warnings::Reason;
use crate::call::{self, bypass};

/// A size option given as text, in bytes. Generated code evaluates it in a constant.
///
/// # Panics
///
/// While the constant is evaluated, so that the error is shown at the option.
#[track_caller]
pub const fn size(text: &str, least: u64) -> u64 {
    match torchcache_store::size::parse(text) {
        Ok(bytes) if bytes >= least => bytes,
        Ok(_) => panic!("expected a size above 0 B"),
        Err(error) => panic!("{}", error.message()),
    }
}

/// A call of a cached method; `training` where an argument says so.
#[track_caller]
pub fn call_method<T: CachedForward, O: Output>(
    module: &T,
    function: usize,
    training: bool,
    arguments: Arguments,
    body: impl Fn(&SelectedRows) -> O,
) -> O {
    let (target, function) = (ModuleTarget(module), &T::FUNCTIONS[function]);
    run(&target, function, training, &arguments, &body)
}

/// A call of a cached function; `training` where an argument says so.
#[track_caller]
pub fn call_function<O: Output>(
    function: &'static CachedFunction,
    training: bool,
    arguments: Arguments,
    body: impl Fn(&SelectedRows) -> O,
) -> O {
    run(&function, &function.function, training, &arguments, &body)
}

#[track_caller]
fn run<O: Output>(
    target: &dyn Target,
    function: &'static Function,
    training: bool,
    arguments: &Arguments,
    body: &dyn Fn(&SelectedRows) -> O,
) -> O {
    if training {
        return bypass::bypass(target, &Reason::Training, arguments, body);
    }
    call::run(target, function, arguments, body)
}

/// The handle of a cached function. Attached at once where that succeeds: a function has no fields.
pub fn handle(function: &'static CachedFunction) -> &'static TorchCache {
    let cache = &function.cache;
    if let Err(Refused::Misuse(error)) = cache.attach(&function) {
        tracing::debug!(module = function.name(), %error, "not attached before the first call");
    }
    cache
}
