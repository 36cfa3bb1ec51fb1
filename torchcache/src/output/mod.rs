//! What a cached function may return: tensors, values built of tensors, or a `Result` of these.

mod constants;
mod maps;
mod states;

use std::cell::Cell;

use tch::Tensor;

use crate::error::{Error, with_sources};

pub use constants::{Constant, ConstantField};

/// A value made of tensors whose first dimension is the batch: `Tensor`, tuples, arrays, `Vec`, `Option`,
/// `BTreeMap`, `HashMap`, and structs and enums with `#[derive(Batched)]`, in any nesting; and `nn::GRUState` and
/// `nn::LSTMState`, whose second dimension is the batch.
///
/// Each tensor has its own kind and row shape. The lengths of vectors, whether options are `Some`, the keys of maps, the
/// variants of enums and plain values, which are fields marked `#[batched(constant)]` (see [`Constant`]), are the same
/// for all rows of a call; rows that differ in these cannot be in one batch, and such a call bypasses the cache.
/// The tensors of hits and of misses are contiguous, whatever strides the forward gave them.
///
/// ```
/// use tch::{Kind, Tensor};
/// use torchcache::{Batched, torchcache};
///
/// #[derive(Batched)]
/// struct Encoded {
///     tokens: Tensor,
///     pooled: Tensor,
///     layers: Vec<Tensor>,
/// }
///
/// #[torchcache]
/// fn encode(xs: &Tensor, layers: bool) -> Encoded {
///     Encoded {
///         tokens: xs * 2,
///         pooled: xs.mean_dim(1, false, Kind::Float),
///         layers: if layers { vec![xs + 1, xs + 2] } else { Vec::new() },
///     }
/// }
///
/// let xs = Tensor::rand([4, 3], tch::kind::FLOAT_CPU);
/// let computed = encode(&xs, true);
/// let cached = encode(&xs.narrow(0, 2, 2), true);
/// assert_eq!(cached.pooled, computed.pooled.narrow(0, 2, 2));
/// assert_eq!(cached.layers.len(), 2);
/// assert_eq!(encode_cache().stats().memory.hits, 2);
/// ```
#[diagnostic::on_unimplemented(
    message = "a cached function cannot return `{Self}`",
    label = "not made of batched tensors",
    note = "return `Tensor`, a tuple, array, `Vec`, `Option` or map of such, a struct or enum of them with `#[derive(torchcache::Batched)]`, or a `Result` of these whose error implements `From<torchcache::Error>`",
    note = "a plain value, such as a number, has no rows: return it in a struct with `#[derive(torchcache::Batched)]`, in a field marked `#[batched(constant)]`, if it depends on no row"
)]
pub trait Batched: Sized {
    /// Writes the structure of the type, which is part of every key.
    #[doc(hidden)]
    fn structure(text: &mut String);

    /// Appends the tensors of the value, and the length of each vector, in order. Not named `flatten`: in a
    /// method call on a temporary, that would hide the method of `Tensor`.
    #[doc(hidden)]
    fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>);

    /// Builds a value from tensors and lengths; `None` where these do not fit.
    #[doc(hidden)]
    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self>;
}

/// The deepest nesting of structs. Anything deeper is a cycle.
const MAX_DEPTH: u32 = 64;

/// Writes the structure of a struct. The derive rejects a struct that names itself; two that name each
/// other are caught here.
///
/// # Panics
///
/// If the structs contain each other.
#[doc(hidden)]
pub fn nested(name: &str, text: &mut String, fields: impl FnOnce(&mut String)) {
    thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });
    struct Within;
    impl Drop for Within {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _within = Within;
    assert!(
        DEPTH.get() <= MAX_DEPTH,
        "`{name}` contains itself through other types, so that its number of tensors is unknown; give \
         the inner value a type of its own"
    );
    fields(text);
}

/// What a cached function may return. See [`Batched`].
#[diagnostic::on_unimplemented(
    message = "a cached function cannot return `{Self}`",
    label = "neither batched tensors nor a `Result` of them that can hold a `torchcache::Error`",
    note = "return `Tensor`, a tuple, array, `Vec`, `Option` or map of such, a struct or enum of them with `#[derive(torchcache::Batched)]`, or a `Result` of these whose error implements `From<torchcache::Error>`",
    note = "a plain value, such as a number, has no rows: return it in a struct with `#[derive(torchcache::Batched)]`, in a field marked `#[batched(constant)]`, if it depends on no row"
)]
pub trait Output: Sized {
    /// The value without its `Result`.
    #[doc(hidden)]
    type Value: Batched;

    /// The value, or the failed output to be returned as it is.
    #[doc(hidden)]
    fn into_value(self) -> Result<Self::Value, Self>;

    /// The output that holds a value.
    #[doc(hidden)]
    fn from_value(value: Self::Value) -> Self;

    /// Reports a misuse: as an `Err`, or by a panic where the output is no `Result`.
    #[doc(hidden)]
    fn from_error(error: Error) -> Self;
}

impl<T: Batched> Output for T {
    type Value = T;

    fn into_value(self) -> Result<T, Self> {
        Ok(self)
    }

    fn from_value(value: T) -> Self {
        value
    }

