//! The module is consumed.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache]
impl Backbone {
    fn forward(self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
