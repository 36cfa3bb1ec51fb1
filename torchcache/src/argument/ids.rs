//! Parameters marked `#[id]`: rows are keyed by the ids that the caller gives them, and their content
//! is not looked at.

use std::ops::Deref;

use tch::{Kind, TchError, Tensor};

use super::{Nothing, Rows};
use crate::error::Problem;
use crate::key::Key;
use crate::tensor::{layout, raw};

/// The ids of a batch, for a parameter that is marked `#[id]`: `&Tensor` (one dimension of integers), or
/// `&[T]` or `&Vec<T>` of [`SampleId`]s, such as `&[i64]`, `&[&str]` and `&[String]`.
///
/// Rows are then keyed by id, and what they hold is not looked at. So **the id is your word for it**: one
/// id stands for one sample, in every call, every run and every program that has this cache, or the
/// wrong row comes back. Numbers within a data set are no such ids where there are two: row 0 of the
/// training set is not row 0 of the test set. Join the name of the set to them, or pass it as a plain
/// argument. The option `verify` finds ids that are used twice.
///
/// Integers are equal whatever their type is, text and integers never are. The kinds and row shapes of
/// tensors still count, and so do plain and shared arguments: a sample at two resolutions has two rows.
///
/// ```
/// use tch::{Kind, Tensor};
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn embed(images: &Tensor, #[id] names: &[&str]) -> Tensor {
///     assert_eq!(images.size()[0] as usize, names.len());
///     images.mean_dim(-1, true, Kind::Float)
/// }
///
/// let images = Tensor::rand([2, 1000], tch::kind::FLOAT_CPU);
/// let first = embed(&images, &["cat.png", "dog.png"]);
/// assert_eq!(embed(&images.narrow(0, 1, 1), &["dog.png"]), first.narrow(0, 1, 1));
/// assert_eq!(embed::cache().stats().memory_hits, 1);
/// ```
///
/// A function may take ids and no tensor at all, and read what they name: then only samples that are
/// missing are read.
///
/// # Misuse
///
/// As many ids as rows are wanted. Rows of one call with the same id must be equal, bit for bit: the
/// forward would else have to choose. Both are looked at where the cache is asked: not in training, and
/// not while it is switched off.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the ids of a batch",
    label = "no list of ids",
    note = "ids are a `&Tensor`, or a `&[T]` or `&Vec<T>` of integers, `&str` or `String`; of an array, pass `.as_slice()`"
)]
pub trait SampleIds<'r>: Sized {
    #[doc(hidden)]
    type Held: Default;

    #[doc(hidden)]
    fn describe<'a>(&'a self) -> Ids<'a>;

    /// What the body gets: the ids of the rows to compute.
    #[doc(hidden)]
    fn rows(&self, rows: &'r Rows, held: &'r mut Self::Held) -> Self;
}

/// What tells a sample from every other one: an integer of any size, `&str` or `String`. Other types are
/// to be written as one of these; it is implemented for no more.
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
    fn slot(&self) -> [u8; 32];
}

/// What ids are.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    Integer,
    Text,
}

impl IdKind {
    /// What is said of it in every key.
    pub(crate) fn name(self) -> &'static str {
        match self {
            IdKind::Integer => "integer id",
            IdKind::Text => "text id",
        }
    }
}

/// The ids of a call, not looked at yet.
#[doc(hidden)]
#[derive(Debug)]
pub enum Ids<'a> {
    List(&'a dyn List),
    Tensor(Tensor),
}

/// A list of ids, whatever they are.
#[doc(hidden)]
pub trait List {
    fn count(&self) -> usize;
    fn kind(&self) -> IdKind;
    fn slots(&self) -> Vec<[u8; 32]>;
}

impl<T: SampleId, L: Deref<Target = [T]>> List for L {
    fn count(&self) -> usize {
        self.len()
    }

    fn kind(&self) -> IdKind {
        T::KIND
    }

    fn slots(&self) -> Vec<[u8; 32]> {
        self.iter().map(T::slot).collect()
    }
}

impl std::fmt::Debug for dyn List + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ids", self.count())
    }
}

