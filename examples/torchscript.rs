//! TorchScript: a `CModule` loaded from a file, cached in two ways.
//!
//! `Cached::new` takes it alone, and so does a field of an annotated struct: its identity is its code, mode,
//! parameters and buffers. The second call with the same rows computes nothing.
//!
//! Run it with `cargo run --example torchscript`.

use std::error::Error;
use std::path::Path;

use tch::{CModule, Device, Kind, Tensor, nn};
use torchcache::{Cached, Options, TorchCache, torchcache};

/// Your own module around a TorchScript module.
#[torchcache]
#[derive(Debug)]
struct Encoder {
    script: CModule,
    scale: f64,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::Module for Encoder {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.script) * self.scale
    }
}

/// Traces a small network and saves it, as Python's `torch.jit.trace` would.
fn save_script(path: &Path) -> Result<(), tch::TchError> {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let net = nn::seq()
        .add(nn::linear(vs.root() / 0, 32, 64, Default::default()))
        .add_fn(Tensor::relu)
        .add(nn::linear(vs.root() / 1, 64, 8, Default::default()));
    vs.freeze();
    let example = Tensor::zeros([1, 32], (Kind::Float, Device::Cpu));
    let mut forward = |inputs: &[Tensor]| vec![inputs[0].apply(&net)];
    CModule::create_by_tracing("Net", "forward", &[example], &mut forward)?.save(path)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("net.pt");
    save_script(&path)?;
    let xs = Tensor::rand([20, 32], (Kind::Float, Device::Cpu));

    let script = Cached::new(CModule::load(&path)?, (), Options::default())?;
    assert_eq!(script.forward(&xs), script.forward(&xs));
    report("Cached::new", script.cache());

    let encoder = Encoder {
        script: CModule::load(&path)?,
        scale: 0.5,
        torchcache: TorchCache::default(),
    };
    assert_eq!(xs.apply(&encoder), xs.apply(&encoder));
    assert_eq!(xs.apply(&encoder), script.forward(&xs) * 0.5);
    report("a field    ", &encoder.torchcache);
    Ok(())
}

fn report(name: &str, cache: &TorchCache) {
    let stats = cache.stats();
    println!(
        "{name}: {} rows computed, {} from memory",
        stats.misses, stats.memory.hits
    );
}
