//! What a body returned, checked and flattened; and why a call may end early.

use tch::{TchError, Tensor};
use torchcache_store::schema::names;

use crate::cache::attach::Refused;
use crate::cache::warnings::Reason;
use crate::error::{Detail, Error};
use crate::output::{Batched, Output, structure};
use crate::tensor::layout;

/// Why a call ends before its output is assembled.
pub(crate) enum Stop<O> {
    /// The output is known: the forward failed, or its output cannot be cached.
    Return(O),
    /// The cache cannot serve this call: the body runs on the whole batch.
    Bypass(Reason),
    Misuse(Error),
}

impl<O> From<Refused> for Stop<O> {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Misuse(error) => Stop::Misuse(error),
            Refused::Bypass(reason) => Stop::Bypass(reason),
        }
    }
}

impl<O> From<Reason> for Stop<O> {
    fn from(reason: Reason) -> Self {
        Stop::Bypass(reason)
    }
}

impl<O> From<TchError> for Stop<O> {
    fn from(error: TchError) -> Self {
        Stop::Bypass(error.into())
    }
}

impl<O> From<Detail> for Stop<O> {
    fn from(detail: Detail) -> Self {
        Stop::Misuse(detail.into())
    }
}

/// The tensors of a body's output for `rows` rows, and the lengths of its vectors.
pub(crate) fn flatten_output<O: Output>(
    output: O,
    rows: i64,
) -> Result<(Vec<Tensor>, Vec<u32>), Stop<O>> {
    let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
    let value = output.into_value().map_err(Stop::Return)?;
    value.flatten(&mut tensors, &mut lengths);
    for (position, tensor) in tensors.iter().enumerate() {
        let got = if tensor.defined() {
            tensor.size()
        } else {
            Vec::new()
        };
        if got.first() != Some(&rows) {
            let mut names = names(&structure::<O>(), &lengths, tensors.len());
            let part = names.swap_remove(position);
            return Err(Detail::OutputRows { part, got, rows }.into());
        }
        if layout::records_gradients(tensor) {
            return Err(Detail::OutputRequiresGrad.into());
        }
    }
    Ok((tensors, lengths))
}
