//! An option of the struct is misspelt.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache(persistant = true)]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
