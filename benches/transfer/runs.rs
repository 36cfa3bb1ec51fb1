//! The runs, each in its own process.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tch::nn::ModuleT;
use tch::{Device, Kind, Tensor};

use crate::args::Args;
use crate::backbone::Backbone;
use crate::data::{Data, Images};
use crate::epoch::{order, train};
use crate::head::Head;
use crate::measured::{Ample, Later, Plain, Starved};

pub(crate) type Run = fn(&Args, &Path) -> Result<Value>;

/// Blocks of the first epoch, in which the plain and the cached backbone take turns.
const BLOCKS: usize = 20;

/// Later epochs, in turn with epochs of the head alone; the fastest of each counts.
const EPOCHS: usize = 10;

pub(crate) fn named(name: &str) -> Result<Run, String> {
    match name {
        "plain" => Ok(plain),
        "ample" => Ok(ample),
        "starved" => Ok(starved),
        _ => Err("expected plain, ample or starved".into()),
    }
}

/// Without a cache: for its peak of memory, a tenth of an epoch is enough.
fn plain(args: &Args, _: &Path) -> Result<Value> {
    let images = Data::load(&args.data, args.limit)?.train;
    let mut backbone = Backbone::new(args)?;
    backbone.torchcache_enabled = false;
    let batches = order(&images);
    let some = &batches[..batches.len().div_ceil(10)];
    let mut head = Head::new(backbone.device())?;
    train(&images, some, backbone.device(), &mut head, |_, pixels| {
        backbone.forward_t(pixels, false)
    });
    Ok(serde_json::to_value(Plain {
        peak_bytes: peak_bytes()?,
    })?)
}

/// Memory for everything: the first epoch in turn with the plain one, later epochs in turn with the
/// head alone.
fn ample(args: &Args, features: &Path) -> Result<Value> {
    let images = Data::load(&args.data, args.limit)?.train;
    let cached = cached(args, features, None)?;
    let mut plain = Backbone::new(args)?;
    plain.torchcache_enabled = false;
    let device = cached.device();
    let (mut head, mut plain_head) = (Head::new(device)?, Head::new(device)?);

    // Initialises libtorch before the clock starts.
    let warm = images.pixels.narrow(0, 0, 64.min(images.len()));
    let _ = plain.forward_t(&warm, false);

    let mut known = Known::new(&images, device);
    let batches = order(&images);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (number, block) in batches.chunks(batches.len().div_ceil(BLOCKS)).enumerate() {
        let mut with_cache = || {
            let mut seen = Vec::new();
            let trained = train(&images, block, device, &mut head, |batch, pixels| {
                let features = cached.forward_t(pixels, false);
                seen.push((batch.shallow_clone(), features.shallow_clone()));
                features
            });
            // Writing counts as well.
            let start = std::time::Instant::now();
            cached.torchcache.flush().expect("every feature is on disk");
            with.push((trained + start.elapsed()).as_secs_f64());
            for (batch, features) in seen {
                known.put(&batch, &features);
            }
        };
        let mut without_cache = || {
            let trained = train(&images, block, device, &mut plain_head, |_, pixels| {
                plain.forward_t(pixels, false)
            });
            without.push(trained.as_secs_f64());
        };
        // Each goes first in half of the blocks.
        if number % 2 == 0 {
            with_cache();
            without_cache();
        } else {
            without_cache();
            with_cache();
        }
    }
    known.save(features)?;
    let first = cached.torchcache.stats();
    let seen = (first.misses, first.misses + first.duplicates);
    assert_eq!(seen.1, images.len() as u64, "the first epoch had no hit");

    let later = later(&images, &cached, &known)?;
    let stats = cached.torchcache.stats();
    assert_eq!(stats.misses, seen.0, "later epochs compute nothing");
    Ok(serde_json::to_value(Ample {
        device: format!("{device:?}"),
        images: images.len() as u64,
        distinct: seen.0,
        first_with: with,
        first_without: without,
        later,
        memory_bytes: stats.memory.bytes,
        disk_bytes: stats.disk.bytes,
        peak_bytes: peak_bytes()?,
    })?)
}

