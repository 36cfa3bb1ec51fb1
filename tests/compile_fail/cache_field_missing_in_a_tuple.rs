//! The tuple struct has no field for its cache.

use tch::{Tensor, nn};
use torchcache::torchcache;

#[torchcache]
#[derive(Debug)]
struct Backbone(nn::Linear);

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.0)
    }
}

fn main() {}
