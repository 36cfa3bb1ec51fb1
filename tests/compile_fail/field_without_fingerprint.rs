//! Fields whose weights and code are opaque, and one of a type of the user.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[derive(Debug)]
struct Scaling {
    by: f64,
}

#[torchcache]
#[derive(Debug)]
struct Backbone {
    layers: nn::Sequential,
    memory: Option<nn::LSTM>,
    scaling: Scaling,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
