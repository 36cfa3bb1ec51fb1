//! Code that a derived [`Fingerprint`](super::Fingerprint) does not see.

use std::marker::PhantomData;

use tch::nn;

use super::fingerprint::Fingerprinter;

/// How many weights and modules were hashed so far. Called by generated code.
#[doc(hidden)]
pub fn hashed_modules(f: &Fingerprinter<'_>) -> usize {
    f.hashed_modules()
}

/// Adds what stands for the code of a type whose `Fingerprint` is derived, after its fields: where it is a
/// module, or has weights or modules in its fields, the program or library that contains the caller.
/// `before`: [`hashed_modules`] before its fields. Called by generated code.
#[doc(hidden)]
#[track_caller]
pub fn unknown_code<T: ?Sized>(is_module: bool, before: usize, f: &mut Fingerprinter<'_>) {
    if is_module || f.hashed_modules() != before {
        f.unknown_code::<T>();
    }
}

/// Whether a type that is not generic is a module: it is not where the constant is that of [`NoModule`]. Named by
/// generated code.
#[doc(hidden)]
#[derive(Debug)]
pub struct ModuleProbe<T: ?Sized>(PhantomData<T>);

impl<T: nn::ModuleT + ?Sized> ModuleProbe<T> {
    pub const IS_MODULE: bool = true;
}

/// See [`ModuleProbe`].
#[doc(hidden)]
pub trait NoModule {
    const IS_MODULE: bool = false;
}

impl<T: ?Sized> NoModule for ModuleProbe<T> {}
