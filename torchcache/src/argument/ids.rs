//! The ids of a batch, and what an id may be.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use tch::{Kind, TchError, Tensor};
use torchcache_store::Key;
use torchcache_store::ids::{self, IdBytes, IdKind};

use crate::error::Detail;
use crate::tensor::{layout, raw};

/// The id of a sample: an integer of any size, text (`&str`, `String`), a path (`&Path`, `PathBuf`), bytes (`[u8; N]`,
/// `&[u8]`, `Vec<u8>`), a list of other integers (`Vec<i64>`, `&[u32]`, …), a tuple of up to six of these, or a reference
/// to one. Other types have to be converted to one of these, such as a UUID to a `u128` (`as_u128()`) or its 16 bytes
/// (`as_bytes()`), or a time to a number.
///
/// A sample that is no tensor may be its own id: see [ragged rows](trait@crate::SampleIds#ragged-rows).
///
/// Integers are equal across types, and so are lists of them, text and paths, and bytes. A path counts by its bytes:
/// `a/b` and `./a/b` are two ids. Ids of different kinds are never equal, and neither are tuples whose elements differ:
/// not `("ab", "c")` and `("a", "bc")`.
///
/// ```
/// use tch::Tensor;
/// use torchcache::torchcache;
///
/// /// The features of a view of an image, such as a crop.
/// #[torchcache]
/// fn embed(views: &Tensor, #[id] ids: &[(&str, u8)]) -> Tensor {
///     views * ids.len() as f64
/// }
///
/// let views = Tensor::rand([3, 8], tch::kind::FLOAT_CPU);
/// embed(&views, &[("cat.png", 0), ("cat.png", 1), ("dog.png", 0)]);
/// embed(&views.narrow(0, 1, 1), &[("cat.png", 1)]);
/// assert_eq!(embed_cache().stats().memory.hits, 1);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the id of a sample",
    label = "neither an integer nor text, a path or bytes",
    note = "ids are integers, `&str`, `String`, `&Path`, `PathBuf`, bytes such as `[u8; 16]`, lists of integers, and tuples of these"
)]
pub trait SampleId: Clone {
    #[doc(hidden)]
    const KIND: IdKind;

    /// What its key has of it.
    #[doc(hidden)]
    fn key_bytes(&self) -> IdBytes;
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
    fn key_bytes(&self) -> Vec<IdBytes>;
}

impl<T: SampleId, L: Deref<Target = [T]>> IdList for L {
    fn count(&self) -> usize {
        self.len()
    }

    fn kind(&self) -> IdKind {
        T::KIND
    }

