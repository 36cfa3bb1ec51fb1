//! Trains a linear head on the features of a frozen ResNet-18 on a GPU, in bf16, with the rows of the cache in
//! the GPU's memory: from the second epoch on, no image is computed and no feature leaves the GPU.
//!
//! Look for the times of the epochs with and without the cache, and for the table of `stats()`. The program fails
//! if a feature changes between epochs. Without a CUDA device it says so and runs on the CPU, in f32 with fewer
//! and smaller images.
//!
//! Run it with `TORCHCACHE_LINK_CUDA=1 cargo run --release --example cuda`: your own program links libtorch_cuda by
//! the second line of the `build.rs` in the README.

#[path = "transfer_learning/data.rs"]
#[expect(dead_code, reason = "another example also tests on images")]
mod data;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::vision::resnet::resnet18_no_final_layer;
use tch::{Cuda, Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};
use torchcache_examples::seconds;

use data::{Data, Images};

const EPOCHS: usize = 3;
const BATCH: i64 = 64;

/// `memory_cache_device = None` keeps rows where the forward left them. The bound is of the GPU's memory then:
/// leave the model, its activations and the optimiser their share.
#[torchcache(memory_cache_device = None, max_memory_cache_size = "1 GB")]
#[derive(Debug)]
struct Backbone {
    /// Its weights are private; the hash gets them from `vs`.
    #[torchcache(skip)]
    resnet: nn::FuncT<'static>,
    vs: nn::VarStore,
    /// Pixels that images are scaled to.
    side: i64,
    torchcache_enabled: bool,
    torchcache: TorchCache,
}

#[torchcache]
impl nn::ModuleT for Backbone {
    /// `[B, 1, H, W]` bytes in, `[B, 512]` features out.
    fn forward_t(&self, images: &Tensor, train: bool) -> Tensor {
        let grey = images.to_kind(self.vs.kind()) / 255.0;
        let large = grey.upsample_bilinear2d([self.side, self.side], false, None, None);
        let rgb = large.expand([-1, 3, -1, -1], false);
        self.resnet.forward_t(&rgb, train)
    }
}

impl Backbone {
    fn new(device: Device, kind: Kind, side: i64) -> Self {
        tch::manual_seed(1); // in place of weights from a file
        let mut vs = nn::VarStore::new(device);
        let resnet = resnet18_no_final_layer(&vs.root());
        vs.set_kind(kind);
        // A cached output has no gradient.
        vs.freeze();
        Backbone {
            resnet,
            vs,
            side,
            torchcache_enabled: true,
            torchcache: TorchCache::default(),
        }
    }
}

/// Trains a head, and returns the time of each epoch. Fails if features differ from those of the first one.
fn train(backbone: &Backbone, images: &Images) -> Result<Vec<Duration>> {
    let device = backbone.vs.device();
    let vs = nn::VarStore::new(device);
    let head = nn::linear(vs.root(), 512, 10, Default::default());
    let mut optimizer = nn::Adam::default().build(&vs, 1e-3)?;
    // On the GPU, from which the cache copies them to hash them, unless it hashes them there.
    let (pixels, labels) = (
        images.pixels.to_device(device),
        images.labels.to_device(device),
    );
    let mut first: Option<Tensor> = None;
    let mut epochs = Vec::new();
    for _ in 0..EPOCHS {
        synchronize(device);
        let start = Instant::now();
        let mut features = Vec::new();
        for (pixels, labels) in pixels.split(BATCH, 0).iter().zip(labels.split(BATCH, 0)) {
            let rows = backbone.forward_t(pixels, false);
            let scores = rows.to_kind(Kind::Float).apply(&head);
            optimizer.backward_step(&scores.cross_entropy_for_logits(&labels));
            features.push(rows);
        }
        synchronize(device);
        epochs.push(start.elapsed());
        let features = Tensor::cat(&features, 0);
        let first = first.get_or_insert_with(|| features.shallow_clone());
        ensure!(features.equal(first), "features changed between epochs");
    }
    Ok(epochs)
}

/// A call on a GPU returns before the GPU has done its work: a clock must wait for it.
fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

fn main() -> Result<()> {
    let (device, kind, side, limit) = match Cuda::is_available() {
        true => (Device::Cuda(0), Kind::BFloat16, 224, None),
        false => {
            println!("no CUDA device: on the CPU, with fewer and smaller images");
            (Device::Cpu, Kind::Float, 32, Some(96))
        }
    };
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits");
    let Data { train: images, .. } = Data::load(&digits, limit)?;
    println!(
        "{} images of {side} pixels, ResNet-18 in {kind:?} on {device:?}",
        images.len()
    );

    let mut backbone = Backbone::new(device, kind, side);
    backbone.torchcache_enabled = false;
    let without = train(&backbone, &images)?;
    backbone.torchcache_enabled = true;
    let with = train(&backbone, &images)?;

    println!("{:8}{:>16}{:>16}", "", "without cache", "with cache");
    for (number, (without, with)) in without.iter().zip(&with).enumerate() {
        let [without, with] = [without, with].map(|time| seconds(time.as_secs_f64()));
        println!("epoch {:<2}{without:>16}{with:>16}", number + 1);
    }
    println!("\n{}", backbone.torchcache.stats());
    Ok(())
}
