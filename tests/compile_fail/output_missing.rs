//! Nothing is returned.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn embed(xs: &Tensor) {
    println!("{xs:?}");
}

fn main() {}
