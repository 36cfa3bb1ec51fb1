//! Changes of weights: when rows stop being hits, and when they are hits again.
//!
//! A weight is edited in place. Look for the log line that says what changed: `the weights of
//! 'fc.ws' changed; fields and options did not`. Every row is then computed again. With the old
//! weight back, the old rows are hits again: nothing was deleted.
//!
//! Run it with `cargo run --example invalidation`.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor, nn};
use torchcache::{TorchCache, torchcache};

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Backbone {
    fc: nn::Linear,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.fc).relu()
    }
}

impl Backbone {
    /// Runs the batch and prints where its rows came from.
    fn run(&self, xs: &Tensor, when: &str) -> Tensor {
        let before = self.torchcache.stats();
        let features = xs.apply(self);
        let after = self.torchcache.stats();
        println!(
            "{when}: {} rows computed, {} hits",
            after.misses - before.misses,
            after.hits() - before.hits()
        );
        features
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // torchcache logs with `tracing`.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .without_time()
        .with_ansi(false)
        .init();

    let directory = tempfile::tempdir()?;
    let mut vs = nn::VarStore::new(Device::Cpu);
    let backbone = Backbone {
        fc: nn::linear(vs.root(), 16, 8, Default::default()),
        torchcache_persistent_cache_dir: directory.path().to_owned(),
        torchcache: TorchCache::default(),
    };
    vs.freeze();
    let xs = Tensor::rand([10, 16], (Kind::Float, Device::Cpu));

    let first = backbone.run(&xs, "a new cache");
    let second = backbone.run(&xs, "the same rows");
    assert_eq!(first, second);

    // An alias of the weight, and a copy of its values.
    let mut weight = backbone.fc.ws.shallow_clone();
    let original = weight.copy();
    let _ = tch::no_grad(|| weight.g_mul_scalar_(2.0));
    let doubled = backbone.run(&xs, "an edited weight");
    assert_ne!(first, doubled);

    tch::no_grad(|| weight.copy_(&original));
    let again = backbone.run(&xs, "the old weight");
    assert_eq!(first, again);
    Ok(())
}
