//! The struct is annotated and its impl is not.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    fc: nn::Linear,
    torchcache: TorchCache,
}

impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc)
    }
}

fn main() {}
