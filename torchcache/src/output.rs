//! What a cached function may return: tensors, tuples and vectors of them, or a `Result` of these.

use tch::Tensor;

use crate::error::Error;

/// A value made of tensors whose first dimension is the batch: `Tensor`, tuples, `Vec<Tensor>`.
#[diagnostic::on_unimplemented(
    message = "a cached function cannot return `{Self}`",
    label = "not made of batched tensors",
    note = "return `Tensor`, a tuple or `Vec` of such, or a `Result` of these whose error implements `From<torchcache::Error>`"
)]
pub trait Batched: Sized {
    /// Writes the structure of the type, which is part of every key.
    #[doc(hidden)]
    fn structure(text: &mut String);

    /// Takes the value apart: its tensors in order, and the length of each vector.
    #[doc(hidden)]
    fn take_apart(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>);

    /// Puts a value together again; `None` where the parts do not fit.
    #[doc(hidden)]
    fn put_together(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self>;
}

/// What a cached function may return. See [`Batched`].
#[diagnostic::on_unimplemented(
    message = "a cached function cannot return `{Self}`",
    label = "neither batched tensors nor a `Result` of them that can hold a `torchcache::Error`",
    note = "return `Tensor`, a tuple or `Vec` of such, or a `Result` of these whose error implements `From<torchcache::Error>`"
)]
pub trait Output: Sized {
    /// The value without its `Result`.
    #[doc(hidden)]
    type Value: Batched;

    /// The value, or the failed output to be returned as it is.
    #[doc(hidden)]
    fn value(self) -> Result<Self::Value, Self>;

    /// The output that holds a value.
    #[doc(hidden)]
    fn of(value: Self::Value) -> Self;

    /// Tells the caller of a misuse: as an `Err`, or by a panic where there is none.
    #[doc(hidden)]
    fn fail(error: Error) -> Self;
}

impl<T: Batched> Output for T {
    type Value = T;

    fn value(self) -> Result<T, Self> {
        Ok(self)
    }

    fn of(value: T) -> Self {
        value
    }

    #[track_caller]
    fn fail(error: Error) -> Self {
        panic!("{error}")
    }
}

impl<T: Batched, E: From<Error>> Output for Result<T, E> {
    type Value = T;

    fn value(self) -> Result<T, Self> {
        self.map_err(Err)
    }

    fn of(value: T) -> Self {
        Ok(value)
    }

    fn fail(error: Error) -> Self {
        Err(error.into())
    }
}

impl Batched for Tensor {
    fn structure(text: &mut String) {
        text.push('T');
    }

    fn take_apart(self, tensors: &mut Vec<Tensor>, _: &mut Vec<u32>) {
        tensors.push(self);
    }

    fn put_together(
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

    fn take_apart(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        lengths.push(u32::try_from(self.len()).expect("fewer than 2^32 tensors"));
        for value in self {
            value.take_apart(tensors, lengths);
        }
    }

    fn put_together(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        (0..lengths.next()?)
            .map(|_| T::put_together(tensors, lengths))
            .collect()
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
            fn take_apart(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
                let ($($type,)+) = self;
                $($type.take_apart(tensors, lengths);)+
            }

            fn put_together(
                tensors: &mut dyn Iterator<Item = Tensor>,
                lengths: &mut dyn Iterator<Item = u32>,
            ) -> Option<Self> {
                Some(($($type::put_together(tensors, lengths)?,)+))
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
    fn nested_outputs_come_apart_and_together() {
        type Nested = (Tensor, Vec<(Tensor, Tensor)>);
        let tensor = |value: i64| Tensor::from_slice(&[value]);
        let value: Nested = (
            tensor(1),
            vec![(tensor(2), tensor(3)), (tensor(4), tensor(5))],
        );
        let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
        value.take_apart(&mut tensors, &mut lengths);
        assert_eq!((tensors.len(), lengths.as_slice()), (5, [2].as_slice()));
        let mut tensors = tensors.into_iter();
        let again = Nested::put_together(&mut tensors, &mut lengths.into_iter()).unwrap();
        assert_eq!(again.1[1].0.int64_value(&[0]), 4);
        assert_eq!(structure::<Nested>(), "(T[(TT)])");
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let (mut none, mut lengths) = (std::iter::empty(), [3].into_iter());
        assert!(Vec::<Tensor>::put_together(&mut none, &mut lengths).is_none());
    }
}
