//! [`ArgumentProbe`]: an argument is a plain value where its type is a [`PlainArgument`], and one of tensors elsewhere.
//! A trait for both would need an implementation for lists of each, and a list of some type may be both.

use std::ops::Deref;

use super::arguments::Arguments;
use super::rows::{Nothing, SelectedRows};
use super::{Argument, PlainArgument, RowTensors};

/// An argument without a mark. Its methods are those of [`OtherArgument`] where its type is no [`PlainArgument`], and those
/// of [`NoArgument`] where it is no [`Argument`] either.
#[doc(hidden)]
#[derive(Debug)]
pub struct ArgumentProbe<'a, T>(OtherArgument<'a, T>);

/// See [`ArgumentProbe`].
#[doc(hidden)]
#[derive(Debug)]
pub struct OtherArgument<'a, T>(NoArgument<'a, T>);

/// See [`ArgumentProbe`].
#[doc(hidden)]
#[derive(Debug)]
pub struct NoArgument<'a, T>(&'a T);

impl<'a, T> ArgumentProbe<'a, T> {
    pub fn new(value: &'a T) -> Self {
        ArgumentProbe(OtherArgument(NoArgument(value)))
    }
}

impl<T: PlainArgument> ArgumentProbe<'_, T> {
    pub fn torchcache_argument(&self) -> &Self {
        self
    }

    pub fn torchcache_rows(&self, _: &SelectedRows, _: usize, _: &mut Nothing) -> T {
        self.0.0.0.clone()
    }
}

/// The plain value.
impl<'r, T: PlainArgument> Argument<'r> for ArgumentProbe<'_, T> {
    type Held = Nothing;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.plain(self.0.0.0);
    }

    fn rows(&self, _: &mut RowTensors<'r>, _: &'r mut Nothing) -> Self {
        ArgumentProbe::new(self.0.0.0)
    }
}

impl<'a, T> Deref for ArgumentProbe<'a, T> {
    type Target = OtherArgument<'a, T>;

    fn deref(&self) -> &OtherArgument<'a, T> {
        &self.0
    }
}

impl<'a, 'r, T: Argument<'r>> OtherArgument<'a, T> {
    pub fn torchcache_argument(&self) -> &'a T {
        self.0.0
    }

    pub fn torchcache_rows(
        &self,
        rows: &'r SelectedRows,
        position: usize,
        held: &'r mut T::Held,
    ) -> T {
        rows.argument(self.0.0, position, held)
    }
}

impl<'a, T> Deref for OtherArgument<'a, T> {
    type Target = NoArgument<'a, T>;

    fn deref(&self) -> &NoArgument<'a, T> {
        &self.0
    }
}

impl<'a, T> NoArgument<'a, T> {
    /// Reports that the type is none, once: bounds of an `impl` are reported as a missing method, and so is the value
    /// for the body.
    pub fn torchcache_argument<'r>(&self) -> &'a T
    where
        T: Argument<'r>,
    {
        self.0
    }

    pub fn torchcache_rows(&self, _: &SelectedRows, _: usize, _: &mut Nothing) -> T {
        unreachable!("it does not compile")
    }
}
