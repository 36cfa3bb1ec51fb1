//! Rows of different variants do not stand in one batch.
use tch::Tensor;
use torchcache::Batched;

#[derive(Batched)]
enum Encoded {
    Pooled(Tensor),
    Tokens(Vec<Tensor>),
}

fn main() {}
