//! There are two marks for arguments.
use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn embed(xs: &Tensor, #[ids] names: &[&str]) -> Tensor {
    xs * names.len() as f64
}

fn main() {}
