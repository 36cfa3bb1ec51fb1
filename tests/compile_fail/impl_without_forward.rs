//! The impl has no `forward`.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache]
impl Backbone {
    fn infer(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
