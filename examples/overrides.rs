//! Options of one instance: `torchcache_<option>` fields override the attribute's arguments.
//!
//! The two instances have the same type but different weights, so their module hashes differ and they
//! share no rows. Each has the options of its fields; `None` is the attribute's value. Fields can change
//! at any time: once its cache is disabled, the left instance computes every row and counts nothing.
//!
//! Run it with `cargo run --example overrides`.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache(max_memory_cache_size = "100 MB", eviction = "lru")]
#[derive(Debug)]
struct Encoder {
    fc: nn::Linear,
    torchcache_enabled: bool,
    torchcache_max_memory_cache_size: Option<&'static str>,
    torchcache_cache_dtype: Option<Kind>,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Encoder {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc).tanh()
    }
}

impl Encoder {
    fn new(path: nn::Path<'_>) -> Self {
        Encoder {
            fc: nn::linear(path, 16, 4, Default::default()),
            torchcache_enabled: true,
            torchcache_max_memory_cache_size: None,
            torchcache_cache_dtype: None,
            torchcache: TorchCache::default(),
        }
    }

    fn report(&self, name: &str) {
        let (stats, options) = (self.torchcache.stats(), self.torchcache.effective_options());
        println!(
            "{name}: enabled {}, memory bound {}, stored as {:?}; {} computed, {} from memory",
            options.enabled(),
            options.max_memory_cache_size(),
            options.cache_dtype(),
            stats.misses,
            stats.memory.hits,
        );
    }
}

fn main() {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let mut left = Encoder::new(vs.root() / "left");
    let mut right = Encoder::new(vs.root() / "right");
    right.torchcache_max_memory_cache_size = Some("2 MB");
    right.torchcache_cache_dtype = Some(Kind::Half);
    vs.freeze();

    let xs = Tensor::rand([10, 16], (Kind::Float, Device::Cpu));
    for encoder in [&left, &right] {
        let computed = xs.apply(encoder);
        assert_eq!(computed, xs.apply(encoder));
        assert_eq!(
            computed.kind(),
            Kind::Float,
            "rounded, in the kind of the module"
        );
    }
    left.report("left ");
    right.report("right");
    assert_ne!(
        left.torchcache.module_hash(),
        right.torchcache.module_hash()
    );

    left.torchcache_enabled = false;
    let _ = xs.apply(&left);
    left.report("left ");
}
