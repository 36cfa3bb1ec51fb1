//! An option is given twice.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(enabled = true, version = "2", enabled = false)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
