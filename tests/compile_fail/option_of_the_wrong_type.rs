//! Literals that the options do not take.

use tch::Tensor;
use torchcache::torchcache;

#[torchcache(
    enabled = "yes",
    memory_cache_device = "cpu",
    max_memory_cache_size = true,
    subsample_count = 0.5,
    persistent = 1,
    persistent_cache_dir = 7,
    zstd_compression_level = "fast",
    cache_dtype = "half",
    version = 2
)]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.relu()
}

fn main() {}
