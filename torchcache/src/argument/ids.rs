//! The ids of a batch, and what an id may be.

use std::ops::Deref;

use tch::{Kind, TchError, Tensor};
use torchcache_store::Key;

use crate::error::Detail;
use crate::tensor::{layout, raw};

/// The id of a sample: an integer of any size, `&str` or `String`. Other types have to be converted to
/// one of these.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the id of a sample",
    label = "neither an integer nor text",
    note = "ids are integers, `&str` or `String`"
)]
pub trait SampleId: Clone {
    #[doc(hidden)]
    const KIND: IdKind;

    /// 32 bytes that no other id of this kind has.
    #[doc(hidden)]
    fn key_bytes(&self) -> [u8; 32];
}

/// The kind of an id.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    Integer,
    Text,
}

impl IdKind {
    /// Its name in keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            IdKind::Integer => "integer id",
            IdKind::Text => "text id",
        }
    }
}

/// The ids of a call, not validated yet.
#[doc(hidden)]
#[derive(Debug)]
pub enum Ids<'a> {
    List(&'a dyn IdList),
    Tensor(Tensor),
}

/// A list of ids of any type.
#[doc(hidden)]
pub trait IdList {
    fn count(&self) -> usize;
    fn kind(&self) -> IdKind;
    fn key_bytes(&self) -> Vec<[u8; 32]>;
}

impl<T: SampleId, L: Deref<Target = [T]>> IdList for L {
    fn count(&self) -> usize {
        self.len()
    }

    fn kind(&self) -> IdKind {
        T::KIND
    }

    fn key_bytes(&self) -> Vec<[u8; 32]> {
        self.iter().map(T::key_bytes).collect()
    }
}

impl std::fmt::Debug for dyn IdList + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ids", self.count())
    }
}

impl Ids<'_> {
    /// Validates them and returns their number.
    pub(super) fn check(&self, argument: &str) -> Result<i64, Detail> {
        if let Ids::Tensor(tensor) = self {
            use Kind::{Int, Int8, Int16, Int64, Uint8};
            let shape = raw::shape(tensor).unwrap_or_default();
            let kind = tensor.f_kind();
            let is_dense = layout::is_strided(tensor);
            if shape.len() != 1
                || !is_dense
                || !matches!(kind, Ok(Uint8 | Int8 | Int16 | Int | Int64))
            {
                let layout = match tensor.defined() && !is_dense {
                    true => format!("{} ", layout::describe(tensor)),
                    false => String::new(),
                };
                let kind = kind.map_or_else(|error| error.to_string(), |kind| format!("{kind:?}"));
                return Err(Detail::IdTensor {
                    argument: argument.to_owned(),
                    got: format!("{layout}{kind} of shape {shape:?}"),
                });
            }
        }
        Ok(self.count())
    }

    pub(super) fn count(&self) -> i64 {
        match self {
            Ids::List(list) => list.count() as i64,
            Ids::Tensor(tensor) => {
                let shape = raw::shape(tensor).unwrap_or_default();
                shape.first().copied().unwrap_or(0)
            }
        }
    }

    pub(super) fn tensor(&self) -> Option<&Tensor> {
        match self {
            Ids::List(_) => None,
            Ids::Tensor(tensor) => Some(tensor),
        }
    }

    pub(crate) fn kind(&self) -> IdKind {
        match self {
            Ids::List(list) => list.kind(),
            Ids::Tensor(_) => IdKind::Integer,
        }
    }

    /// 32 bytes for the id of each row, which take the place of a digest in its key.
    pub(crate) fn key_bytes(&self) -> Result<Vec<Key>, TchError> {
        match self {
            Ids::List(list) => Ok(list.key_bytes()),
            Ids::Tensor(tensor) => {
                let tensor = layout::on_cpu(&tensor.f_to_kind(Kind::Int64)?)?;
                let (integers, _) = raw::view(&tensor)?.as_chunks();
                let key_bytes = |&integer: &[u8; 8]| i64::from_le_bytes(integer).key_bytes();
                Ok(integers.iter().map(key_bytes).collect())
            }
        }
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl SampleId for $type {
            const KIND: IdKind = IdKind::Integer;

            fn key_bytes(&self) -> [u8; 32] {
                // Sign-extended, so that equal integers of different types are equal.
                let sign = if i128::try_from(*self).is_ok_and(|id| id < 0) { 0xff } else { 0 };
                let mut key_bytes = [sign; 32];
                let bytes = self.to_le_bytes();
                key_bytes[..bytes.len()].copy_from_slice(&bytes);
                key_bytes
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

impl SampleId for &str {
    const KIND: IdKind = IdKind::Text;

    fn key_bytes(&self) -> [u8; 32] {
        *blake3::hash(self.as_bytes()).as_bytes()
    }
}

impl SampleId for String {
    const KIND: IdKind = IdKind::Text;

    fn key_bytes(&self) -> [u8; 32] {
        self.as_str().key_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_the_same_id_in_every_type() {
        let seven = 7i64.key_bytes();
        assert_eq!(
            [7u8.key_bytes(), 7u128.key_bytes(), 7isize.key_bytes()],
            [seven; 3]
        );
        let tensor = Ids::Tensor(Tensor::from_slice(&[7i16, -1]));
        assert_eq!(tensor.key_bytes().unwrap(), [seven, (-1i128).key_bytes()]);
        assert_ne!((-1i8).key_bytes(), 255u8.key_bytes());
        assert_ne!((-1i64).key_bytes(), u64::MAX.key_bytes());
        assert_ne!((-1i128).key_bytes(), u128::MAX.key_bytes());
        assert_eq!("a".key_bytes(), "a".to_owned().key_bytes());
    }
}
