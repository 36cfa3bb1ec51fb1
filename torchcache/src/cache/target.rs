//! [`Target`]: what is cached. The call path handles modules, functions and wrapped modules alike.

use std::any::type_name;
use std::marker::PhantomData;

use tch::{Tensor, nn};

use super::handle::TorchCache;
use super::overrides::Overrides;
use crate::error::Detail;
use crate::function::Function;
use crate::identity::{Fingerprinter, nested_options, type_of};
use crate::options::OptionsBuilder;

/// What is cached: a module, a function or a wrapped module.
pub(crate) trait Target {
    /// The path and name, for the module hash, messages and the manifest.
    fn name(&self) -> String;
    /// The full type name, where the handle could be moved to a module of another type. `None`
    /// where it cannot, and has no fields to watch either.
    fn watched_type(&self) -> Option<&'static str>;
    /// The options before overrides.
    fn options(&self) -> OptionsBuilder;
    /// Passes the override fields of this instance to `overrides`.
    fn overrides(&self, _: &mut Overrides<'_>) {}
    /// Passes everything that the output depends on to `f`.
    fn fingerprint(&self, f: &mut Fingerprinter<'_>);
    fn handle(&self) -> &TorchCache;
    /// The cached functions.
    fn functions(&self) -> &'static [Function];
    /// Claims a module hash, where it does not contain everything that the output depends on.
    fn claim(&self, _hash: &str) -> Result<(), Detail> {
        Ok(())
    }
}

/// Implemented by `#[torchcache]` on a struct.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the struct `{Self}` is not annotated with `#[torchcache]`",
    label = "its forward is",
    note = "put `#[torchcache]` on the struct as well: its options, its cache field and what its identity consists of are found there"
)]
pub trait CachedStruct {
    /// The module path and name.
    const NAME: &'static str;
    /// The options of the attribute.
    fn options() -> OptionsBuilder;
    /// The cache field.
    fn cache(&self) -> &TorchCache;
    /// Passes the `torchcache_*` fields to `overrides`.
    fn overrides(&self, overrides: &mut Overrides<'_>);
    /// Passes the fields in the identity to `f`.
    fn fields(&self, f: &mut Fingerprinter<'_>);
}

/// Implemented by `#[torchcache]` on the impl that holds `forward`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "no impl of `{Self}` is annotated with `#[torchcache]`",
    label = "this struct is, but nothing is cached without the impl",
    note = "put `#[torchcache]` on the impl that holds `forward`: `#[torchcache] impl nn::Module for …`"
)]
pub trait CachedForward: CachedStruct {
    /// The cached functions of the impl.
    const FUNCTIONS: &'static [Function];

    /// The output for a batch, outside training. Generated code calls `nn::Module::forward` where that
    /// is what is cached: tch's `forward_t` for an `nn::Module` would hide the caller from a panic.
    #[track_caller]
    fn forward_batch(&self, xs: &Tensor) -> Tensor
    where
        Self: nn::ModuleT + Sized,
    {
        self.forward_t(xs, false)
    }

    /// Passes the code of the functions, then the fields, to `f`.
    fn identity(&self, f: &mut Fingerprinter<'_>) {
        f.functions(Self::FUNCTIONS);
        self.fields(f);
    }

    /// The `Fingerprint` of the module as a field of another one. The outer module's rows came
    /// through this module's cache, so everything in this module's identity is in theirs: the
    /// type, the options, the code and the fields.
    fn nested(&self, f: &mut Fingerprinter<'_>) {
        f.inner_handle(self.cache().changes());
        type_of(self, f);
        let mut options = Self::options();
        self.overrides(&mut Overrides::apply(&mut options));
        nested_options(options.unchecked(), f);
        self.identity(f);
    }
}

/// Implemented by `#[torchcache]` on a function, for the marker type next to it.
#[doc(hidden)]
pub trait CachedFunction {
    /// The module path and name.
    const NAME: &'static str;
    /// The function.
    const FUNCTION: Function;
    /// The options of the attribute.
    fn options() -> OptionsBuilder;
    /// The function's cache, in a static.
    fn cache() -> &'static TorchCache;
}

/// A module with the attribute.
pub(crate) struct ModuleTarget<'a, T>(pub(crate) &'a T);

impl<T: CachedForward> Target for ModuleTarget<'_, T> {
    fn name(&self) -> String {
        // Instances of a generic struct may compute different outputs for each type argument.
        let generics = type_name::<T>()
            .find('<')
            .map_or("", |at| &type_name::<T>()[at..]);
        format!("{}{generics}", T::NAME)
    }

    fn watched_type(&self) -> Option<&'static str> {
        Some(type_name::<T>())
    }

    fn options(&self) -> OptionsBuilder {
        T::options()
    }

    fn overrides(&self, overrides: &mut Overrides<'_>) {
        self.0.overrides(overrides);
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        // The name is the same for items of one name in two function bodies; the type is not. It
        // is watched as well: a handle may be moved to another module.
        type_of(self.0, f);
        self.0.identity(f);
    }

    fn handle(&self) -> &TorchCache {
        self.0.cache()
    }

    fn functions(&self) -> &'static [Function] {
        T::FUNCTIONS
    }
}

/// A free function with the attribute.
pub(crate) struct FunctionTarget<F>(pub(crate) PhantomData<F>);

impl<F: CachedFunction> Target for FunctionTarget<F> {
    fn name(&self) -> String {
        F::NAME.to_owned()
    }

    fn watched_type(&self) -> Option<&'static str> {
        None
    }

    fn options(&self) -> OptionsBuilder {
        F::options()
    }

    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        // As for modules, but not watched: the handle of a function is in a static.
        f.content("type", &[], || {
            (type_name::<F>().into(), type_name::<F>().into())
        });
        f.functions(self.functions());
    }

    fn handle(&self) -> &TorchCache {
        F::cache()
    }

    fn functions(&self) -> &'static [Function] {
        const { &[F::FUNCTION] }
    }
}
