//! The impl is annotated and its generic struct is not.

use tch::{Tensor, nn};
use torchcache::torchcache;

#[derive(Debug)]
struct Residual<M> {
    inner: M,
}

#[torchcache]
impl<M: nn::Module> nn::Module for Residual<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + self.inner.forward(xs)
    }
}

fn main() {}
