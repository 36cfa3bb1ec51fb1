//! The module hash names a subdirectory, and this would be one elsewhere.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(persistent = true, persistent_module_hash = "../other")]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
