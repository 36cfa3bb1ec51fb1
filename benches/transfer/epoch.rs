//! One epoch of training the head.

use std::time::Duration;

use tch::{Device, Kind, Tensor};
use torchcache_benches::clock::milliseconds;

use crate::data::Images;
use crate::head::Head;

/// Batches of this many images.
const BATCH: i64 = 64;

/// The images in random order, in batches.
pub(crate) fn order(images: &Images) -> Vec<Tensor> {
    Tensor::randperm(images.len(), (Kind::Int64, Device::Cpu)).split(BATCH, 0)
}

/// Trains on batches and returns the time. `features` maps the numbers of images and the images to
/// features on `device`, where the head is.
pub(crate) fn train(
    images: &Images,
    batches: &[Tensor],
    device: Device,
    head: &mut Head,
    mut features: impl FnMut(&Tensor, &Tensor) -> Tensor,
) -> Duration {
    let took = milliseconds(device, || {
        for batch in batches {
            let pixels = images.pixels.index_select(0, batch);
            let labels = images.labels.index_select(0, batch).to_device(device);
            head.step(&features(batch, &pixels), &labels);
        }
    });
    Duration::from_secs_f64(took / 1e3)
}
