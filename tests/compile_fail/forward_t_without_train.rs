//! `forward_t` does not say what it is told of training.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache]
impl Backbone {
    fn forward_t(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
