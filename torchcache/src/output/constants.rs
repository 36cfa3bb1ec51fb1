//! [`Constant`]: plain values in an output. Each is kept with the lengths of its vectors, as words of 32 bits.

use std::marker::PhantomData;

use tch::Tensor;

/// A plain value in an output: the type of a field marked `#[batched(constant)]`, or of the key of a map. Numbers,
/// `bool`, `char`, `String`, and `Option`, `Vec`, arrays and tuples of these.
///
/// A cached row has the value that was computed with it. So **you guarantee that it depends on no row**: for equal plain
/// arguments it is the same in every call, whatever the rows. The number of attention heads is, and a loss, a number of
/// rows or the longest length in the batch is not: return a tensor with a value for each row, or compute it outside.
/// Rows that were computed with different values cannot be in one batch: such a call bypasses the cache. The option
/// `verify` finds values that differ.
///
/// ```
/// use tch::Tensor;
/// use torchcache::{Batched, torchcache};
///
/// #[derive(Batched)]
/// struct Attention {
///     weights: Tensor,
///     #[batched(constant)]
///     heads: usize,
/// }
///
/// #[torchcache]
/// fn attention(xs: &Tensor, heads: usize) -> Attention {
///     Attention { weights: xs.unsqueeze(1).repeat([1, heads as i64, 1]), heads }
/// }
///
/// let xs = Tensor::rand([4, 3], tch::kind::FLOAT_CPU);
/// attention(&xs, 2);
/// let cached = attention(&xs.narrow(0, 1, 2), 2);
/// assert_eq!((cached.weights.size(), cached.heads), (vec![2, 2, 3], 2));
/// assert_eq!(attention_cache().stats().memory.hits, 2);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a constant of an output",
    label = "no plain value that rows can be stored with",
    note = "constants are numbers, `bool`, `char`, `String`, and `Option`, `Vec`, arrays and tuples of these; an enum without fields needs no mark, but `#[derive(torchcache::Batched)]`"
)]
pub trait Constant: Sized {
    /// Appends bytes from which the value can be read, so that where they end follows from the type and from them.
    #[doc(hidden)]
    fn write(&self, bytes: &mut Vec<u8>);

    /// Takes the value off the front.
    #[doc(hidden)]
    fn read(bytes: &mut &[u8]) -> Option<Self>;
}

/// Appends a constant: the number of its bytes, then these.
pub(super) fn write(constant: &impl Constant, lengths: &mut Vec<u32>) {
    let mut bytes = Vec::new();
    constant.write(&mut bytes);
    lengths.push(u32::try_from(bytes.len()).expect("fewer than 2^32 bytes"));
    bytes.resize(bytes.len().next_multiple_of(size_of::<u32>()), 0);
    let (words, _) = bytes.as_chunks();
    lengths.extend(words.iter().map(|&word| u32::from_le_bytes(word)));
}

/// Reads a constant; `None` where the words are no value of its type. Without bytes it is zero, empty or `None`, as in
/// what a call returns while it is peeked.
pub(super) fn read<C: Constant>(lengths: &mut dyn Iterator<Item = u32>) -> Option<C> {
    let length = lengths.next()? as usize;
    if length == 0 {
        return C::read(&mut &vec![0; size_of::<C>()][..]);
    }
    let words = length.div_ceil(size_of::<u32>());
    let mut bytes = Vec::new();
    for _ in 0..words {
        bytes.extend(lengths.next()?.to_le_bytes());
    }
    let mut bytes = &bytes[..length];
    let constant = C::read(&mut bytes)?;
    bytes.is_empty().then_some(constant)
}

/// The functions of [`Batched`](super::Batched), for a field that is a constant.
#[doc(hidden)]
#[derive(Debug)]
pub struct ConstantField<C>(PhantomData<C>);

impl<C: Constant> ConstantField<C> {
    pub fn structure(text: &mut String) {
        text.push('=');
    }

    pub fn flatten_into(constant: C, _: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        write(&constant, lengths);
    }

    pub fn unflatten(
        _: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<C> {
        read(lengths)
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Constant for $type {
            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let (value, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_le_bytes(*value))
            }
        }
    )*};
}

numbers! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 }

