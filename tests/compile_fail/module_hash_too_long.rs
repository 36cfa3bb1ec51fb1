//! The module hash is longer than a directory may be called.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(
    persistent = true,
    persistent_module_hash = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