    fn key_bytes(&self) -> Vec<IdBytes> {
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

            fn key_bytes(&self) -> IdBytes {
                let is_negative = i128::try_from(*self).is_ok_and(|id| id < 0);
                ids::integer(&self.to_le_bytes(), is_negative)
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

macro_rules! hashed {
    ($([$($generics:tt)*] $type:ty: $kind:ident, |$id:ident| $bytes:expr;)*) => {$(
        impl<$($generics)*> SampleId for $type {
            const KIND: IdKind = IdKind::$kind;

            fn key_bytes(&self) -> IdBytes {
                let $id = self;
                ids::bytes($bytes)
            }
        }
    )*};
}

macro_rules! lists {
    ($($type:ty)*) => {$(
        impl SampleId for &[$type] {
            const KIND: IdKind = IdKind::Integers;

            fn key_bytes(&self) -> IdBytes {
                ids::integers(self.iter().map(|&integer| integer.into()))
            }
        }

        impl SampleId for Vec<$type> {
            const KIND: IdKind = IdKind::Integers;

            fn key_bytes(&self) -> IdBytes {
                SampleId::key_bytes(&self.as_slice())
            }
        }
    )*};
}

lists! { u16 u32 u64 i8 i16 i32 i64 }

hashed! {
    [] &str: Text, |id| id.as_bytes();
    [] String: Text, |id| id.as_bytes();
    [] &Path: Text, |id| id.as_os_str().as_encoded_bytes();
    [] PathBuf: Text, |id| id.as_os_str().as_encoded_bytes();
    [] &[u8]: Bytes, |id| id;
    [] Vec<u8>: Bytes, |id| id;
    [const N: usize] [u8; N]: Bytes, |id| id;
}

impl<T: SampleId> SampleId for &T {
    const KIND: IdKind = T::KIND;

    fn key_bytes(&self) -> IdBytes {
        T::key_bytes(self)
    }
}

macro_rules! tuples {
    ($(($($type:ident $id:ident),+))*) => {$(
        impl<$($type: SampleId),+> SampleId for ($($type,)+) {
            const KIND: IdKind = IdKind::Tuple;

            fn key_bytes(&self) -> IdBytes {
                let ($($id,)+) = self;
                ids::tuple([$(($type::KIND, $id.key_bytes())),+])
            }
        }
    )*};
}

tuples! {
    (A a) (A a, B b) (A a, B b, C c) (A a, B b, C c, D d) (A a, B b, C c, D d, E e) (A a, B b, C c, D d, E e, F f)
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

    /// What the key of a row has of an id.
    fn key<T: SampleId>(id: T) -> (&'static str, [u8; 32]) {
        (T::KIND.name(), id.key_bytes())
    }

    #[test]
    fn an_id_is_the_same_in_every_type_that_holds_it() {
        let tokens = key(vec![7i64, -1]);
        assert_eq!([key(&[7i32, -1][..]), key(vec![7i8, -1])], [tokens; 2]);
        assert_ne!(key(vec![7u16, u16::MAX]), tokens);
        assert_ne!(key(vec![7i64, -1, 0]), tokens);
        let text = key("a.png");
        assert_eq!(
            [key(Path::new("a.png")), key(PathBuf::from("a.png"))],
            [text; 2]
        );
        assert_eq!(key("a.png".to_owned()), text);
        let bytes = key([1u8, 2]);
        assert_eq!([key(&[1u8, 2][..]), key(vec![1u8, 2])], [bytes; 2]);
        assert_eq!(key(("a.png", 7u8)), key((PathBuf::from("a.png"), &7i64)));
        assert_ne!(key(Path::new("./a.png")), text);
    }

    #[test]
    fn ids_of_tuples_are_the_same_in_every_release() {
        // A golden value: if it changes, rows are computed again.
        assert_eq!(
            blake3::Hash::from_bytes(("train", 7i64, [1u8, 2]).key_bytes())
                .to_hex()
                .as_str(),
            "fd2abf3a36bf766d06289c63c8d15e5463948638d9cb5f9fc8539ae9db801fd2"
        );
    }

    proptest::proptest! {
        /// Of few letters, so that many are equal, or are where they are joined.
        #[test]
        fn ids_are_equal_where_their_values_are(
            [a, b, c, d] in proptest::array::uniform4("[ab\\x00]{0,2}"),
            [m, n] in proptest::array::uniform2(-1i64..2),
        ) {
            use proptest::prop_assert_eq;
            let pairs = [(&a, &b), (&c, &d)];
            prop_assert_eq!(key(pairs[0]) == key(pairs[1]), pairs[0] == pairs[1]);
            let triples = [(&a, m, &b), (&c, n, &d)];
            prop_assert_eq!(key(triples[0]) == key(triples[1]), triples[0] == triples[1]);
            let nested = [((&a, &b), m), ((&c, &d), n)];
            prop_assert_eq!(key(nested[0]) == key(nested[1]), nested[0] == nested[1]);
            let bytes = [(a.as_bytes(), m), (c.as_bytes(), n)];
            prop_assert_eq!(key(bytes[0]) == key(bytes[1]), bytes[0] == bytes[1]);
            // Of types that differ, all do.
            let joined = format!("{a}{b}");
            let mut keys = vec![
                key(joined.as_str()), key(joined.as_bytes()), key((&joined,)), key((joined.as_bytes(),)), key(m),
                key((m,)), key((&a, &b)), key((a.as_bytes(), &b)), key((&a, b.as_bytes())), key(((&a, &b),)),
                key((&a, (&b,))), key(((&a,), &b)), key((&a, &b, "")), key((&a, &b, m)), key(((&a, &b), m)),
                key((&a, (&b, m))), key((m, &a, &b)), key((m, m)), key((m, m, m)), key(vec![m]), key(vec![m, m]),
                key((vec![m],)),
            ];
            let count = keys.len();
            keys.sort();
            keys.dedup();
            prop_assert_eq!(keys.len(), count);
        }
    }
}
