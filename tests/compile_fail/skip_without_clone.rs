//! A skipped argument that cannot be cloned, and skipped tensors that cannot be cut.
use std::sync::Arc;

use tch::Tensor;
use torchcache::torchcache;

struct Log;

#[torchcache]
fn logged(xs: &Tensor, #[skip] log: Log) -> Tensor {
    xs * 2
}

#[torchcache]
fn summed(xs: &Tensor, #[skip] parts: &Arc<Tensor>) -> Tensor {
    xs * 2
}

fn main() {}
