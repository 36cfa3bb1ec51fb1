//! [`Arguments`]: the arguments of one call, as its keys need them.

use std::mem::take;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::ids::Ids;
use super::padding::{Padding, PaddingValue};
use super::plain::{PlainArguments, PlainDigests, PlainValue};
use crate::error::Detail;
use crate::function::Function;
use crate::identity::Fingerprint;
use crate::tensor::raw;

/// The arguments of one call, in order.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Arguments<'a> {
    /// The tensors that are cut into rows.
    pub(crate) tensors: Vec<TensorArgument>,
    /// Those that are the same for all rows.
    pub(crate) shared: Vec<TensorArgument>,
    /// The ids that rows are keyed by, if not by their content.
    pub(crate) ids: Option<IdArgument<'a>>,
    pub(crate) plain: PlainArguments,
    reader: PlainReader<'a>,
    count: usize,
    /// How many plain values the next argument has, so far.
    plain_parts: usize,
    /// Whether the next argument is marked `#[skip]`.
    is_skipping: bool,
    /// How the next argument is built of tensors and plain values, so far.
    structure: Vec<u8>,
    /// The value with which the next argument is marked `#[padded]`.
    pub(super) padding: Option<PaddingValue>,
}

/// A tensor and the position of its argument. The tensors of a list have the same position.
#[derive(Debug)]
pub(crate) struct TensorArgument {
    pub(crate) position: usize,
    /// It is not part of the keys.
    pub(crate) is_skipped: bool,
    /// What ends its rows, if it is marked `#[padded]`.
    pub(crate) padding: Option<Padding>,
    pub(crate) tensor: Tensor,
}

/// What plain arguments are read for.
#[derive(Debug, Default)]
enum PlainReader<'a> {
    #[default]
    Hash,
    /// They are compared with what a handle knows, and hashed where that is something else.
    Known(&'a PlainDigests),
    Nothing,
}

/// The ids of the rows, and the position of their argument.
#[derive(Debug)]
pub(crate) struct IdArgument<'a> {
    pub(crate) position: usize,
    pub(crate) ids: Ids<'a>,
    /// Rows of any shape have one key.
    pub(crate) any_shape: bool,
}

impl<'a> Arguments<'a> {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No arguments yet, of a call of the handle that knows these digests; `None` for a call that bypasses the cache,
    /// which needs none of plain arguments.
    pub fn of_call(digests: Option<&'a PlainDigests>) -> Self {
        Arguments {
            reader: digests.map_or(PlainReader::Nothing, PlainReader::Known),
            ..Self::default()
        }
    }

    /// Ends an argument: the next one has the next position.
    pub(super) fn next(mut self) -> Self {
        self.add_structure();
        self.count += 1;
        self.plain_parts = 0;
        self.is_skipping = false;
        self.padding = None;
        self
    }

    /// Leaves the next argument out of the keys.
    #[must_use]
    pub fn skipped(mut self) -> Self {
        self.is_skipping = true;
        self
    }

    /// The number of rows, which the tensors, whose shapes are known, and the ids share.
    ///
    /// # Errors
    ///
    /// Neither tensors of the keys nor ids, a 0-d tensor, batch sizes that differ, a tensor that cannot be ids, or that
    /// cannot have padding.
    pub(crate) fn rows(&self, function: &Function) -> Result<i64, Detail> {
        let name = |argument: &TensorArgument| self.name(function, argument);
        let mut first: Option<(&TensorArgument, i64)> = None;
        for argument in &self.tensors {
            let shape = raw::shape(&argument.tensor).unwrap_or_default();
            let Some(&rows) = shape.first() else {
                return Err(Detail::ZeroDimensional {
                    argument: name(argument),
                });
            };
            let (first, first_rows) = *first.get_or_insert((argument, rows));
            if rows != first_rows {
                return Err(Detail::BatchSizes {
                    first: name(first),
                    first_rows,
                    second: name(argument),
                    second_rows: rows,
                });
            }
        }
        self.check_padding(function)?;
        let rows = first.map(|(_, rows)| rows);
        let Some(IdArgument { position, ids, .. }) = &self.ids else {
            let has_key = self.keyed_tensors().next().is_some();
            return rows.filter(|_| has_key).ok_or(Detail::NoTensor);
        };
        let argument = function.argument(*position);
        match (ids.check(&argument)?, rows) {
            (ids, None) => Ok(ids),
            (ids, Some(rows)) if ids == rows => Ok(rows),
            (ids, Some(rows)) => Err(Detail::IdCount {
                argument,
                ids,
                rows,
            }),
        }
    }

    /// The tensors that are cut into rows and whose rows are part of the keys.
    pub(crate) fn keyed_tensors(&self) -> impl Iterator<Item = &TensorArgument> {
        self.tensors.iter().filter(|argument| !argument.is_skipped)
    }

    /// The shared tensors that are part of the keys.
    pub(crate) fn keyed_shared(&self) -> impl Iterator<Item = &TensorArgument> {
        self.shared.iter().filter(|argument| !argument.is_skipped)
    }

