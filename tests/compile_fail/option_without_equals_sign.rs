//! An option is written like a call.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(persistent(true))]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
