//! The struct has no field for its cache.

use tch::{Tensor, nn};
use torchcache::torchcache;

#[torchcache]
#[derive(Debug)]
struct Backbone {
    fc: nn::Linear,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc)
    }
}

fn main() {}
