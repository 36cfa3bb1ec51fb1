//! Generic functions.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn embed<T: Into<f64> + Copy, const N: usize>(xs: &Tensor, scale: T) -> Tensor {
    xs * (scale.into() * N as f64)
}

fn main() {}
