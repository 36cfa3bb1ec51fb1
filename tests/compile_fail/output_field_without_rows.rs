//! A plain value in an output.
use tch::Tensor;
use torchcache::Batched;

#[derive(Batched)]
struct Encoded {
    pooled: Tensor,
    temperature: f64,
}

fn main() {}
