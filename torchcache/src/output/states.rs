//! Recurrent states. Their batch is the second dimension, `[layers, batch, size]`: a row has all layers.

use tch::{Tensor, nn};

use super::Batched;
use crate::tensor::layout;

impl Batched for nn::GRUState {
    fn structure(text: &mut String) {
        text.push_str("{h:T}");
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, _: &mut Vec<u32>) {
        tensors.push(layout::batch_first(&self.0));
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        _: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        Some(nn::GRUState(layout::layers_first(&tensors.next()?)))
    }
}

impl Batched for nn::LSTMState {
    fn structure(text: &mut String) {
        text.push_str("{h:T,c:T}");
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, _: &mut Vec<u32>) {
        let (h, c) = self.0;
        tensors.extend([h, c].map(|state| layout::batch_first(&state)));
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        _: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        let (h, c) = (tensors.next()?, tensors.next()?);
        Some(nn::LSTMState((
            layout::layers_first(&h),
            layout::layers_first(&c),
        )))
    }
}
