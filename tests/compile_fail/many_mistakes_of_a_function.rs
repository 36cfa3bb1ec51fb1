//! All mistakes of a function are said at once.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(max_memory_cache_size = "5 GX", verson = "1", persistent)]
unsafe fn embed<T>(tokens: &mut Tensor, scale: impl Into<f64>) -> &Tensor {
    *tokens *= scale.into();
    tokens
}

fn main() {}
