//! A plain argument marked `#[padded]`, and a value that no element has.
use tch::Tensor;
use torchcache::torchcache;

#[torchcache]
fn scaled(xs: &Tensor, #[padded(0)] factor: f64) -> Tensor {
    xs * factor
}

#[torchcache]
fn named(#[padded("[PAD]")] xs: &Tensor) -> Tensor {
    xs * 2
}

fn padding() -> i64 {
    0
}

#[torchcache]
fn computed(#[padded(padding())] xs: &Tensor) -> Tensor {
    xs * 2
}

fn main() {}
