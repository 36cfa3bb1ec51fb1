//! What a cached function may take: tensors that are cut into rows, and plain values that go into
//! every key.
//!
//! `padded`, `sample_ids`, `shared` and `skipped` are the marks that change what a parameter is. `arguments` are
//! those of one call, and `rows` what the body gets of them.

mod arguments;
mod digests;
mod ids;
mod padded;
mod padding;
mod plain;
mod probe;
mod rows;
mod sample_ids;
mod shared;
mod skipped;
mod structured;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Reduction, Scalar, Tensor, nn};

use crate::identity::{Fingerprint, Named};

pub use arguments::Arguments;
pub(crate) use arguments::TensorArgument;
pub(crate) use digests::SharedDigests;
pub use ids::SampleId;
pub use padded::PaddedArgument;
pub(crate) use plain::PlainArguments;
pub use plain::PlainDigests;
pub use probe::ArgumentProbe;
pub(crate) use rows::RowShapes;
pub use rows::SelectedRows;
pub use sample_ids::SampleIds;
pub use shared::SharedArgument;
pub use skipped::{SkipProbe, SkippedArgument};

use rows::Nothing;

/// An argument that is made of tensors whose first dimension is the batch. A cached function takes these and
/// [`PlainArgument`]s.
///
/// * **Tensors**: `&Tensor`, `Tensor`.
/// * **Several of them**, in any nesting: references, `Option`, `Vec`, slices, arrays, tuples of up to six, and `BTreeMap`
///   and `HashMap` with plain keys, such as `&[Tensor]`, `Option<&Vec<(Tensor, Tensor)>>`, `(&Tensor, i64)` and
///   `&[Option<Tensor>]`.
/// * **Structs and enums** of these, with `#[derive(Argument)]`. Their references have one lifetime.
/// * **Recurrent states**: `nn::GRUState` and `nn::LSTMState`, `[layers, batch, size]`. A row has all layers.
///
/// All tensors have the same number of rows. The body gets a value of the same structure, whose tensors have the rows that
/// are to be computed. The structure is part of every key: how long lists are, which options are `Some`, the keys of
/// maps, the variants of enums, the names of fields, and plain values. These are those of the standard library and of tch
/// that [`PlainArgument`] lists, without collections, and fields marked `#[argument(plain)]` of any [`PlainArgument`].
///
/// ```
/// use tch::Tensor;
/// use torchcache::{Argument, Batched, torchcache};
///
/// /// Keys and values of a layer.
/// #[derive(Argument, Batched)]
/// struct Past {
///     keys: Tensor,
///     values: Tensor,
/// }
///
/// #[derive(Argument)]
/// struct Inputs<'a> {
///     tokens: &'a Tensor,
///     past: Option<&'a [Past]>,
///     #[argument(plain)]
///     layers: Vec<usize>,
/// }
///
/// #[torchcache]
/// fn attend(inputs: Inputs) -> Vec<Past> {
///     let layer = |&layer: &usize| {
///         let past = inputs.past.map(|past| &past[layer].keys + &past[layer].values);
///         let keys = past.map_or_else(|| inputs.tokens * 2, |past| past + inputs.tokens);
///         Past { values: &keys + layer as i64, keys }
///     };
///     inputs.layers.iter().map(layer).collect()
/// }
///
/// let tokens = Tensor::rand([4, 8], tch::kind::FLOAT_CPU);
/// let layers = vec![0, 1];
/// let past = attend(Inputs { tokens: &tokens, past: None, layers: layers.clone() });
/// for _ in 0..2 {
///     let next = attend(Inputs { tokens: &tokens, past: Some(&past), layers: layers.clone() });
///     assert_eq!(next.len(), 2);
/// }
/// let stats = attend_cache().stats();
/// assert_eq!((stats.misses, stats.memory.hits), (8, 4));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a cached function",
    label = "neither made of tensors nor a plain argument",
    note = "tensors are taken as `&Tensor`, `Tensor`, and references, `Option`, `Vec`, slices, arrays, tuples and maps of these; a struct or enum of them needs `#[derive(torchcache::Argument)]`",
    note = "a plain type of your own needs `#[derive(Clone, torchcache::Fingerprint)]` and `impl torchcache::PlainArgument for …`, and in a struct of tensors `#[argument(plain)]` on its field",
    note = "a layer such as `nn::Linear` is taken as `&nn::Linear`; one with private weights, such as `nn::Sequential`, as `&torchcache::Cached<nn::Sequential>`; a module of your own as `&Module` where its struct has `#[torchcache]`, and else with `impl torchcache::PlainArgument for &Module`"
)]
pub trait Argument<'r>: Sized {
    /// Storage for the body's value, where it borrows more than the rows.
    #[doc(hidden)]
    type Held: Default;

    /// Adds this argument to the call's keys and tensors.
    #[doc(hidden)]
    fn describe(&self, arguments: &mut Arguments);

    /// The value for the body: of the rows to compute, whose tensors are taken in the order in which they were
    /// added.
    #[doc(hidden)]
    fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut Self::Held) -> Self;
}

