//! [`PaddedArgument`]: parameters marked `#[padded(v)]`, tensors whose rows end in padding of the value `v`.

use tch::{TchError, Tensor};

use super::Argument;
use super::arguments::{Arguments, TensorArgument};
use super::padding::{PaddingElement, lengths_by_libtorch, lengths_on_host};
use crate::error::Detail;
use crate::function::Function;
use crate::tensor::{layout, raw};

/// A tensor that a parameter marked `#[padded(v)]` takes: `&Tensor`, `Tensor`, `Option<&Tensor>`, `Option<Tensor>`,
/// `&[Tensor]` or `&[&Tensor]`, of the shape `[rows, length, …]`, of integers, floats or `bool`.
///
/// Rows of different lengths, such as the tokens of texts, are one tensor once each ends in padding. How much of it
/// depends on the other rows of the batch, so without the mark a text has another key in most batches. With it, the
/// elements `v` that end a row are not part of its key, and the body gets the missing rows cut to the longest one of
/// these. **You guarantee that no output depends on the padding**, beyond rounding, as where it is masked: a row that
/// was computed with some padding is a hit for the same row with more of it or less.
///
/// All tensors with this mark are cut to one length, and have one in each call. The length of a row is that of the tensor
/// which needs the most, so that none loses an element that is not padding. Rows that are padding are one element long,
/// and the body gets two at least, where the batch has them. Mark every tensor with an element for each token.
///
/// ```
/// use tch::{Kind, Tensor};
/// use torchcache::torchcache;
///
/// /// The mean over the tokens of a text.
/// #[torchcache]
/// fn embed(#[padded(0)] ids: &Tensor, #[padded(0)] mask: &Tensor) -> Tensor {
///     (ids * mask).sum_dim_intlist(1, true, Kind::Float) / mask.sum_dim_intlist(1, true, Kind::Float)
/// }
///
/// let ids = Tensor::from_slice(&[7i64, 5, 3, 9, 0, 0]).view([2, 3]);
/// embed(&ids, &ids.not_equal(0));
/// // The second text again, padded to another length.
/// let ids = Tensor::from_slice(&[9i64, 0, 0, 0, 0]).view([1, 5]);
/// embed(&ids, &ids.not_equal(0));
/// assert_eq!(embed_cache().stats().memory.hits, 1);
/// ```
///
/// The value is an integer, a float or a `bool`, a literal or a constant, that the tensor's elements can have: an integer
/// stands for the same float as well. Elements are compared bit for bit: `-0.0` is not padding of the value `0.0`, and a
/// NaN is padding of the value `f32::NAN` if it has the same bits. Where a row has several elements at each place, as in
/// `[rows, length, features]`, all of them have to be padding.
///
/// # Outputs
///
/// The shape of an output row must not follow the length. To find out, the first call that computes rows runs the body
/// once more, on two rows of another length, and one that is longer or shorter than all before may do so again. Where
/// the shapes differ, calls bypass the cache, with a warning.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a padded argument",
    label = "not a tensor",
    note = "a parameter marked `#[padded(…)]` is `&Tensor`, `Option<&Tensor>` or `&[Tensor]`, of the shape [rows, length, …]"
)]
pub trait PaddedArgument<'r>: Argument<'r> {}

impl<'a> Arguments<'a> {
    /// Adds an argument that is marked `#[padded(value)]`.
    #[must_use]
    pub fn with_padded<'r, A: PaddedArgument<'r>>(
        mut self,
        argument: &A,
        value: impl PaddingElement,
    ) -> Self {
        self.padding = Some(value.value());
        argument.describe(&mut self);
        self.next()
    }

    /// The tensors with padding, and one element of it.
    fn padded(&self) -> impl Iterator<Item = (&TensorArgument, &Tensor)> {
        self.tensors
            .iter()
            .filter_map(|argument| Some((argument, argument.padding_element()?)))
    }

    /// The length of the rows with padding, of which all marked tensors have one; `None` without marks.
    pub(crate) fn padded_length(&self) -> Option<i64> {
        let (first, _) = self.padded().next()?;
        first.tensor.size().get(1).copied()
    }

    /// Validates the tensors with padding.
    pub(super) fn check_padding(&self, function: &Function) -> Result<(), Detail> {
        let mut first: Option<(&TensorArgument, i64)> = None;
        for argument in &self.tensors {
            let Some(padding) = &argument.padding else {
                continue;
            };
            let name = self.name(function, argument);
            let shape = raw::shape(&argument.tensor).unwrap_or_default();
            let Some(&length) = shape.get(1) else {
                return Err(Detail::PaddedShape {
                    argument: name,
                    shape,
                });
            };
            if padding.element.is_none() {
                return Err(Detail::PaddingValue {
                    argument: name,
                    value: padding.value.to_string(),
                    kind: argument.tensor.kind(),
                });
            }
            let (first, first_length) = *first.get_or_insert((argument, length));
            if length != first_length {
                return Err(Detail::PaddedLengths {
                    first: self.name(function, first),
                    first_length,
                    second: name,
                    second_length: length,
                });
            }
        }
        Ok(())
    }

