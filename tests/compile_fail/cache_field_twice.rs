//! The struct has two caches.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
    other: torchcache::TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
