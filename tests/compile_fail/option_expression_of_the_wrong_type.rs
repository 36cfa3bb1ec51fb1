//! Expressions whose type the options do not take: only the compiler can see it.

use tch::Tensor;
use torchcache::torchcache;

const LEVEL: f64 = 3.0;
const SIZE: char = '5';

#[torchcache(persistent = LEVEL, max_memory_cache_size = SIZE)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