/// Types that are written as another one.
macro_rules! as_others {
    ($($type:ty as $other:ty: |$value:ident| $written:expr, |$read:ident| $from:expr;)*) => {$(
        impl Constant for $type {
            fn write(&self, bytes: &mut Vec<u8>) {
                let $value = self;
                <$other>::write(&$written, bytes);
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let $read = <$other>::read(bytes)?;
                $from
            }
        }
    )*};
}

as_others! {
    // Of one size on all machines.
    usize as u64: |value| *value as u64, |read| read.try_into().ok();
    isize as i64: |value| *value as i64, |read| read.try_into().ok();
    bool as u8: |value| u8::from(*value), |read| (read < 2).then_some(read == 1);
    char as u32: |value| u32::from(*value), |read| char::from_u32(read);
    String as Vec<u8>: |value| value.as_bytes().to_vec(), |read| String::from_utf8(read).ok();
}

impl<C: Constant> Constant for Option<C> {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.is_some().write(bytes);
        if let Some(value) = self {
            value.write(bytes);
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match bool::read(bytes)? {
            true => C::read(bytes).map(Some),
            false => Some(None),
        }
    }
}

impl<C: Constant> Constant for Vec<C> {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.len().write(bytes);
        self.iter().for_each(|value| value.write(bytes));
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::read(bytes)?;
        // Of a forged length, no more elements are read than there are bytes for, unless these need none.
        let has_bytes = size_of::<C>() == 0 || length <= bytes.len();
        has_bytes.then_some(())?;
        (0..length).map(|_| C::read(bytes)).collect()
    }
}

impl<C: Constant, const N: usize> Constant for [C; N] {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.iter().for_each(|value| value.write(bytes));
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let values: Option<Vec<C>> = (0..N).map(|_| C::read(bytes)).collect();
        values?.try_into().ok()
    }
}

macro_rules! tuples {
    ($(($($type:ident $position:tt),+))*) => {$(
        impl<$($type: Constant),+> Constant for ($($type,)+) {
            fn write(&self, bytes: &mut Vec<u8>) {
                $(self.$position.write(bytes);)+
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($type::read(bytes)?,)+))
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_read_as_they_were_written() {
        type All = (
            (bool, u8, i64, u128, usize, isize),
            (f64, char, String),
            [Option<i16>; 2],
            Vec<Vec<String>>,
        );
        let all: All = (
            (true, 255, i64::MIN, u128::MAX, usize::MAX, -1),
            (-0.0, 'ß', "größe".into()),
            [None, Some(-7)],
            vec![vec![], vec!["".into(), "a".into()]],
        );
        let mut lengths = vec![];
        write(&all, &mut lengths);
        write(&7u8, &mut lengths);
        let mut read_from = lengths.iter().copied();
        let again: All = read(&mut read_from).unwrap();
        assert!(again.1.0.is_sign_negative());
        assert_eq!(again, all);
        assert_eq!(read::<u8>(&mut read_from), Some(7));
        assert_eq!(read_from.next(), None);
    }

    #[test]
    fn a_constant_without_bytes_is_zero_or_empty() {
        type All = (
            bool,
            char,
            usize,
            [f64; 2],
            (String, Vec<u8>),
            Option<String>,
        );
        let all: Option<All> = read(&mut [0].into_iter());
        let empty = (String::new(), vec![]);
        assert_eq!(all, Some((false, '\0', 0, [0.0; 2], empty, None)));
    }

    #[test]
    fn words_that_are_no_value_are_rejected() {
        fn is_rejected<C: Constant>(lengths: &[u32]) -> bool {
            read::<C>(&mut lengths.iter().copied()).is_none()
        }
        assert!(is_rejected::<bool>(&[1, 2]));
        assert!(is_rejected::<char>(&[4, 0xd800]));
        assert!(is_rejected::<u8>(&[]));
        assert!(is_rejected::<u8>(&[2, 0]), "a byte is left");
        assert!(is_rejected::<u64>(&[8, 0]), "a word is missing");
        assert!(is_rejected::<String>(&[9, 1, 0, 0xff]));
        assert!(is_rejected::<Vec<u8>>(&[8, u32::MAX, u32::MAX]));
    }
}
