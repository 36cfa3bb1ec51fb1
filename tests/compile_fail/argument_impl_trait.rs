//! An argument whose type is not written out.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn embed(xs: &Tensor, scale: impl Into<f64>) -> Tensor {
    xs * scale.into()
}

fn main() {}
