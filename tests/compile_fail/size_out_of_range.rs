//! Sizes that no cache can have.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(
    max_memory_cache_size = -1,
    max_persistent_cache_size = 0,
    persistent = true
)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
