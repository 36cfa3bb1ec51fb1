//! An ordinary training loop, without code for the cache.

use std::time::{Duration, Instant};

use tch::nn::ModuleT;
use tch::{Device, Kind, TchError, Tensor};
use torchcache::Stats;
use torchcache_examples::{Progress, rows_that_differ};

use crate::args::{Args, SEED};
use crate::backbone::Backbone;
use crate::data::{Data, Images};
use crate::head::Head;
use crate::report::Summary;

/// The results of a training run.
pub(crate) struct Run {
    pub(crate) epochs: Vec<Duration>,
    pub(crate) accuracy: f64,
    pub(crate) stats: Stats,
    /// The features of the first epoch, in the order of the images.
    pub(crate) first_features: Tensor,
    /// Rows of later epochs that differ from the first epoch in any bit.
    pub(crate) changed_rows: i64,
}

impl Run {
    /// Trains a new head on the backbone's features. Every run starts with the same head and uses the
    /// same batches.
    ///
    /// # Errors
    ///
    /// libtorch cannot build the optimiser.
    pub(crate) fn train(
        name: &str,
        backbone: &Backbone,
        data: &Data,
        args: &Args,
    ) -> Result<Self, TchError> {
        tch::manual_seed(SEED);
        let mut head = Head::new(backbone.device())?;
        let labels = data.train.labels.to_device(backbone.device());

        let mut epochs = Vec::new();
        let mut first_features = Tensor::zeros([data.train.len(), 512], (Kind::Float, Device::Cpu));
        let mut changed_rows = 0;
        for epoch in 1..=args.epochs {
            let name = format!("{name:<18}  epoch {epoch}");
            let progress = Progress::new(name, data.train.len() as usize, "images");
            let mut seen = Vec::new();
            let start = Instant::now();
            let order = Tensor::randperm(data.train.len(), (Kind::Int64, Device::Cpu));
            for batch in order.split(args.batch, 0) {
                let images = data.train.pixels.index_select(0, &batch);
                let features = backbone.forward_t(&images, false);
                let labels = labels.index_select(0, &batch.to_device(labels.device()));
                head.step(&features, &labels);
                progress.bar.inc(batch.size()[0] as u64);
                seen.push((batch, features));
            }
            let time = start.elapsed();
            progress.finish(time.as_secs_f64());
            epochs.push(time);

            for (batch, features) in seen {
                let features = features.to_device(Device::Cpu);
                if epoch == 1 {
                    let _ = first_features.index_copy_(0, &batch, &features);
                } else {
                    let first = first_features.index_select(0, &batch);
                    changed_rows += rows_that_differ(&features, &first);
                }
            }
        }
        Ok(Run {
            epochs,
            accuracy: accuracy(&head, backbone, &data.test, args.batch),
            stats: backbone.torchcache.stats(),
            first_features,
            changed_rows,
        })
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            epochs: self.epochs.iter().map(Duration::as_secs_f64).collect(),
            accuracy: self.accuracy,
            from_memory: self.stats.memory.hits,
            from_disk: self.stats.disk.hits,
            repeated: self.stats.duplicates,
            computed: self.stats.misses,
            changed_rows: self.changed_rows,
        }
    }
}

/// The share of images whose class is predicted correctly.
fn accuracy(head: &Head, backbone: &Backbone, images: &Images, batch: i64) -> f64 {
    let mut right = 0;
    for (pixels, labels) in images
        .pixels
        .split(batch, 0)
        .into_iter()
        .zip(images.labels.split(batch, 0))
    {
        let features = backbone.forward_t(&pixels, false);
        let hits = head
            .classes(&features)
            .to_device(Device::Cpu)
            .eq_tensor(&labels);
        right += hits.sum(Kind::Int64).int64_value(&[]);
    }
    right as f64 / images.len() as f64
}
