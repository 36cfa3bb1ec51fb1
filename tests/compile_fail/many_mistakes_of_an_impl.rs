//! All mistakes of an impl are said at once.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

#[torchcache]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache(enabled = true)]
impl Backbone {
    async fn forward(&mut self, _scale: f64) {}

    fn forward_t(self, xs: &mut Tensor) -> Tensor {
        xs.relu_()
    }
}

fn main() {}
