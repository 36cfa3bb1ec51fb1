//! There is no such option, and none like it.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(colour = "blue")]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