    /// The length of each row in the keys: that of the tensor which needs the most. `None` where the keys have no tensor
    /// with padding.
    pub(crate) fn row_lengths(&self) -> Result<Option<Vec<i64>>, TchError> {
        self.lengths(|argument| !argument.is_skipped)
    }

    /// The length to which some rows can be cut; `None` where that is the one they have.
    pub(crate) fn cut_length(&self, rows: &[i64]) -> Result<Option<i64>, TchError> {
        // A dimension of one would be broadcast against that of a tensor which should have been marked; all others fail.
        const LEAST: i64 = 2;
        let (Some(whole), Some(lengths)) = (self.padded_length(), self.lengths(|_| true)?) else {
            return Ok(None);
        };
        let longest = rows.iter().map(|&row| lengths[row as usize]).max();
        let longest = longest.unwrap_or(whole).max(LEAST);
        Ok(Some(longest).filter(|&longest| longest < whole))
    }

    /// A row, and another length than `length` at which the body can run on it: its own, where there is a shorter one;
    /// or else one less or, of short rows, more.
    pub(crate) fn other_length(&self, length: i64) -> Result<Option<(i64, i64)>, TchError> {
        let lengths = self.lengths(|_| true)?.unwrap_or_default();
        let shortest = (0..).zip(lengths).min_by_key(|&(_, length)| length);
        Ok(shortest.map(|(row, shortest)| {
            let other = match shortest.max(2) {
                shortest if shortest < length => shortest,
                _ if length > 2 => length - 1,
                _ => length + 1,
            };
            (row, other)
        }))
    }

    /// The length of each row without its padding, of the tensors that are counted. One copy brings those of a device.
    fn lengths(
        &self,
        is_counted: impl Fn(&TensorArgument) -> bool,
    ) -> Result<Option<Vec<i64>>, TchError> {
        let (mut lengths, mut elsewhere): (Option<Vec<i64>>, Vec<Tensor>) = Default::default();
        let mut add = |more: Vec<i64>| match &mut lengths {
            Some(lengths) => {
                let pairs = lengths.iter_mut().zip(more);
                pairs.for_each(|(length, more)| *length = more.max(*length));
            }
            None => lengths = Some(more),
        };
        for (argument, element) in self.padded().filter(|(argument, _)| is_counted(argument)) {
            match lengths_on_host(&argument.tensor, element)? {
                Some(lengths) => add(lengths),
                None => elsewhere.push(lengths_by_libtorch(&argument.tensor, element)?),
            }
        }
        if let Some(first) = elsewhere.first() {
            let device = first.device();
            let all = elsewhere.iter().map(|lengths| lengths.f_to_device(device));
            let all = Tensor::f_stack(&all.collect::<Result<Vec<_>, _>>()?, 0)?;
            add(Vec::try_from(&layout::on_cpu(&all.f_amax(0, false)?)?)?);
        }
        let least = self.padded_length().unwrap_or_default().min(1);
        let at_least = |length: i64| length.max(least);
        Ok(lengths.map(|lengths| lengths.into_iter().map(at_least).collect()))
    }
}

impl TensorArgument {
    fn padding_element(&self) -> Option<&Tensor> {
        self.padding.as_ref()?.element.as_ref()
    }

    /// The bytes of an element of its padding, if it has any.
    pub(crate) fn padding_bytes(&self) -> Option<&[u8]> {
        raw::view(self.padding_element()?).ok()
    }

    /// The tensor with rows of this length, which have padding: cut, or with more of it.
    pub(super) fn of_length(&self, length: i64) -> Result<Tensor, TchError> {
        let mut shape = raw::shape(&self.tensor)?;
        let missing = length - shape[1];
        let Some(element) = self.padding_element().filter(|_| missing > 0) else {
            return self.tensor.f_narrow(1, 0, length);
        };
        shape[1] = missing;
        let padding = element.f_to_device(self.tensor.device())?;
        Tensor::f_cat(&[&self.tensor, &padding.f_expand(shape, false)?], 1)
    }
}

macro_rules! padded_arguments {
    ($($type:ty)*) => {$(impl<'r> PaddedArgument<'r> for $type {})*};
}

padded_arguments! {
    &'r Tensor
    Tensor
    Option<&'r Tensor>
    Option<Tensor>
    &'r [Tensor]
    &'r [&'r Tensor]
}
