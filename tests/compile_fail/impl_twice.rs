//! Two annotated impls of one struct, which has one cache.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
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

#[torchcache]
impl Backbone {
    fn forward(&self, xs: &Tensor, scale: f64) -> Tensor {
        xs * scale
    }
}

fn main() {}
