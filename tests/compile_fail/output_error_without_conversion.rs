//! An error type that a `torchcache::Error` does not convert into.

use tch::Tensor;
use torchcache::torchcache;

#[derive(Debug)]
struct Failure;

#[torchcache]
fn embed(xs: &Tensor) -> Result<Tensor, Failure> {
    if xs.dim() == 2 {
        Ok(xs.relu())
    } else {
        Err(Failure)
    }
}

fn main() {}
