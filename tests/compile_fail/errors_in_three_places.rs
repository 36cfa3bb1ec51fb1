//! A mistake in a struct, in its impl and in a function: three messages and no others.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache(persistant = true)]
#[derive(Debug)]
struct Backbone {
    torchcache: TorchCache,
}

#[torchcache(enabled = true)]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.relu()
    }
}

#[torchcache(eviction = "fifo")]
fn embed(xs: &Tensor) -> Tensor {
    xs.relu()
}

fn use_them(module: &Backbone, xs: &Tensor) -> (Tensor, Tensor) {
    embed_cache().clear();
    (embed(xs), xs.apply(module))
}

fn main() {}
