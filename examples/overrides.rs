//! Options for one instance: `torchcache_<option>` fields win over the attribute's arguments.
//!
//! Look for three things. The two instances have the same type but other weights, so they have
//! other module hashes and never see each other's rows. Each has the options of its own fields;
//! `None` leaves what the attribute says. A field can be changed at any time: once its cache is
//! switched off, the left instance computes every row, and its counters stand still.
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
        let (stats, config) = (self.torchcache.stats(), self.torchcache.config());
        println!(
            "{name}: enabled {}, memory bound {}, stored as {:?}; {} computed, {} from memory",
            config.enabled,
            config.max_memory_cache_size,
            config.cache_dtype,
            stats.misses,
            stats.memory_hits,
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
        assert_eq!(computed.kind(), Kind::Float, "rounded, but in its own kind");
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
