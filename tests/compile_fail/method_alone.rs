//! The attribute stands on a method.

use tch::Tensor;
use torchcache::torchcache;

struct Backbone;

impl Backbone {
    #[torchcache]
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
