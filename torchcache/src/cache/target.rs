//! [`Target`]: what is cached. The call path handles modules, functions and wrapped modules alike.

use tch::{Tensor, nn};

use super::claims::claim;
use super::handle::TorchCache;
use super::overrides::Overrides;
use crate::definition::Definition;
use crate::error::Detail;
use crate::function::Function;
use crate::identity::{Fingerprinter, nested_options, type_of};
use crate::options::OptionsBuilder;

/// What is cached: a module, a function or a wrapped module.
pub(crate) trait Target {
    /// The path and name, for the module hash, messages and the manifest.
    fn name(&self) -> String;
    /// What the rows of a `persistent_module_hash` are kept apart by.
    fn row_name(&self) -> String;
    /// The number of the type, where the handle could be moved to a module of another type. `None`
    /// where it cannot, and has no fields to watch either.
    fn watched_type(&self) -> Option<u64>;
    /// The options before overrides.
    fn options(&self) -> OptionsBuilder;
    /// Passes the override fields of this instance to `overrides`.
    fn overrides(&self, _: &mut Overrides<'_>) {}
    /// Passes everything that the output depends on to `f`.
    fn fingerprint(&self, f: &mut Fingerprinter<'_>);
    fn handle(&self) -> &TorchCache;
    /// Claims a module hash for a function, whose code does not show everything that its output depends on.
    /// `code`: what tells its rows under the hash from those of others.
    fn claim(&self, hash: &str, function: &Function, code: &[u8]) -> Result<(), Detail>;
}

/// Implemented by `#[torchcache]` on a struct.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the struct `{Self}` is not annotated with `#[torchcache]`",
    label = "its impl is",
    note = "put `#[torchcache]` on the struct as well: its options, its cache field and what its identity consists of are found there"
)]
pub trait CachedStruct {
    /// The struct.
    const DEFINITION: Definition;
    /// The options of the attribute.
    fn options() -> OptionsBuilder;
    /// The cache field.
    fn cache(&self) -> &TorchCache;
    /// Passes the `torchcache_*` fields to `overrides`.
    fn overrides(&self, overrides: &mut Overrides<'_>);
    /// Passes the fields in the identity to `f`.
    fn fields(&self, f: &mut Fingerprinter<'_>);

    /// Passes the type, then the fields, to `f`. The type is watched as well: a handle may be moved to another
    /// module.
    fn identity(&self, f: &mut Fingerprinter<'_>) {
        type_of(&Self::DEFINITION, f);
        self.fields(f);
    }

    /// The `Fingerprint` of the module as a field of another one. The outer module's rows came
    /// through this module's cache, so everything that its rows depend on is in the outer identity: the
    /// type, the options, the fields, and the code of the impl with `forward`. The code of methods in other
    /// impls is in the keys of the outer rows whose forward calls them. Where no annotated impl has `forward`,
    /// there are no `functions`, and if the struct is a module the code of its forward is unknown.
    #[track_caller]
    fn nested(
        &self,
        functions: Option<&'static [&'static Function]>,
        is_module: bool,
        f: &mut Fingerprinter<'_>,
    ) {
        f.inner_handle(self.cache().changes());
        let mut options = Self::options();
        self.overrides(&mut Overrides::apply(&mut options));
        nested_options(&Self::DEFINITION.full_name(), options.unchecked(), f);
        self.identity(f);
        match functions {
            Some(functions) => f.functions(|| Self::DEFINITION.full_name(), functions),
            None if is_module => f.unknown_code::<Self>(),
            None => {}
        }
    }
}

/// What an annotated impl with type parameters requires of its struct. The compiler prints the name
/// where a type argument is the reason that a method is missing, and the struct is annotated.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a field of `{Self}` cannot be part of its identity",
    label = "the type of a field does not implement `torchcache::Fingerprint`",
    note = "a layer with private weights as the type argument, such as `nn::Sequential`, `nn::FuncT`, LSTM and GRU: wrap it with its `VarStore` in `torchcache::Cached`",
    note = "a module or plain data of yours: `#[torchcache(enabled = false)]` on its struct and `#[torchcache]` on its impl, or `#[derive(torchcache::Fingerprint)]`",
    note = "only where it does not change what `forward` computes: `#[torchcache(skip)]` on the field"
)]
pub trait EveryFieldImplementsFingerprint: CachedStruct {}

