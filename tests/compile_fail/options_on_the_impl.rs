//! The options stand on the impl.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache(persistent = true)]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
