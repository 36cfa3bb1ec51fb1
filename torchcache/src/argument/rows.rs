//! What the body of a cached function is run on: all rows of the call, or those that were missed.

use tch::{TchError, Tensor};

use super::ids::SampleIds;
use super::{Argument, Arguments, SharedArgument};

/// The arguments for the rows that are to be computed.
#[doc(hidden)]
#[derive(Debug)]
pub struct Rows {
    /// The tensors that are cut into rows, and where each stands among the arguments.
    tensors: Vec<Tensor>,
    positions: Vec<usize>,
    /// Which rows of the call these are; `None` for all of them.
    chosen: Option<Vec<i64>>,
    /// The ids of the chosen rows, where they are a tensor.
    ids: Option<Tensor>,
    count: i64,
}

impl Rows {
    /// Every row of the call, in the caller's own tensors.
    pub(crate) fn all(arguments: &Arguments) -> Self {
        let tensors = arguments.tensors.iter();
        let first = arguments.tensors.first().map(|first| first.tensor.size());
        let tensor_rows = first.and_then(|size| size.first().copied());
        let id_rows = || arguments.ids.as_ref().map(|argument| argument.ids.count());
        Rows {
            tensors: tensors
                .clone()
                .map(|argument| argument.tensor.shallow_clone())
                .collect(),
            positions: tensors.map(|argument| argument.position).collect(),
            chosen: None,
            ids: None,
            count: tensor_rows.or_else(id_rows).unwrap_or(0),
        }
    }

    /// Some rows, copied together.
    pub(crate) fn selected(arguments: &Arguments, chosen: &[i64]) -> Result<Self, TchError> {
        let index = Tensor::from_slice(chosen);
        let select =
            |tensor: &Tensor| tensor.f_index_select(0, &index.f_to_device(tensor.device())?);
        let tensors = arguments.tensors.iter();
        let ids = arguments.ids.as_ref();
        Ok(Rows {
            tensors: tensors
                .clone()
                .map(|argument| select(&argument.tensor))
                .collect::<Result<_, _>>()?,
            positions: tensors.map(|argument| argument.position).collect(),
            chosen: Some(chosen.to_vec()),
            ids: ids
                .and_then(|argument| argument.ids.tensor())
                .map(select)
                .transpose()?,
            count: chosen.len() as i64,
        })
    }

    /// How many rows there are.
    pub(crate) fn count(&self) -> i64 {
        self.count
    }

    /// The value of the argument at `position` for these rows.
    pub fn argument<'r, A: Argument<'r>>(
        &'r self,
        argument: &A,
        position: usize,
        held: &'r mut A::Held,
    ) -> A {
        argument.rows(self, position, held)
    }

    /// The ids of these rows.
    pub fn id<'r, A: SampleIds<'r>>(&'r self, argument: &A, held: &'r mut A::Held) -> A {
        argument.rows(self, held)
    }

    /// A shared argument, which is the same for all rows.
    pub fn shared<A: SharedArgument>(&self, argument: &A) -> A {
        argument.pass()
    }

    pub(super) fn tensor(&self, position: usize) -> &Tensor {
        let first = self.tensors(position).first();
        first.expect("generated code asks for the arguments it gave")
    }

    /// All that are cut into rows, in the order of the arguments.
    pub(super) fn all_tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The tensors of a list.
    pub(super) fn tensors(&self, position: usize) -> &[Tensor] {
        let begin = self.positions.partition_point(|&at| at < position);
        let end = self.positions.partition_point(|&at| at <= position);
        &self.tensors[begin..end]
    }

    /// Which rows of the call these are; `None` for all of them.
    pub(super) fn chosen(&self) -> Option<&[i64]> {
        self.chosen.as_deref()
    }

    /// The ids of chosen rows, where they are a tensor.
    pub(super) fn ids(&self) -> Option<&Tensor> {
        self.ids.as_ref()
    }
}
