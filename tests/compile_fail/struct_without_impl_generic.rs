//! The generic struct is annotated and its impl is not.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Residual<M> {
    inner: M,
    torchcache: TorchCache,
}

impl<M: nn::Module> nn::Module for Residual<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + self.inner.forward(xs)
    }
}

fn main() {}
