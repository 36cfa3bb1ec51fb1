//! Rounding is for floating point.

use tch::{Kind, Tensor};
use torchcache::torchcache;

#[torchcache(cache_dtype = Kind::Int64)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
