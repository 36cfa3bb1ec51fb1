//! The cache and the overrides are never part of the identity.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    #[torchcache(skip)]
    torchcache_enabled: bool,
    #[torchcache(skip)]
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
