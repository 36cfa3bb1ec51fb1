//! A size beyond the largest whole number.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(max_memory_cache_size = 1e30)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
