//! A module with a field whose impl is not annotated.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Stem {
    fc: nn::Linear,
    torchcache: TorchCache,
}

impl nn::Module for Stem {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc)
    }
}

#[torchcache]
#[derive(Debug)]
struct Backbone {
    stem: Stem,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.stem)
    }
}

fn main() {}