/// A second process with memory for a quarter of the features: the rest comes from disk.
fn starved(args: &Args, features: &Path) -> Result<Value> {
    let images = Data::load(&args.data, args.limit)?.train;
    let bound = images.len() as u64 * 512 * 4 / 4;
    let cached = cached(args, features, Some(bound))?;
    let device = cached.device();
    let known = Known::load(features, device)?;
    let mut head = Head::new(device)?;
    let batches = order(&images);
    let first = train(&images, &batches, device, &mut head, |_, pixels| {
        cached.forward_t(pixels, false)
    });
    let later = later(&images, &cached, &known)?;
    let stats = cached.torchcache.stats();
    assert_eq!(stats.misses, 0, "no image is computed");
    assert!(stats.memory.bytes <= bound, "the bound holds");
    Ok(serde_json::to_value(Starved {
        bound,
        first: first.as_secs_f64(),
        later,
        from_disk: stats.disk.hits as f64 / (stats.disk.hits + stats.memory.hits) as f64,
        peak_bytes: peak_bytes()?,
    })?)
}

fn cached(args: &Args, features: &Path, memory: Option<u64>) -> Result<Backbone> {
    let mut backbone = Backbone::new(args)?;
    backbone.torchcache_persistent_cache_dir = features.to_owned();
    backbone.torchcache_max_memory_cache_size = memory;
    Ok(backbone)
}

/// The features of all images from the first epoch, on the device of the head.
struct Known(Tensor);

/// Their file, next to the cache's folders.
const KNOWN: &str = "known.pt";

impl Known {
    fn new(images: &Images, device: Device) -> Self {
        Known(Tensor::zeros([images.len(), 512], (Kind::Float, device)))
    }

    fn save(&self, folder: &Path) -> Result<(), tch::TchError> {
        self.0.save(folder.join(KNOWN))
    }

    fn load(folder: &Path, device: Device) -> Result<Self, tch::TchError> {
        Ok(Known(Tensor::load(folder.join(KNOWN))?.to_device(device)))
    }

    fn put(&mut self, batch: &Tensor, features: &Tensor) {
        let _ = self
            .0
            .index_copy_(0, &batch.to_device(self.0.device()), features);
    }

    fn get(&self, batch: &Tensor) -> Tensor {
        self.0.index_select(0, &batch.to_device(self.0.device()))
    }
}

fn later(images: &Images, cached: &Backbone, known: &Known) -> Result<Later> {
    let mut best = Later {
        epoch: f64::INFINITY,
        head: f64::INFINITY,
        hashing: f64::INFINITY,
    };
    let device = cached.device();
    for _ in 0..EPOCHS {
        let batches = order(images);
        let mut head = Head::new(device)?;
        let alone = train(images, &batches, device, &mut head, |batch, _| {
            known.get(batch)
        });
        let before = cached.torchcache.stats().time.hashing;
        let mut head = Head::new(device)?;
        let epoch = train(images, &batches, device, &mut head, |_, pixels| {
            cached.forward_t(pixels, false)
        });
        let hashing = cached.torchcache.stats().time.hashing - before;
        best.epoch = best.epoch.min(epoch.as_secs_f64());
        best.head = best.head.min(alone.as_secs_f64());
        best.hashing = best.hashing.min(hashing.as_secs_f64());
    }
    // In a separate epoch: keeping features for a comparison costs as much as a hit.
    for batch in order(images) {
        let features = cached.forward_t(&images.pixels.index_select(0, &batch), false);
        assert_eq!(features, known.get(&batch), "a hit is what was computed");
    }
    Ok(best)
}

/// The peak of this process's memory.
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("/proc/self/status has no VmHWM")?
        .parse()?;
    Ok(kilobytes * 1024)
}
