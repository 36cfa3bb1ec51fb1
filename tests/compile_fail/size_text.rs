//! A size given as text is parsed while the expansion is compiled, in a generic struct as well.

use tch::{Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache(max_memory_cache_size = "5 GX")]
struct Residual<M> {
    inner: M,
    cache: TorchCache,
}

#[torchcache]
impl<M: nn::Module> Residual<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + self.inner.forward(xs)
    }
}

#[torchcache(persistent = true, max_persistent_cache_size = "0 GB")]
fn embed(xs: &Tensor) -> Tensor {
    xs.relu()
}

#[torchcache(max_memory_cache_size = "big", max_persistent_cache_size = "-1 B")]
fn project(xs: &Tensor) -> Tensor {
    xs.relu()
}

fn main() {}
