//! What the cache costs on a GPU: hashing, hits, the first epoch and whole models, each next to the work that
//! it cannot do without, measured in the same run, and with a bar where there is one.
//!
//! Without a GPU nothing is measured, and that is no error. `--cpu` runs all parts on little data on the
//! CPU, to try the benchmark itself: its figures have no bars. Programs need libtorch_cuda linked for the
//! GPU to be seen.

mod epoch;
mod figure;
mod hashing;
mod hits;
mod limits;
mod models;
mod setting;
mod vit;
mod waits;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use tch::Device;

use figure::Report;
use setting::{Part, Setting};

#[derive(Parser)]
struct Arguments {
    /// What to measure [default: all]
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
    /// Measure little data on the CPU, without bars
    #[arg(long, alias = "test")]
    cpu: bool,
    /// Append each figure to this file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    figures: Option<PathBuf>,
    /// Added by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let setting = match Setting::choose(arguments.cpu) {
        Ok(setting) => setting,
        Err(reason) => {
            eprintln!("skipping cuda: {reason}");
            return;
        }
    };
    if let Device::Cuda(index) = setting.device {
        // Until the driver has compiled them, the host hashes.
        let on = torchcache::__private::wait_for_kernels(index);
        let place = if on { "on the device" } else { "by the host" };
        println!("Tensors are hashed {place}.\n");
    }
    let all = Part::value_variants();
    let named = |part: &&Part| arguments.parts.is_empty() || arguments.parts.contains(part);
    for part in all.iter().filter(named) {
        let mut report = Report::new(*part, setting.is_gpu(), arguments.figures.as_deref());
        let measure = match part {
            Part::Limits => limits::measure,
            Part::Hashing => hashing::measure,
            Part::Hits => hits::measure,
            Part::Epoch => epoch::measure,
            Part::Models => models::measure,
        };
        // Frozen modules alone are cached.
        tch::no_grad(|| measure(setting, &mut report));
        println!("{}", report.markdown());
    }
}
