//! An impl of `nn::Module`: arguments, identity, options.

use super::*;
use crate::__private::{CachedStruct, Device, Kind, Overrides, Tensor, TorchCache};
use torchcache_macros::torchcache;

const LEVEL: i32 = 4;

#[torchcache(
    persistent = true,
    max_memory_cache_size = 5_000_000_000,
    max_persistent_cache_size = 5e12,
    persistent_cache_dir = "features",
    memory_cache_device = Device::Cpu,
    cache_dtype = Kind::Half,
    eviction = "never",
    zstd_compression = true,
    zstd_compression_level = LEVEL,
    subsample_count = 7,
)]
#[derive(Debug)]
struct Scale {
    by: f64,
    #[torchcache(skip)]
    label: &'static str,
    #[cfg(any())]
    never: NoSuchType,
    torchcache_enabled: bool,
    handle: TorchCache,
}

#[torchcache]
impl nn::Module for Scale {
    fn forward(&self, xs: &Tensor) -> Tensor {
        'rows: loop {
            for x in &xs.0 {
                if x.is_nan() {
                    return Tensor(Vec::new());
                }
                if *x > 0.0 {
                    break 'rows;
                }
            }
        }
        Tensor(xs.0.iter().map(|x| x * self.by).collect())
    }
}

#[test]
fn a_call_passes_its_arguments_and_runs_the_body() {
    use nn::Module;
    let module = Scale {
        by: 2.0,
        label: "a",
        torchcache_enabled: false,
        handle: TorchCache::default(),
    };
    assert_eq!(module.label, "a");
    assert_eq!(module.forward(&Tensor(vec![1.0])), Tensor(vec![2.0]));
    assert_eq!(
        seen(),
        [
            "expansions::module::Scale forward",
            "xs = Tensor([1.0])",
            "row argument 0"
        ]
    );
}

#[test]
fn the_identity_has_the_fields_and_the_functions() {
    let module = Scale {
        by: 2.0,
        label: "a",
        torchcache_enabled: false,
        handle: TorchCache::default(),
    };
    assert_eq!(
        identity(&module),
        ["module::Scale", "fn forward", "by", "2.0"]
    );
    let mut overrides = Vec::new();
    module.overrides(&mut Overrides(&mut overrides));
    assert_eq!(overrides, ["enabled false"]);
}

#[test]
fn options_reach_the_builder_in_order_and_with_types() {
    assert_eq!(
        Scale::options().0,
        [
            "persistent true",
            "max_memory_cache_size 5000000000",
            "max_persistent_cache_size 5000000000000.0",
            "persistent_cache_dir \"features\"",
            "memory_cache_device Cpu",
            "cache_dtype Half",
            "eviction Never",
            "zstd_compression true",
            "zstd_compression_level 4",
            "subsample_count 7",
        ]
    );
}