impl<T: CachedStruct> EveryFieldImplementsFingerprint for T {}

/// Implemented for each cached method. `NAME`: a hash of its name, of its trait as well where that counts.
/// It requires that the struct is annotated.
#[doc(hidden)]
pub trait CachedMethod<const NAME: u64>: CachedStruct {
    /// The method.
    const FUNCTION: &'static Function;
}

/// Implemented by `#[torchcache]` on the impl that holds `forward` or `forward_t`, of which a struct has one.
/// Generated code knows it by the name that says what is wrong where there are two.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`forward` of `{Self}` is not cached",
    label = "no impl with `forward` or `forward_t` is annotated with `#[torchcache]`",
    note = "a generic struct can be part of another cached module where its `forward` is cached: put `#[torchcache]` on the impl that holds it"
)]
pub trait CachedForward {
    /// The cached methods of the impl.
    const FUNCTIONS: &'static [&'static Function];

    /// The output for a batch, outside training. Generated code calls `nn::Module::forward` where that
    /// is what is cached: tch's `forward_t` for an `nn::Module` would hide the caller from a panic.
    #[track_caller]
    fn forward_batch(&self, xs: &Tensor) -> Tensor
    where
        Self: nn::ModuleT + Sized,
    {
        self.forward_t(xs, false)
    }
}

/// A free function with the attribute, in a static next to it.
#[doc(hidden)]
#[derive(Debug)]
pub struct CachedFunction {
    definition: Definition,
    pub(crate) function: Function,
    /// The options of the attribute.
    options: fn() -> OptionsBuilder,
    pub(crate) cache: TorchCache,
}

impl CachedFunction {
    /// The function, with an inert handle.
    pub const fn new(
        definition: Definition,
        function: Function,
        options: fn() -> OptionsBuilder,
    ) -> Self {
        CachedFunction {
            definition,
            function,
            options,
            cache: TorchCache::new(),
        }
    }
}

/// A module with the attribute.
pub(crate) struct ModuleTarget<'a, T>(pub(crate) &'a T);

impl<T: CachedStruct> Target for ModuleTarget<'_, T> {
    fn name(&self) -> String {
        // Instances of a generic struct may compute different outputs for each type argument.
        format!("{}{}", T::DEFINITION.name, T::DEFINITION.arguments())
    }

    fn row_name(&self) -> String {
        T::DEFINITION.full_name()
    }

    fn watched_type(&self) -> Option<u64> {
        Some(T::DEFINITION.type_number())
    }

    fn options(&self) -> OptionsBuilder {
        T::options()
    }

    fn overrides(&self, overrides: &mut Overrides<'_>) {
        self.0.overrides(overrides);
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.0.identity(f);
    }

    fn handle(&self) -> &TorchCache {
        self.0.cache()
    }

    fn claim(&self, hash: &str, function: &Function, code: &[u8]) -> Result<(), Detail> {
        claim(hash, T::DEFINITION, function, code)
    }
}

impl Target for &'static CachedFunction {
    fn name(&self) -> String {
        self.definition.name.to_owned()
    }

    fn row_name(&self) -> String {
        self.definition.full_name()
    }

    fn watched_type(&self) -> Option<u64> {
        None
    }

    fn options(&self) -> OptionsBuilder {
        (self.options)()
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        type_of(&self.definition, f);
    }

    fn handle(&self) -> &TorchCache {
        &self.cache
    }

    fn claim(&self, hash: &str, function: &Function, code: &[u8]) -> Result<(), Detail> {
        claim(hash, self.definition, function, code)
    }
}
