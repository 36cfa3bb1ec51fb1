//! The items that generated code names, and one for tests and benchmarks. Not part of the public interface.

use std::marker::PhantomData;
use std::ops::Deref;

pub use core::clone::Clone;
pub use core::default::Default;
pub use core::iter::Iterator;
pub use core::option::Option;
pub use core::primitive::{u32, u64};
pub use core::{cfg, column, concat, file, include_bytes, line, module_path, option_env};
pub use std::string::String;
pub use std::vec::Vec;

pub use tch::Tensor;
pub use tch::nn::ModuleT;
pub use torchcache_macros::CachedStruct;

pub use crate::argument::{
    ArgumentProbe, Arguments, PlainDigests, RowTensors, SelectedRows, SkipProbe,
};
pub use crate::cache::overrides::Overrides;
pub use crate::cache::target::{
    CachedForward as OneImplWithForwardPerStruct, CachedFunction, CachedMethod, CachedStruct,
    EveryFieldImplementsFingerprint,
};
pub use crate::definition::{Definition, Place};
pub use crate::device::wait_for_kernels;
pub use crate::function::{BuildInput, BuildValue, Function, FunctionOptions, Implementation};
pub use crate::identity::{ModuleProbe, NoModule, hashed_modules, type_of, unknown_code};
pub use crate::output::{ConstantField, nested};
pub use crate::{
    Argument, Batched, Eviction, Fingerprint, Fingerprinter, Options, OptionsBuilder, Output,
    PlainArgument, RemoteMode, TorchCache,
};

use crate::cache::attach::Refused;
use crate::cache::target::{CachedForward, ModuleTarget, Target};
use crate::call;

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

/// Whether one of `flags` is set.
pub fn any(flags: &[bool]) -> bool {
    flags.contains(&true)
}

/// The number of `elements`, some of which may be there under conditions.
pub const fn length(elements: &[()]) -> usize {
    elements.len()
}

/// An argument with the name of a training flag, whose type may be another name of `bool`, or a reference
/// to one: its method is that of [`NoFlag`] otherwise.
#[derive(Debug)]
pub struct FlagProbe<'a, T: ?Sized>(NoFlag, &'a T);

/// See [`FlagProbe`].
#[derive(Debug)]
pub struct NoFlag;

impl<'a, T: ?Sized> FlagProbe<'a, T> {
    pub fn new(value: &'a T) -> Self {
        FlagProbe(NoFlag, value)
    }
}

impl FlagProbe<'_, bool> {
    pub fn is_true(&self) -> bool {
        *self.1
    }
}

impl FlagProbe<'_, &bool> {
    pub fn is_true(&self) -> bool {
        **self.1
    }
}

impl<T: ?Sized> Deref for FlagProbe<'_, T> {
    type Target = NoFlag;

    fn deref(&self) -> &NoFlag {
        &self.0
    }
}

impl NoFlag {
    pub fn is_true(&self) -> bool {
        false
    }
}

/// Whether a field is the cache, where its type may be another name of [`TorchCache`]: its methods and
/// its constant are those of [`OtherField`] otherwise.
#[derive(Debug)]
pub struct FieldProbe<T>(pub T);

impl<'a> FieldProbe<&'a TorchCache> {
    pub const IS_CACHE: bool = true;

    pub fn cache(self) -> Option<&'a TorchCache> {
        Some(self.0)
    }

    /// The cache is not part of the identity.
    pub fn field(self, _: &str, _: &mut Fingerprinter<'_>) {}
}

/// See [`FieldProbe`].
pub trait OtherField<'a, T>: Sized {
    const IS_CACHE: bool = false;

    fn cache(self) -> Option<&'a TorchCache> {
        None
    }

    fn field(self, name: &str, f: &mut Fingerprinter<'_>)
    where
        T: Fingerprint;
}

impl<'a, T> OtherField<'a, T> for FieldProbe<&'a T> {
    fn field(self, name: &str, f: &mut Fingerprinter<'_>)
    where
        T: Fingerprint,
    {
        f.field(name, self.0);
    }
}

/// The field that is the cache. [`one_cache`] has checked that there is one.
pub fn found<const N: usize>(fields: [Option<&TorchCache>; N]) -> &TorchCache {
    let cache = fields.into_iter().flatten().next();
    cache.expect("a constant checks it")
}

