//! A generic module whose parameter has no fingerprint.

use tch::nn::Module;
use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Residual<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: nn::Module> nn::Module for Residual<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + self.inner.forward(xs)
    }
}

fn features(module: &Residual<nn::Sequential>, xs: &Tensor) -> Tensor {
    nn::Module::forward(module, xs)
}

fn method(module: &Residual<nn::Sequential>, xs: &Tensor) -> Tensor {
    module.forward(xs)
}

fn owned(module: Residual<nn::Sequential>, xs: &Tensor) -> Tensor {
    module.forward(xs)
}

fn main() {}
