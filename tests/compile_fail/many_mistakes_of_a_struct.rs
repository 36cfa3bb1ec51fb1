//! All mistakes of a struct are said at once.

use tch::{Tensor, nn};
use torchcache::torchcache;

#[torchcache(
    persistant = true,
    enabled = 3,
    zstd_compression = true,
    eviction = "lur"
)]
#[derive(Debug)]
struct Backbone {
    #[torchcache(skp)]
    label: String,
    torchcache_versoin: String,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

fn main() {}
