//! What a body returned, checked and flattened; and why a call may end early.

use tch::{TchError, Tensor};
use torchcache_store::schema::names;

use crate::cache::attach::Refused;
use crate::cache::warnings::Reason;
use crate::error::{Detail, Error};
use crate::output::{Batched, Output};
use crate::schema::Unpackable;
use crate::tensor::{layout, raw};

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

/// The tensors of a body's output, and the lengths of its vectors.
#[derive(Debug)]
pub(crate) struct Flattened {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) lengths: Vec<u32>,
}

/// Why an output cannot be cached.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// A part of it does not have the rows of the batch.
    Rows {
        part: String,
        got: Vec<i64>,
    },
    /// It requires grad.
    Gradient,
    Reason(Reason),
}

impl From<TchError> for Unfit {
    fn from(error: TchError) -> Self {
        Unfit::Reason(error.into())
    }
}

impl From<Unpackable> for Unfit {
    fn from(unpackable: Unpackable) -> Self {
        match unpackable {
            Unpackable::Unrepresentable { value, kind } => {
                Unfit::Reason(Reason::Unrepresentable { value, kind })
            }
            Unpackable::Libtorch(error) => error.into(),
        }
    }
}

impl Flattened {
    /// The output of a body, or the failed output as it is.
    pub(crate) fn from_output<O: Output>(output: O) -> Result<Self, O> {
        output.into_value().map(Flattened::from_value)
    }

    pub(crate) fn from_value(value: impl Batched) -> Self {
        let (mut tensors, mut lengths) = (Vec::new(), Vec::new());
        value.flatten_into(&mut tensors, &mut lengths);
        Flattened { tensors, lengths }
    }

    /// The output that it was made from.
    pub(crate) fn into_output<O: Output>(self) -> O {
        let (mut tensors, mut lengths) = (self.tensors.into_iter(), self.lengths.into_iter());
        let value = O::Value::unflatten(&mut tensors, &mut lengths);
        O::from_value(value.expect("tensors fit the value that they were taken from"))
    }

    /// Whether each tensor can be cut into the rows of a batch of `rows`. `structure` is that of the
    /// output type.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn check(&self, structure: &str, rows: i64) -> Result<(), Unfit> {
        if self.tensors.is_empty() {
            return Err(Unfit::Reason(Reason::NoTensors));
        }
        if !self.tensors.iter().all(layout::is_strided) {
            return Err(Unfit::Reason(Reason::OutputLayout));
        }
        for (position, tensor) in self.tensors.iter().enumerate() {
            let got = raw::shape(tensor)?;
            if got.first() != Some(&rows) {
                let mut names = names(structure, &self.lengths, self.tensors.len());
                let part = names.swap_remove(position);
                return Err(Unfit::Rows { part, got });
            }
            if layout::records_gradients(tensor) {
                return Err(Unfit::Gradient);
            }
        }
        Ok(())
    }
}
