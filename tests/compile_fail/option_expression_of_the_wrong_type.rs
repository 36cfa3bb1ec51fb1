//! Expressions of a type that an option does not take.

use tch::Tensor;
use torchcache::torchcache;

const LEVEL: f64 = 3.0;
const SIZE: char = '5';

#[torchcache(persistent = LEVEL, max_memory_cache_size = SIZE)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