    /// The device of each tensor, with the position of its argument.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (usize, Device)> {
        let tensors = self.tensors.iter().chain(&self.shared);
        let defined = tensors.filter(|argument| argument.tensor.defined());
        defined.map(|argument| (argument.position, argument.tensor.device()))
    }

    /// The name of a tensor in messages: `xs`, or `xs[2]` in a list.
    pub(crate) fn name(&self, function: &Function, argument: &TensorArgument) -> String {
        let name = function.argument(argument.position);
        let is_same_list = |other: &&TensorArgument| other.position == argument.position;
        let mut list = self.tensors.iter().filter(is_same_list);
        match list.clone().count() {
            0 | 1 => name,
            _ => {
                let place = list.position(|other| std::ptr::eq(other, argument));
                format!("{name}[{}]", place.unwrap_or_default())
            }
        }
    }

    pub(super) fn set_ids(&mut self, ids: Ids<'a>) {
        self.ids = Some(IdArgument {
            position: self.count,
            ids,
            any_shape: false,
        });
    }

    pub(super) fn plain<T: Fingerprint>(&mut self, value: &T) {
        if let Some(digest) = self.digest(value) {
            self.plain.digests.push((self.count, digest));
        }
    }

    /// The digest of a plain value; `None` where it is not part of the keys.
    fn digest<T: Fingerprint>(&mut self, value: &T) -> Option<[u8; 32]> {
        let value = match self.reader {
            _ if self.is_skipping => return None,
            PlainReader::Nothing => return None,
            PlainReader::Known(known) => known.read((self.count, self.plain_parts), value),
            PlainReader::Hash => PlainValue::hash(value, Arc::default()),
        };
        self.plain_parts += 1;
        let digest = value.digest;
        self.plain.add(self.count, value);
        Some(digest)
    }

    /// The next tensor of an argument.
    pub(super) fn tensor(&mut self, tensor: &Tensor) {
        self.mark(TENSOR);
        self.tensors.push(self.tensor_argument(tensor));
    }

    /// A plain value inside of an argument.
    pub(super) fn plain_part<T: Fingerprint>(&mut self, value: &T) {
        if let Some(digest) = self.digest(value) {
            self.mark(b"=");
            self.mark(&digest);
        }
    }

    /// What is next in the structure of an argument. No two structures may have the same marks.
    pub fn mark(&mut self, mark: &[u8]) {
        self.structure.extend(mark);
    }

    /// A list of so many values is next.
    pub(super) fn mark_list(&mut self, length: usize) {
        self.mark(LIST);
        self.mark(&(length as u64).to_le_bytes());
    }

    /// Adds the structure of an argument, which is a plain argument. That of one tensor is known from its type.
    fn add_structure(&mut self) {
        match &take(&mut self.structure)[..] {
            b"" | TENSOR | b"?1T" => {}
            b"?0" => self.plain(&None::<()>),
            structure => match list_of_tensors(structure) {
                Some(length) => self.plain(&("tensors", length)),
                None if self.is_skipping => {}
                None => {
                    let digest = blake3::derive_key("torchcache argument structure", structure);
                    self.plain.digests.push((self.count, digest));
                }
            },
        }
    }

    pub(super) fn shared_tensors<'t>(
        &mut self,
        tensors: impl ExactSizeIterator<Item = &'t Tensor>,
    ) {
        self.plain(&("shared", tensors.len()));
        tensors.for_each(|tensor| self.shared.push(self.tensor_argument(tensor)));
    }

    fn tensor_argument(&self, tensor: &Tensor) -> TensorArgument {
        TensorArgument {
            position: self.count,
            is_skipped: self.is_skipping,
            padding: self.padding.map(|value| Padding::new(value, tensor)),
            tensor: tensor.shallow_clone(),
        }
    }
}

/// The mark of a tensor.
const TENSOR: &[u8] = b"T";

/// The mark of a list, before its length.
const LIST: &[u8] = b"[";

/// The length of a list, where the structure is that of tensors in a list.
fn list_of_tensors(structure: &[u8]) -> Option<usize> {
    let (length, elements) = structure.strip_prefix(LIST)?.split_first_chunk()?;
    let length = u64::from_le_bytes(*length) as usize;
    (elements == TENSOR.repeat(length)).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else their rows would be computed again.
    #[test]
    fn lists_and_missing_tensors_have_the_digests_that_they_always_had() {
        let tensor = || Tensor::from_slice(&[1i64]);
        let list = [tensor(), tensor(), tensor()];
        let arguments = Arguments::new()
            .with(&&list[0])
            .with(&Some(&list[0]))
            .with(&None::<Tensor>)
            .with(&&list[..2])
            .with(&[&list[0]].as_slice());
        let mut expected = Arguments::new().next().next();
        expected.plain(&None::<()>);
        expected = expected.next();
        expected.plain(&("tensors", 2usize));
        expected = expected.next();
        expected.plain(&("tensors", 1usize));
        assert_eq!(arguments.plain.digests, expected.plain.digests);
        let positions: Vec<_> = arguments.tensors.iter().map(|it| it.position).collect();
        assert_eq!(positions, [0, 1, 3, 3, 4]);
    }

    #[test]
    fn a_skipped_argument_adds_nothing_but_its_tensors() {
        let value = vec![(Some(Tensor::from_slice(&[1i64])), 7i64)];
        let arguments = Arguments::new().skipped().with(&value).with(&value);
        assert_eq!(
            (arguments.tensors.len(), arguments.plain.digests.len()),
            (2, 1)
        );
        assert_eq!(arguments.keyed_tensors().count(), 1);
    }
}
