//! A cache is filled ahead of training, with a bar on the terminal.
//!
//! A frozen ResNet-18 computes the features of 256 images into `target/prefill`. End it in the middle
//! (Ctrl-C) and start it again: it goes on where it was. Once it is through, another run computes
//! nothing, and training finds every row.
//!
//! Run it with `cargo run --release --example prefill`, which has the feature `progress` on.

use tch::vision::resnet;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options, prefill};

const IMAGES: i64 = 256;
const BATCH: i64 = 16;

/// As if read from a file: the same one for the same number.
fn image(number: i64) -> Tensor {
    let pixels = Tensor::arange(3 * 32 * 32, (Kind::Float, Device::Cpu)) * (number + 1) as f64;
    pixels.sin().view([3, 32, 32])
}

/// Batches that are made one at a time: no more than one is in memory.
fn batches() -> impl ExactSizeIterator<Item = Tensor> {
    let first = |number| number as i64 * BATCH;
    let images = |first| (first..first + BATCH).map(image).collect::<Vec<_>>();
    (0..(IMAGES / BATCH) as usize).map(move |number| Tensor::stack(&images(first(number)), 0))
}

fn main() -> Result<(), torchcache::Error> {
    tch::manual_seed(0); // the same weights in each run, as if loaded from a file
    let mut vs = nn::VarStore::new(Device::Cpu);
    let resnet = resnet::resnet18_no_final_layer(&vs.root());
    vs.freeze();
    let options = Options::new()
        .persistent(true)
        .persistent_cache_dir("target/prefill")
        .version("resnet18");
    let backbone = Cached::new(resnet, &vs, options)?;

    let stats = prefill(&backbone, batches());
    println!(
        "{} rows: {} computed, {} found; {} rows on disk",
        stats.rows,
        stats.misses,
        stats.hits(),
        stats.disk_rows
    );
    Ok(())
}
