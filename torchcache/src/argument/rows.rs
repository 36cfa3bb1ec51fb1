//! [`SelectedRows`]: the rows that the body of a cached function runs on, all of the call or the
//! missing ones.

use tch::{TchError, Tensor};

use super::arguments::{Arguments, TensorArgument};
use crate::tensor::rows::RowNumbers;
use crate::tensor::{layout, raw};

/// The arguments for the rows that are to be computed.
#[doc(hidden)]
#[derive(Debug)]
pub struct SelectedRows {
    /// The tensors that are cut into rows, and the position of each one's argument.
    tensors: Vec<Tensor>,
    positions: Vec<usize>,
    /// The rows of the call; `None` for all of them.
    selection: Option<Vec<i64>>,
    /// The ids of the selected rows, if they are a tensor.
    ids: Option<Tensor>,
    count: i64,
    /// That of rows with padding, if it is not the one they have in the call.
    length: Option<i64>,
}

/// The shapes of rows, of each tensor of which keys leave them out.
pub(crate) type RowShapes = Vec<Vec<i64>>;

impl SelectedRows {
    /// All rows of the call, in the caller's own tensors.
    pub(crate) fn all(arguments: &Arguments) -> Self {
        let tensors = arguments.tensors.iter();
        let first = arguments.tensors.first();
        let shape = first.and_then(|first| raw::shape(&first.tensor).ok());
        let tensor_rows = shape.and_then(|shape| shape.first().copied());
        let id_rows = || arguments.ids.as_ref().map(|argument| argument.ids.count());
        SelectedRows {
            tensors: tensors
                .clone()
                .map(|argument| argument.tensor.shallow_clone())
                .collect(),
            positions: tensors.map(|argument| argument.position).collect(),
            selection: None,
            ids: None,
            count: tensor_rows.or_else(id_rows).unwrap_or(0),
            length: None,
        }
    }

    /// Some rows of the call, copied. `length`: that of rows with padding, if it is to be another one.
    pub(crate) fn select(
        arguments: &Arguments,
        rows: &[i64],
        length: Option<i64>,
    ) -> Result<Self, TchError> {
        let mut numbers = RowNumbers::new(rows);
        let tensors = arguments.tensors.iter();
        let ids = arguments.ids.as_ref();
        let copy = |argument: &TensorArgument| match length {
            Some(length) if argument.padding.is_some() => {
                numbers.copy(&argument.of_length(length)?)
            }
            _ => numbers.copy(&argument.tensor),
        };
        Ok(SelectedRows {
            tensors: tensors.clone().map(copy).collect::<Result<_, _>>()?,
            positions: tensors.map(|argument| argument.position).collect(),
            selection: Some(rows.to_vec()),
            ids: ids
                .and_then(|argument| argument.ids.tensor())
                .map(|ids| numbers.copy(ids))
                .transpose()?,
            count: rows.len() as i64,
            length,
        })
    }

    /// The length of rows with padding, if it is not the one they have in the call.
    pub(crate) fn length(&self) -> Option<i64> {
        self.length
    }

    /// The shapes of these rows that keys leave out.
    pub(crate) fn shapes_left_out(&self, arguments: &Arguments) -> RowShapes {
        let tensors = arguments.tensors.iter().zip(&self.tensors);
        let left_out = tensors.filter(|(argument, _)| arguments.leaves_shape_out(argument));
        left_out
            .map(|(_, tensor)| tensor.size()[1..].to_vec())
            .collect()
    }

    /// The versions of the tensors that the body gets: of those that are cut into rows, and where these are
    /// the caller's own, of the shared ones.
    pub(crate) fn versions(&self, arguments: &Arguments) -> Vec<i64> {
        let shared = arguments.shared.iter().map(|argument| &argument.tensor);
        let shared = shared.filter(|_| self.selection.is_none());
        self.tensors
            .iter()
            .chain(shared)
            .map(raw::version)
            .collect()
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> i64 {
        self.count
    }

    /// The tensors of the argument at `position`.
    pub(super) fn tensors(&self, position: usize) -> &[Tensor] {
        let begin = self.positions.partition_point(|&at| at < position);
        let end = self.positions.partition_point(|&at| at <= position);
        &self.tensors[begin..end]
    }

    /// The rows of the call; `None` for all of them.
    pub(super) fn selection(&self) -> Option<&[i64]> {
        self.selection.as_deref()
    }

    /// The ids of the selected rows, if they are a tensor.
    pub(super) fn ids(&self) -> Option<&Tensor> {
        self.ids.as_ref()
    }
}

impl Arguments<'_> {
    /// Whether keys leave out the shapes of rows, or parts of these.
    pub(crate) fn leave_shapes_out(&self) -> bool {
        self.tensors
            .iter()
            .any(|argument| self.leaves_shape_out(argument))
    }

    fn leaves_shape_out(&self, argument: &TensorArgument) -> bool {
        let is_any = || self.ids.as_ref().is_some_and(|ids| ids.any_shape);
        argument.padding.is_some() || !argument.is_skipped && is_any()
    }

    /// Compares rows of the tensors of the keys bit for bit, each of `one` with that of `other` at the same place.
    /// Returns the first tensor and place where they differ.
    pub(crate) fn first_difference(
        &self,
        one: &[i64],
        other: &[i64],
    ) -> Result<Option<(&TensorArgument, usize)>, TchError> {
        for argument in self
            .keyed_tensors()
            .filter(|it| !layout::has_equal_rows(&it.tensor))
        {
            let tensor = &argument.tensor;
            let rows = |numbers: &[i64]| layout::on_cpu(&RowNumbers::new(numbers).read(tensor)?);
            let row_bytes = rows(&one[..1])?.numel() * tensor.f_kind()?.elt_size_in_bytes();
            // Some rows at a time, since they are copied.
            let count = layout::slices_in_part(row_bytes);
            let parts = one.chunks(count).zip(other.chunks(count));
            for (part, (one, other)) in parts.enumerate() {
                let (one, other) = (rows(one)?, rows(other)?);
                let length = row_bytes.max(1);
                let pairs = raw::view(&one)?.chunks(length);
                let mut pairs = pairs.zip(raw::view(&other)?.chunks(length));
                if let Some(place) = pairs.position(|(one, other)| one != other) {
                    return Ok(Some((argument, part * count + place)));
                }
            }
        }
        Ok(None)
    }
}

/// Held for arguments that need no storage. Not `()`, which clippy rejects in a `let`.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Nothing;
