//! The example of the README. A test keeps the two equal.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache(persistent = true, persistent_cache_dir = "target/features")]
#[derive(Debug)]
struct Backbone {
    fc: nn::Linear,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc).relu()
    }
}

fn main() {
    tch::manual_seed(0); // the same weights in each run, as if loaded from a file
    let mut vs = nn::VarStore::new(Device::Cpu);
    let fc = nn::linear(vs.root(), 64, 16, Default::default());
    vs.freeze();
    let torchcache = TorchCache::default();
    let backbone = Backbone { fc, torchcache };

    let xs = Tensor::rand([256, 64], (Kind::Float, Device::Cpu));
    let computed = xs.apply(&backbone);
    assert_eq!(computed, xs.apply(&backbone)); // served from memory
    println!("{}", backbone.torchcache.stats());
}
