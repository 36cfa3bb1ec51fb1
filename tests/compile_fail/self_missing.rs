//! The function belongs to no instance.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache]
impl Backbone {
    fn forward(xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