/// The tensors of an argument, for the rows to compute.
#[doc(hidden)]
pub type RowTensors<'r> = std::slice::Iter<'r, Tensor>;

impl Arguments<'_> {
    /// Adds an argument.
    #[must_use]
    pub fn with<'r, A: Argument<'r>>(mut self, argument: &A) -> Self {
        argument.describe(&mut self);
        self.next()
    }

    /// A plain value inside of an argument.
    pub fn value<T: PlainArgument>(&mut self, value: &T) {
        self.plain_part(value);
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
        argument.rows(&mut self.tensors(position).iter(), held)
    }
}

/// An argument that is the same for all rows and part of every row's key: numbers (floats by their
/// bits), `bool`, `char`, text, paths, `Duration`, `Option`, tuples, slices, ranges, collections, `Kind`, `Device`,
/// `Reduction` and the configurations of `tch::nn`.
///
/// A tensor inside of one is part of every row's key as a whole, and the body gets all of it: it must not have the rows of
/// the batch. A type with such a tensor needs `#[derive(Argument)]` instead.
///
/// Layers are plain arguments by reference, alone and in `Option` and slices: `&nn::Linear`, `&nn::Conv2D`,
/// `&nn::Embedding` and norms. So are `&nn::VarStore`, `&Cached<_>`, and modules of your own, alone and in `Option`: for
/// `&Module`, `#[torchcache]` on the struct implements this trait, and a struct with another identity (see
/// [`trait@Fingerprint`]) needs `impl PlainArgument for &Module`. Weights are compared at
/// each call, as those in the fields of a module are, and hashed where they changed. The weights of the four values that
/// an argument had last stay alive until then, or until [`refresh`](crate::TorchCache::refresh) or
/// [`clear`](crate::TorchCache::clear).
///
/// ```
/// use tch::{Device, Tensor, nn};
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn encode(encoder: &nn::Linear, xs: &Tensor) -> Tensor {
///     xs.apply(encoder).tanh()
/// }
///
/// let mut vs = nn::VarStore::new(Device::Cpu);
/// let encoder = nn::linear(vs.root(), 16, 4, Default::default());
/// vs.freeze();
/// let xs = Tensor::rand([3, 16], tch::kind::FLOAT_CPU);
/// assert_eq!(encode(&encoder, &xs), encode(&encoder, &xs));
/// assert_eq!(encode_cache().stats().memory.hits, 3);
/// tch::no_grad(|| encoder.ws.shallow_clone().fill_(0.5));
/// encode(&encoder, &xs);
/// assert_eq!(encode_cache().stats().misses, 6);
/// ```
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no plain argument",
    label = "it has no identity that a key can be made of, or is not marked as an argument",
    note = "a plain type of your own needs `#[derive(Clone, torchcache::Fingerprint)]` and `impl torchcache::PlainArgument for …`"
)]
pub trait PlainArgument: Fingerprint + Clone {}

/// Types that are also plain parts of an argument that holds tensors.
macro_rules! plain_arguments {
    ($($type:ty)*) => {$(
        impl PlainArgument for $type {}

        impl<'r> Argument<'r> for $type {
            type Held = Nothing;

            fn describe(&self, arguments: &mut Arguments) {
                arguments.value(self);
            }

            fn rows(&self, _: &mut RowTensors<'r>, _: &'r mut Nothing) -> Self {
                Self::clone(self)
            }
        }
    )*};
}

plain_arguments! {
    ()
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 bool char String Kind Device &str
    &Path PathBuf &OsStr OsString Duration Reduction Ordering
    nn::LinearConfig nn::BatchNormConfig nn::LayerNormConfig nn::GroupNormConfig nn::EmbeddingConfig nn::RNNConfig
    nn::PaddingMode nn::Init
}

/// Layers, which are taken by reference, since they cannot be cloned.
macro_rules! layers {
    ($($layer:ident $(<$dimensions:ident>)?)*) => {$(
        impl$(<$dimensions: Debug>)? PlainArgument for &nn::$layer$(<$dimensions>)? {}
        impl$(<$dimensions: Debug>)? PlainArgument for &[nn::$layer$(<$dimensions>)?] {}
    )*};
}

layers! { Linear Conv<ND> ConvTransposeND<ND> BatchNorm LayerNorm GroupNorm Embedding }

impl PlainArgument for &nn::VarStore {}
impl PlainArgument for &Scalar {}

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
