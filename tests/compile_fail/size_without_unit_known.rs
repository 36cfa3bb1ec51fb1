//! A size in a unit that is not known.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(max_memory_cache_size = "5 GX")]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
