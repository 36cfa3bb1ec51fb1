//! One epoch of training the head, wherever its features come from.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::data::Images;
use crate::head::Head;

/// Batches of this many images.
const BATCH: i64 = 64;

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
