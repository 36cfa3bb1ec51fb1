//! An output without rows.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn norm(xs: &Tensor) -> f64 {
    xs.norm().double_value(&[])
}

fn main() {}
