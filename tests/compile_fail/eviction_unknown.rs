//! There is no such policy.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(eviction = "lfu")]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
