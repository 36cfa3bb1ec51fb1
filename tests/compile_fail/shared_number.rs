//! A plain argument marked `#[shared]`.
use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn scaled(xs: &Tensor, #[shared] factor: f64) -> Tensor {
    xs * factor
}

fn main() {}
