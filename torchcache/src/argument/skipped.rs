//! [`SkippedArgument`]: parameters marked `#[skip]`, which are not part of the key.

use std::ops::Deref;

use super::Argument;
use super::rows::{Nothing, SelectedRows};

/// A value that a parameter marked `#[skip]` takes: a tensor that is an [`Argument`], or a value of any type that can
/// be cloned, such as a reference.
///
/// It is not part of the key, and need not implement [`Fingerprint`](trait@crate::Fingerprint). So **you guarantee that
/// no output depends on it**, beyond rounding: a row that was computed with one value is a hit for every other one. The
/// option `verify` finds outputs that depend on it. A call in which all rows are hits does not use it.
///
/// * A logger, a callback or a counter: taken by reference, as `&dyn Fn(i64)` or `&Cell<i64>`. It sees the rows that
///   are computed, and those more than once where the body runs again.
/// * A setting of how to compute, such as the number of rows at a time.
/// * A tensor whose rows follow from the other arguments. It is cut to the rows that are computed, as without `#[skip]`,
///   and must have the batch as its first dimension. With `#[shared]` as well, it is passed whole. A type of yours that
///   holds tensors, without `#[derive(Argument)]`, is passed whole.
///
/// ```
/// use std::cell::Cell;
/// use tch::Tensor;
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn embed(
///     pixels: &Tensor,
///     #[skip] thumbnails: &Tensor, // made of the pixels
///     #[skip] on_rows: &dyn Fn(i64),
/// ) -> Tensor {
///     assert_eq!(pixels.size()[0], thumbnails.size()[0]);
///     on_rows(pixels.size()[0]);
///     pixels * 2
/// }
///
/// let pixels = Tensor::rand([8, 64], tch::kind::FLOAT_CPU);
/// let thumbnails = pixels.narrow(1, 0, 8);
/// let computed = Cell::new(0);
/// let count = |rows| computed.set(computed.get() + rows);
/// embed(&pixels.narrow(0, 0, 6), &thumbnails.narrow(0, 0, 6), &count);
/// embed(&pixels, &thumbnails, &count);
/// assert_eq!((computed.get(), embed_cache().stats().memory.hits), (8, 6));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a skipped argument",
    label = "it cannot be cloned for a body that runs again",
    note = "take it by reference, as `&T` or `&dyn Fn(…)`, or implement `Clone`"
)]
pub trait SkippedArgument: Sized {
    /// The value for the body.
    #[doc(hidden)]
    fn pass(&self) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Clone> SkippedArgument for T {
    fn pass(&self) -> Self {
        self.clone()
    }
}

/// An argument marked `#[skip]`. Its methods are those of [`OtherValue`] where its type is no [`Argument`]; no trait
/// that all types have is likely to have methods of these names.
#[doc(hidden)]
#[derive(Debug)]
pub struct SkipProbe<'a, T>(OtherValue<'a, T>);

/// See [`SkipProbe`].
#[doc(hidden)]
#[derive(Debug)]
pub struct OtherValue<'a, T>(&'a T);

impl<'a, T> SkipProbe<'a, T> {
    pub fn new(value: &'a T) -> Self {
        SkipProbe(OtherValue(value))
    }
}

impl<'a, 'r, T: Argument<'r>> SkipProbe<'a, T> {
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

impl<'a, T> Deref for SkipProbe<'a, T> {
    type Target = OtherValue<'a, T>;

    fn deref(&self) -> &OtherValue<'a, T> {
        &self.0
    }
}

impl<T> OtherValue<'_, T> {
    /// Adds nothing to the call.
    pub fn torchcache_argument(&self) -> &'static () {
        &()
    }

    pub fn torchcache_rows(&self, _: &SelectedRows, _: usize, _: &mut Nothing) -> T
    where
        T: SkippedArgument,
    {
        self.0.pass()
    }
}