    #[track_caller]
    fn from_error(error: Error) -> Self {
        panic!("{}", with_sources(&error))
    }
}

impl<T: Batched, E: From<Error>> Output for Result<T, E> {
    type Value = T;

    fn into_value(self) -> Result<T, Self> {
        self.map_err(Err)
    }

    fn from_value(value: T) -> Self {
        Ok(value)
    }

    fn from_error(error: Error) -> Self {
        Err(error.into())
    }
}

impl Batched for Tensor {
    fn structure(text: &mut String) {
        text.push('T');
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, _: &mut Vec<u32>) {
        tensors.push(self);
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        _: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        tensors.next()
    }
}

impl<T: Batched> Batched for Vec<T> {
    fn structure(text: &mut String) {
        text.push('[');
        T::structure(text);
        text.push(']');
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        lengths.push(u32::try_from(self.len()).expect("fewer than 2^32 tensors"));
        for value in self {
            value.flatten_into(tensors, lengths);
        }
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        (0..lengths.next()?)
            .map(|_| T::unflatten(tensors, lengths))
            .collect()
    }
}

/// An option is a vector of no or one element, under a mark of its own.
impl<T: Batched> Batched for Option<T> {
    fn structure(text: &mut String) {
        text.push('?');
        T::structure(text);
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        lengths.push(u32::from(self.is_some()));
        if let Some(value) = self {
            value.flatten_into(tensors, lengths);
        }
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        match lengths.next()? {
            0 => Some(None),
            1 => T::unflatten(tensors, lengths).map(Some),
            _ => None,
        }
    }
}

/// An array is a tuple of elements of one type.
impl<T: Batched, const N: usize> Batched for [T; N] {
    fn structure(text: &mut String) {
        text.push('(');
        (0..N).for_each(|_| T::structure(text));
        text.push(')');
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        for value in self {
            value.flatten_into(tensors, lengths);
        }
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        let elements: Option<Vec<T>> = (0..N).map(|_| T::unflatten(tensors, lengths)).collect();
        elements?.try_into().ok()
    }
}

macro_rules! tuples {
    ($(($($type:ident),+))*) => {$(
        impl<$($type: Batched),+> Batched for ($($type,)+) {
            fn structure(text: &mut String) {
                text.push('(');
                $($type::structure(text);)+
                text.push(')');
            }

            #[expect(non_snake_case, reason = "the type parameters name the elements")]
            fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
                let ($($type,)+) = self;
                $($type.flatten_into(tensors, lengths);)+
            }

            fn unflatten(
                tensors: &mut dyn Iterator<Item = Tensor>,
                lengths: &mut dyn Iterator<Item = u32>,
            ) -> Option<Self> {
                Some(($($type::unflatten(tensors, lengths)?,)+))
            }
        }
    )*};
}

tuples! { (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) }

/// The structure of an output type as text, such as `(T[T])`.
pub(crate) fn structure<O: Output>() -> String {
    let mut text = String::new();
    O::Value::structure(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_outputs_flatten_and_unflatten() {
        type Nested = (Tensor, Vec<(Tensor, Tensor)>);
        let tensor = |value: i64| Tensor::from_slice(&[value]);
        let value: Nested = (
            tensor(1),
            vec![(tensor(2), tensor(3)), (tensor(4), tensor(5))],
        );
        let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
        value.flatten_into(&mut tensors, &mut lengths);
        assert_eq!((tensors.len(), lengths.as_slice()), (5, [2].as_slice()));
        let mut tensors = tensors.into_iter();
        let again = Nested::unflatten(&mut tensors, &mut lengths.into_iter()).unwrap();
        assert_eq!(again.1[1].0.int64_value(&[0]), 4);
        assert_eq!(structure::<Nested>(), "(T[(TT)])");
    }

    #[test]
    fn options_and_arrays_flatten_and_unflatten() {
        type Optional = (Option<Vec<Tensor>>, [Option<Tensor>; 2]);
        let tensor = |value: i64| Tensor::from_slice(&[value]);
        let value: Optional = (Some(vec![]), [None, Some(tensor(7))]);
        let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
        value.flatten_into(&mut tensors, &mut lengths);
        assert_eq!(
            (tensors.len(), lengths.as_slice()),
            (1, [1, 0, 0, 1].as_slice())
        );
        let (mut tensors, mut lengths) = (tensors.into_iter(), lengths.into_iter());
        let (vector, array) = Optional::unflatten(&mut tensors, &mut lengths).unwrap();
        assert!(vector.is_some_and(|vector| vector.is_empty()));
        let [none, seven] = array;
        assert!(none.is_none() && seven.unwrap().int64_value(&[0]) == 7);
        assert_eq!(structure::<Optional>(), "(?[T](?T?T))");
    }

    #[test]
    fn tensors_that_do_not_fit_are_rejected() {
        let (mut none, mut lengths) = (std::iter::empty(), [3].into_iter());
        assert!(Vec::<Tensor>::unflatten(&mut none, &mut lengths).is_none());
        let (mut none, mut lengths) = (std::iter::empty(), [2].into_iter());
        assert!(Option::<Tensor>::unflatten(&mut none, &mut lengths).is_none());
    }
}
