//! One epoch of training the head, wherever its features come from.

use std::time::{Duration, Instant};

use tch::nn::{ModuleT, OptimizerConfig};
use tch::{Device, Kind, TchError, Tensor, nn};

use crate::data::Images;

/// Batches of this many images.
const BATCH: i64 = 64;

/// What is trained: as in the example, a linear layer behind a batch norm.
pub(crate) struct Head {
    net: nn::SequentialT,
    optimizer: nn::Optimizer,
}

impl Head {
    pub(crate) fn new() -> Result<Self, TchError> {
        let vs = nn::VarStore::new(Device::Cpu);
        let root = vs.root();
        let net = nn::seq_t()
            .add(nn::batch_norm1d(&root / "norm", 512, Default::default()))
            .add(nn::linear(&root / "linear", 512, 10, Default::default()));
        let optimizer = nn::Adam::default().build(&vs, 1e-2)?;
        Ok(Head { net, optimizer })
    }

    fn step(&mut self, features: &Tensor, labels: &Tensor) {
        let loss = self
            .net
            .forward_t(features, true)
            .cross_entropy_for_logits(labels);
        self.optimizer.backward_step(&loss);
    }
}

/// The images in an order of their own, in batches.
pub(crate) fn order(images: &Images) -> Vec<Tensor> {
    Tensor::randperm(images.len(), (Kind::Int64, Device::Cpu)).split(BATCH, 0)
}

/// Trains on batches, and gives how long that took. `features` gets the numbers of the images and
/// the images.
pub(crate) fn train(
    images: &Images,
    batches: &[Tensor],
    head: &mut Head,
    mut features: impl FnMut(&Tensor, &Tensor) -> Tensor,
) -> Duration {
    let start = Instant::now();
    for batch in batches {
        let pixels = images.pixels.index_select(0, batch);
        let features = features(batch, &pixels);
        head.step(&features, &images.labels.index_select(0, batch));
    }
    start.elapsed()
}
