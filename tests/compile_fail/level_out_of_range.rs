//! A compression level, a number of threads and a number of samples out of range.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(
    persistent = true,
    zstd_compression = true,
    zstd_compression_level = 23,
    zstd_compression_threads = 1000,
    subsample_count = 0
)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
