//! Code that a derived [`Fingerprint`](super::Fingerprint) does not see.

use std::marker::PhantomData;
use std::ops::Deref;

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

/// Finds out whether a type that is not generic is a module: its method is that of [`NoModule`]
/// otherwise. Named by generated code.
#[doc(hidden)]
#[derive(Debug)]
pub struct ModuleProbe<T: ?Sized>(NoModule, PhantomData<T>);

#[doc(hidden)]
#[derive(Debug)]
pub struct NoModule;

impl<T: ?Sized> ModuleProbe<T> {
    #[expect(clippy::new_without_default, reason = "named by generated code alone")]
    pub fn new() -> Self {
        ModuleProbe(NoModule, PhantomData)
    }
}

impl<T: nn::ModuleT + ?Sized> ModuleProbe<T> {
    pub fn is_module(&self) -> bool {
        true
    }
}

impl<T: ?Sized> Deref for ModuleProbe<T> {
    type Target = NoModule;

    fn deref(&self) -> &NoModule {
        &self.0
    }
}

impl NoModule {
    pub fn is_module(&self) -> bool {
        false
    }
}
