//! Parameters marked `#[id]`: rows are keyed by the ids that the caller gives them, and their content
//! is not looked at.

use tch::{Kind, TchError, Tensor};

use super::{Nothing, Rows};
use crate::error::Problem;
use crate::keys::Key;
use crate::{plain, raw};

/// The ids of a batch, for a parameter that is marked `#[id]`: `&Tensor` (one dimension of integers),
/// `&[T]` or `&Vec<T>` of [`SampleId`]s, such as `&[i64]`, `&[&str]` and `&[String]`.
///
/// Rows are then keyed by id, and no tensor is hashed. One id stands for one sample, for as long as the
/// identity stays: what a sample holds must not change without its id. Integers are equal whatever
/// their type is, text and integers never are. The kinds and row shapes of tensors still count, and so
/// do plain and shared arguments: a sample at two resolutions has two rows.
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
/// forward would else have to choose. (Across calls nobody can tell; the option `verify` does.)
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the ids of a batch",
    label = "no list of ids",
    note = "a parameter marked `#[id]` is `&Tensor`, or `&[T]` or `&Vec<T>` of integers, `&str` or `String`"
)]
pub trait SampleIds<'r>: Sized {
    #[doc(hidden)]
    type Held: Default;

    #[doc(hidden)]
    fn describe(&self) -> Ids;

    /// What the body gets: the ids of the rows to compute.
    #[doc(hidden)]
    fn rows(&self, rows: &'r Rows, held: &'r mut Self::Held) -> Self;
}

/// What tells a sample from every other one: an integer of any size, `&str` or `String`.
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

/// The ids of a call.
#[doc(hidden)]
#[derive(Debug)]
pub struct Ids(Given);

#[derive(Debug)]
enum Given {
    Slots(IdKind, Vec<Key>),
    Tensor(Tensor),
}

impl Ids {
    /// How many there are, unless they are none.
    pub(super) fn check(&self, argument: &str) -> Result<i64, Problem> {
        if let Given::Tensor(tensor) = &self.0 {
            use Kind::{Int, Int8, Int16, Int64, Uint8};
            let shape = tensor.size();
            let kind = tensor.f_kind();
            if shape.len() != 1 || !matches!(kind, Ok(Uint8 | Int8 | Int16 | Int | Int64)) {
                let kind = kind.map_or_else(|error| error.to_string(), |kind| format!("{kind:?}"));
                return Err(Problem::IdTensor {
                    argument: argument.to_owned(),
                    got: format!("{kind} of shape {shape:?}"),
                });
            }
        }
        Ok(self.count())
    }

    pub(super) fn count(&self) -> i64 {
        match &self.0 {
            Given::Slots(_, slots) => slots.len() as i64,
            Given::Tensor(tensor) => tensor.size().first().copied().unwrap_or(0),
        }
    }

    pub(super) fn tensor(&self) -> Option<&Tensor> {
        match &self.0 {
            Given::Slots(..) => None,
            Given::Tensor(tensor) => Some(tensor),
        }
    }

    pub(crate) fn kind(&self) -> IdKind {
        match &self.0 {
            Given::Slots(kind, _) => *kind,
            Given::Tensor(_) => IdKind::Integer,
        }
    }

    /// For each row 32 bytes that stand for its id.
    pub(crate) fn slots(&self) -> Result<Vec<Key>, TchError> {
        match &self.0 {
            Given::Slots(_, slots) => Ok(slots.clone()),
            Given::Tensor(tensor) => {
                let tensor = plain::on_cpu(&tensor.f_to_kind(Kind::Int64)?)?;
                let (integers, _) = raw::view(&tensor)?.as_chunks();
                let slot = |&integer: &[u8; 8]| i64::from_le_bytes(integer).slot();
                Ok(integers.iter().map(slot).collect())
            }
        }
    }

    fn of<T: SampleId>(ids: &[T]) -> Ids {
        Ids(Given::Slots(T::KIND, ids.iter().map(T::slot).collect()))
    }
}

impl<'r> SampleIds<'r> for &'r Tensor {
    type Held = Nothing;

    fn describe(&self) -> Ids {
        Ids(Given::Tensor(self.shallow_clone()))
    }

    fn rows(&self, rows: &'r Rows, _: &'r mut Nothing) -> Self {
        rows.ids().unwrap_or(self)
    }
}

impl<'r, T: SampleId> SampleIds<'r> for &'r [T] {
    type Held = Vec<T>;

    fn describe(&self) -> Ids {
        Ids::of(self)
    }

    fn rows(&self, rows: &'r Rows, held: &'r mut Vec<T>) -> Self {
        match chosen(self, rows) {
            None => self,
            Some(chosen) => {
                *held = chosen;
                held
            }
        }
    }
}

impl<'r, T: SampleId> SampleIds<'r> for &'r Vec<T> {
    type Held = Vec<T>;

    fn describe(&self) -> Ids {
        Ids::of(self)
    }

    fn rows(&self, rows: &'r Rows, held: &'r mut Vec<T>) -> Self {
        match chosen(self, rows) {
            None => self,
            Some(chosen) => {
                *held = chosen;
                held
            }
        }
    }
}

fn chosen<T: SampleId>(ids: &[T], rows: &Rows) -> Option<Vec<T>> {
    let chosen = rows.chosen()?.iter();
    Some(chosen.map(|&row| ids[row as usize].clone()).collect())
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
