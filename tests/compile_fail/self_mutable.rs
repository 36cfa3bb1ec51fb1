//! The module is changed.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache]
impl Backbone {
    fn forward(&mut self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