/// Checks the number of fields that are caches. Generated code evaluates it in a constant.
///
/// # Panics
///
/// While the constant is evaluated, so that the error is shown at the struct.
#[track_caller]
pub const fn one_cache(are_caches: &[bool], none: &str) {
    let (mut found, mut at) = (0, 0);
    while at < are_caches.len() {
        found += are_caches[at] as usize;
        at += 1;
    }
    match found {
        0 => panic!("{}", none),
        1 => {}
        _ => panic!("a struct has one cache; remove the other fields of type `TorchCache`"),
    }
}

/// Implemented next to an annotated impl of the struct `T`, for a type that is in use wherever the impl is.
pub trait Paired<T> {
    /// The function that the struct's expansion has for its impl.
    const PAIRED: fn();
}

/// Stands in for the function of a generic struct where the struct is not generic.
pub trait Unpaired {
    fn torchcache_is_needed_on_both_the_struct_and_its_impl() {}
}

impl<T> Unpaired for T {}

/// Stands in for the function of a generic struct where the struct is not annotated, and says so.
pub trait Unannotated {
    fn torchcache_is_needed_on_both_the_struct_and_its_impl()
    where
        Self: CachedStruct,
    {
    }
}

impl<T> Unannotated for T {}

/// The cached method `NAME` of `T`.
pub const fn method<T: CachedMethod<NAME>, const NAME: u64>() -> &'static Function {
    T::FUNCTION
}

/// The cached methods of the impl of `T` with `forward`: none where the constant is that of [`NoForward`].
#[derive(Debug)]
pub struct ForwardProbe<T>(PhantomData<T>);

impl<T: CachedForward> ForwardProbe<T> {
    pub const FUNCTIONS: Option<&'static [&'static Function]> = Some(T::FUNCTIONS);
}

/// See [`ForwardProbe`].
pub trait NoForward {
    const FUNCTIONS: Option<&'static [&'static Function]> = None;
}

impl<T> NoForward for ForwardProbe<T> {}

/// The cached method `NAME` of `T`: none where the function is that of [`NoMethod`].
#[derive(Debug)]
pub struct MethodProbe<T, const NAME: u64>(PhantomData<T>);

impl<const NAME: u64, T: CachedMethod<NAME>> MethodProbe<T, NAME> {
    pub fn function() -> Option<&'static Function> {
        Some(T::FUNCTION)
    }
}

/// See [`MethodProbe`].
pub trait NoMethod {
    fn function() -> Option<&'static Function> {
        None
    }
}

impl<T, const NAME: u64> NoMethod for MethodProbe<T, NAME> {}

/// A call of the cached method `NAME` with the arguments that `describe` reads; `training` where one says so.
#[track_caller]
pub fn call_method<'a, T: CachedMethod<NAME>, O: Output, const NAME: u64>(
    module: &'a T,
    training: bool,
    describe: impl Fn(Option<&'a PlainDigests>) -> Arguments<'a>,
    body: impl Fn(&SelectedRows) -> O,
) -> O {
    let describe = |reads: bool| describe(reads.then(|| &module.cache().plain));
    call::run(
        &ModuleTarget(module),
        T::FUNCTION,
        training,
        &describe,
        &body,
    )
}

/// A call of a cached function with the arguments that `describe` reads; `training` where one says so.
#[track_caller]
pub fn call_function<'a, O: Output>(
    function: &'static CachedFunction,
    training: bool,
    describe: impl Fn(Option<&'a PlainDigests>) -> Arguments<'a>,
    body: impl Fn(&SelectedRows) -> O,
) -> O {
    let describe = |reads: bool| describe(reads.then_some(&function.cache.plain));
    call::run(&function, &function.function, training, &describe, &body)
}

/// The handle of a cached function. Attached at once where that succeeds: a function has no fields.
pub fn handle(function: &'static CachedFunction) -> &'static TorchCache {
    let cache = &function.cache;
    if let Err(Refused::Misuse(error)) = cache.attach(&function) {
        tracing::debug!(module = function.name(), %error, "not attached before the first call");
    }
    cache
}
