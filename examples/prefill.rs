//! Fills a cache before training, with a progress bar on the terminal.
//!
//! A frozen ResNet-18 computes the features of 256 images into `target/prefill`. Interrupt it (Ctrl-C)
//! and start it again: it continues where it was. After a complete run, another one computes nothing,
//! and training finds every row.
//!
//! Run it with `cargo run --release --example prefill`. The progress bar needs the feature `progress`.

use tch::vision::resnet;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options, prefill};

const IMAGES: i64 = 256;
const BATCH: i64 = 16;

/// In place of images from files: the same one for the same number.
fn image(number: i64) -> Tensor {
    let pixels = Tensor::arange(3 * 32 * 32, (Kind::Float, Device::Cpu)) * (number + 1) as f64;
    pixels.sin().view([3, 32, 32])
}

/// Batches, created one at a time.
fn batches() -> impl ExactSizeIterator<Item = Tensor> {
    let first = |number| number as i64 * BATCH;
    let images = |first| (first..first + BATCH).map(image).collect::<Vec<_>>();
    (0..(IMAGES / BATCH) as usize).map(move |number| Tensor::stack(&images(first(number)), 0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Ctrl-C writes the rows that are still queued.
    torchcache::flush_on_signals()?;
    tch::manual_seed(0); // in place of weights from a file: the same in each run
    let mut vs = nn::VarStore::new(Device::Cpu);
    let resnet = resnet::resnet18_no_final_layer(&vs.root());
    vs.freeze();
    let options = Options::builder()
        .persistent(true)
        .persistent_cache_dir("target/prefill")
        .version("resnet18")
        .build()?;
    let backbone = Cached::new(resnet, &vs, options)?;

    let stats = prefill(&backbone, batches());
    println!(
        "{} rows: {} computed, {} found; {} rows on disk",
        stats.rows,
        stats.misses,
        stats.hits(),
        stats.disk.rows
    );
    Ok(())
}
