//! Type errors in a cached body are shown where they are.

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
        let length: usize = xs.size()[0];
        xs.rellu() * length
    }
}

#[torchcache]
fn embed(xs: &Tensor, scale: f64) -> Tensor {
    if scale > 1 {
        return 7;
    }
    xs.relu()
}

fn main() {}
