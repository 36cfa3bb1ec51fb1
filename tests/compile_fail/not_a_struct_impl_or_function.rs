//! The attribute stands on something that computes nothing.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
enum Mode {
    Mean,
}

#[torchcache]
trait Embed {
    fn embed(&self, tokens: &Tensor) -> Tensor;
}

#[torchcache]
mod backbone {}

#[torchcache]
const LEVEL: i32 = 3;

fn main() {}
