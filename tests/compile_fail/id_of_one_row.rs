//! One id for a batch.
use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn embed(xs: &Tensor, #[id] id: &str) -> Tensor {
    xs * id.len() as f64
}

fn main() {}