impl Ids<'_> {
    /// How many there are, unless they are none.
    pub(super) fn check(&self, argument: &str) -> Result<i64, Problem> {
        if let Ids::Tensor(tensor) = self {
            use Kind::{Int, Int8, Int16, Int64, Uint8};
            let shape = tensor.size();
            let kind = tensor.f_kind();
            let is_dense = layout::is_plain(tensor);
            if shape.len() != 1
                || !is_dense
                || !matches!(kind, Ok(Uint8 | Int8 | Int16 | Int | Int64))
            {
                let layout = if tensor.defined() && !is_dense {
                    "sparse or quantized "
                } else {
                    ""
                };
                let kind = kind.map_or_else(|error| error.to_string(), |kind| format!("{kind:?}"));
                return Err(Problem::IdTensor {
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
            Ids::Tensor(tensor) => tensor.size().first().copied().unwrap_or(0),
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

    /// For each row 32 bytes that stand for its id.
    pub(crate) fn slots(&self) -> Result<Vec<Key>, TchError> {
        match self {
            Ids::List(list) => Ok(list.slots()),
            Ids::Tensor(tensor) => {
                let tensor = layout::on_cpu(&tensor.f_to_kind(Kind::Int64)?)?;
                let (integers, _) = raw::view(&tensor)?.as_chunks();
                let slot = |&integer: &[u8; 8]| i64::from_le_bytes(integer).slot();
                Ok(integers.iter().map(slot).collect())
            }
        }
    }
}

impl<'r> SampleIds<'r> for &'r Tensor {
    type Held = Nothing;

    fn describe<'a>(&'a self) -> Ids<'a> {
        Ids::Tensor(self.shallow_clone())
    }

    fn rows(&self, rows: &'r Rows, _: &'r mut Nothing) -> Self {
        rows.ids().unwrap_or(self)
    }
}

impl<'r, T: SampleId> SampleIds<'r> for &'r [T] {
    type Held = Vec<T>;

    fn describe<'a>(&'a self) -> Ids<'a> {
        Ids::List(self)
    }

    fn rows(&self, rows: &'r Rows, held: &'r mut Vec<T>) -> Self {
        chosen(self, rows, held).map_or(self, Vec::as_slice)
    }
}

impl<'r, T: SampleId> SampleIds<'r> for &'r Vec<T> {
    type Held = Vec<T>;

    fn describe<'a>(&'a self) -> Ids<'a> {
        Ids::List(*self)
    }

    fn rows(&self, rows: &'r Rows, held: &'r mut Vec<T>) -> Self {
        chosen(self, rows, held).unwrap_or(self)
    }
}

/// The ids of the rows to compute, where those are not all.
fn chosen<'r, T: Clone>(all: &[T], rows: &Rows, held: &'r mut Vec<T>) -> Option<&'r Vec<T>> {
    let chosen = rows.chosen()?.iter();
    held.extend(chosen.map(|&row| all[row as usize].clone()));
    Some(held)
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl SampleId for $type {
            const KIND: IdKind = IdKind::Integer;

            fn slot(&self) -> [u8; 32] {
                // The sign fills what is wider than any integer, so that equal ones are alike.
                let sign = if i128::try_from(*self).is_ok_and(|id| id < 0) { 0xff } else { 0 };
                let mut slot = [sign; 32];
                let bytes = self.to_le_bytes();
                slot[..bytes.len()].copy_from_slice(&bytes);
                slot
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

impl SampleId for &str {
    const KIND: IdKind = IdKind::Text;

    fn slot(&self) -> [u8; 32] {
        *blake3::hash(self.as_bytes()).as_bytes()
    }
}

impl SampleId for String {
    const KIND: IdKind = IdKind::Text;

    fn slot(&self) -> [u8; 32] {
        self.as_str().slot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_the_same_id_in_every_type() {
        let seven = 7i64.slot();
        assert_eq!([7u8.slot(), 7u128.slot(), 7isize.slot()], [seven; 3]);
        let tensor = Tensor::from_slice(&[7i16, -1]);
        assert_eq!(
            (&tensor).describe().slots().unwrap(),
            [seven, (-1i128).slot()]
        );
        assert_ne!((-1i8).slot(), 255u8.slot());
        assert_ne!((-1i64).slot(), u64::MAX.slot());
        assert_ne!((-1i128).slot(), u128::MAX.slot());
        assert_eq!("a".slot(), "a".to_owned().slot());
    }
}
