//! The field attribute is misspelt.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    #[torchcache(skp)]
    label: String,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
