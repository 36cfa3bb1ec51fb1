//! The command line.

use std::path::PathBuf;

use clap::{Parser, value_parser};

/// The seed of weights, head and order of the images, so that all runs do the same.
pub(crate) const SEED: i64 = 1;

/// Trains a linear head on a frozen ResNet-18 without the cache, with it, and in a second process.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// Load the backbone's weights: .safetensors or .ot, named as in torchvision
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// A folder in MNIST format, such as Fashion-MNIST, gzipped or not [default: data/digits]
    #[arg(long, value_name = "DIR", hide_default_value = true)]
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits"))]
    pub(crate) data: PathBuf,
    /// Epochs of each run
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(2..))]
    pub(crate) epochs: u32,
    /// Use only the first N images for training, and N / 4 for testing
    #[arg(long, value_name = "N", value_parser = value_parser!(i64).range(8..))]
    pub(crate) limit: Option<i64>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(i64).range(2..))]
    pub(crate) batch: i64,
    /// The width that images are scaled to
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = value_parser!(i64).range(32..))]
    pub(crate) side: i64,
    /// Keep the features in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// The bound of the memory tier [default: 2 GB]; other rows come from disk
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<u64>,
    /// Few and small images and two epochs
    #[arg(long)]
    pub(crate) quick: bool,
    /// Set by the first process for the second: the file of the expected features
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) second_process: Option<PathBuf>,
}

impl Args {
    /// Parses the arguments of this process; prints help or an error and exits if there is nothing to do.
    pub(crate) fn read() -> Self {
        let mut args = Self::parse();
        if args.quick {
            (args.limit, args.batch, args.side, args.epochs) = (Some(96), 32, 32, 2);
        }
        args
    }
}
