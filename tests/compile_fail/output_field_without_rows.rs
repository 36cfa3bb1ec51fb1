//! What is the same for all rows is no part of an output.
use tch::Tensor;
use torchcache::Batched;

#[derive(Batched)]
struct Encoded {
    pooled: Tensor,
    temperature: f64,
}

fn main() {}
