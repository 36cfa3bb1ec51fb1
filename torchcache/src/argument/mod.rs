//! What a cached function may take: tensors that are cut into rows, and plain values that go into
//! every key.
//!
//! `sample_ids`, `shared` and `skipped` are the marks that change what a parameter is. `arguments` are
//! those of one call, and `rows` what the body gets of them.

mod arguments;
mod digests;
mod ids;
mod rows;
mod sample_ids;
mod shared;
mod skipped;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Reduction, Tensor, nn};

use crate::identity::{Fingerprint, Named};

pub use arguments::Arguments;
pub(crate) use arguments::TensorArgument;
pub(crate) use digests::SharedDigests;
pub use ids::SampleId;
pub use rows::SelectedRows;
pub use sample_ids::SampleIds;
pub use shared::SharedArgument;
pub use skipped::{SkipProbe, SkippedArgument};

use rows::Nothing;

/// An argument that a cached function can take: tensors whose first dimension is the batch
/// (`&Tensor`, `Tensor`, `Option<&Tensor>`, `Option<Tensor>`, `&[Tensor]`, `&[&Tensor]`) or a
/// [`PlainArgument`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a cached function",
    label = "neither a tensor nor a plain argument",
    note = "tensors are taken as `&Tensor`, `Tensor`, `Option<&Tensor>` or `&[Tensor]`; a plain type of your own needs `#[derive(Clone, torchcache::Fingerprint)]` and `impl torchcache::PlainArgument for …`"
)]
pub trait Argument<'r>: Sized {
    /// Storage for the body's value, where it borrows more than the rows.
    #[doc(hidden)]
    type Held: Default;

    /// Adds this argument to the call's keys and tensors.
    #[doc(hidden)]
    fn describe(&self, arguments: &mut Arguments);

    /// The value for the body: the rows to compute, or the plain value.
    #[doc(hidden)]
    fn rows(&self, rows: &'r SelectedRows, position: usize, held: &'r mut Self::Held) -> Self;
}

impl Arguments<'_> {
    /// Adds an argument.
    #[must_use]
    pub fn with<'r, A: Argument<'r>>(mut self, argument: &A) -> Self {
        argument.describe(&mut self);
        self.next()
    }
}

impl SelectedRows {
    /// The value of the argument at `position` for these rows.
    pub fn argument<'r, A: Argument<'r>>(
        &'r self,
        argument: &A,
        position: usize,
        held: &'r mut A::Held,
    ) -> A {
        argument.rows(self, position, held)
    }
}

/// An argument that is the same for all rows and part of every row's key: numbers (floats by their
/// bits), `bool`, `char`, text, paths, `Duration`, `Option`, tuples, slices, ranges, collections, `Kind`, `Device`,
/// `Reduction` and the configurations of `tch::nn`.
///
/// ```
/// use torchcache::{Fingerprint, PlainArgument};
///
/// #[derive(Clone, Copy, Fingerprint)]
/// enum Pooling {
///     Mean,
///     Max,
/// }
///
/// impl PlainArgument for Pooling {}
/// ```
pub trait PlainArgument: Fingerprint + Clone {}

macro_rules! plain_arguments {
    ($($type:ty)*) => {$(impl PlainArgument for $type {})*};
}

plain_arguments! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char String Kind Device &str
    &Path PathBuf &OsStr OsString Duration Reduction Ordering
    nn::LinearConfig nn::BatchNormConfig nn::LayerNormConfig nn::GroupNormConfig nn::EmbeddingConfig nn::RNNConfig
    nn::PaddingMode nn::Init
}

impl PlainArgument for () {}
impl<ND: Debug + Clone> PlainArgument for nn::ConvConfigND<ND> {}
impl<ND: Debug + Clone> PlainArgument for nn::ConvTransposeConfigND<ND> {}
impl<T: PlainArgument> PlainArgument for Range<T> {}
impl<T: PlainArgument> PlainArgument for RangeInclusive<T> {}
impl<K: PlainArgument, V: PlainArgument> PlainArgument for BTreeMap<K, V> {}
impl<T: PlainArgument> PlainArgument for BTreeSet<T> {}
impl<K: PlainArgument, V: PlainArgument, S: Clone> PlainArgument for HashMap<K, V, S> {}
impl<T: PlainArgument, S: Clone> PlainArgument for HashSet<T, S> {}
impl<T: PlainArgument> PlainArgument for Box<T> {}
impl<T: PlainArgument> PlainArgument for Arc<T> {}
impl<F: Clone> PlainArgument for Named<F> {}
impl<T: PlainArgument> PlainArgument for &T {}
impl<T: PlainArgument> PlainArgument for &[T] {}
impl<T: PlainArgument> PlainArgument for Option<T> {}
impl<T: PlainArgument> PlainArgument for Vec<T> {}
impl<T: PlainArgument, const N: usize> PlainArgument for [T; N] {}

macro_rules! plain_tuples {
    ($(($($type:ident),+))*) => {$(
        impl<$($type: PlainArgument),+> PlainArgument for ($($type,)+) {}
    )*};
}

plain_tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) }

#[diagnostic::do_not_recommend]
impl<'r, T: PlainArgument> Argument<'r> for T {
    type Held = Nothing;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.plain(self);
    }

    fn rows(&self, _: &'r SelectedRows, _: usize, _: &'r mut Nothing) -> Self {
        self.clone()
    }
}

/// Implements `Argument` for tensors by what they add to the arguments of a call, and by the value for
/// the body, made of the tensors that were added, for the rows to compute.
macro_rules! tensor_arguments {
    ($($type:ty: |$argument:ident, $added:ident| $add:expr, |$rows:ident| $value:expr;)*) => {$(
        impl<'r> Argument<'r> for $type {
            type Held = Nothing;

            fn describe(&self, $added: &mut Arguments) {
                let $argument = self;
                $add;
            }

            fn rows(&self, rows: &'r SelectedRows, position: usize, _: &'r mut Nothing) -> Self {
                let $rows = rows.tensors(position);
                $value
            }
        }
    )*};
}

tensor_arguments! {
    &'r Tensor: |it, arguments| arguments.tensor(it), |rows| &rows[0];
    Tensor: |it, arguments| arguments.tensor(it), |rows| rows[0].shallow_clone();
    Option<&'r Tensor>: |it, arguments| arguments.optional_tensor(*it), |rows| rows.first();
    Option<Tensor>: |it, arguments| arguments.optional_tensor(it.as_ref()),
        |rows| rows.first().map(Tensor::shallow_clone);
    &'r [Tensor]: |it, arguments| arguments.tensors(it.iter()), |rows| rows;
}

impl<'r> Argument<'r> for &'r [&'r Tensor] {
    type Held = Vec<&'r Tensor>;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.tensors(self.iter().copied());
    }

    fn rows(&self, rows: &'r SelectedRows, position: usize, held: &'r mut Self::Held) -> Self {
        *held = rows.tensors(position).iter().collect();
        held
    }
}
