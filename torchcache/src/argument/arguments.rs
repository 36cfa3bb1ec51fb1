//! [`Arguments`]: the arguments of one call, as its keys need them.

use tch::{Device, Tensor};

use super::ids::Ids;
use crate::error::Detail;
use crate::function::Function;
use crate::identity::{Collector, Fingerprint, Fingerprinter};
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
    /// A digest of every plain argument, with its position and type.
    pub(crate) plain: Vec<(usize, [u8; 32])>,
    /// The position of a plain argument with a tensor whose gradients are recorded.
    pub(crate) plain_gradient: Option<usize>,
    /// A plain argument could not be read, since another thread holds its lock.
    pub(crate) plain_locked: bool,
    /// The position of a plain argument that holds a tensor which cannot be hashed.
    pub(crate) plain_unreadable: Option<usize>,
    count: usize,
    /// Whether the next argument is marked `#[skip]`.
    is_skipping: bool,
}

/// A tensor and the position of its argument. The tensors of a list have the same position.
#[derive(Debug)]
pub(crate) struct TensorArgument {
    pub(crate) position: usize,
    /// It is not part of the keys.
    pub(crate) is_skipped: bool,
    pub(crate) tensor: Tensor,
}

/// The ids of the rows, and the position of their argument.
#[derive(Debug)]
pub(crate) struct IdArgument<'a> {
    pub(crate) position: usize,
    pub(crate) ids: Ids<'a>,
}

impl<'a> Arguments<'a> {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends an argument: the next one has the next position.
    pub(super) fn next(mut self) -> Self {
        self.count += 1;
        self.is_skipping = false;
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
    /// Neither tensors of the keys nor ids, a 0-d tensor, batch sizes that differ, a tensor that cannot be ids.
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
        let rows = first.map(|(_, rows)| rows);
        let Some(IdArgument { position, ids }) = &self.ids else {
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
        let position = self.count;
        self.ids = Some(IdArgument { position, ids });
    }

    pub(super) fn plain<T: Fingerprint>(&mut self, value: &T) {
        if self.is_skipping {
            return;
        }
        let mut collector = Collector::default();
        value.fingerprint(&mut Fingerprinter::hash(&mut collector));
        if collector.records_gradients {
            self.plain_gradient.get_or_insert(self.count);
        }
        if collector.unreadable {
            self.plain_unreadable.get_or_insert(self.count);
        }
        self.plain_locked |= collector.locked;
        self.plain.push((self.count, collector.digest()));
    }

    pub(super) fn tensor(&mut self, tensor: &Tensor) {
        self.tensors.push(self.tensor_argument(tensor));
    }

    pub(super) fn optional_tensor(&mut self, tensor: Option<&Tensor>) {
        match tensor {
            Some(tensor) => self.tensor(tensor),
            // A plain `None` is the same, but the type of the argument is in the identity.
            None => self.plain(&None::<()>),
        }
    }

    /// A list, which may be empty.
    pub(super) fn tensors<'t>(&mut self, tensors: impl ExactSizeIterator<Item = &'t Tensor>) {
        self.plain(&("tensors", tensors.len()));
        tensors.for_each(|tensor| self.tensor(tensor));
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
            tensor: tensor.shallow_clone(),
        }
    }
}
