//! A linear head is trained on a frozen ResNet-18, on real images: first without the cache, then
//! with it, then in a second process that finds every feature on disk.
//!
//! Look for the table at the end. From the second epoch on, the cached run computes no feature;
//! the second process computes none at all; and all three reach the same accuracy. The run fails
//! if a cached feature differs from what the backbone gives.
//!
//! `cargo xtask demo` runs it with the 1,797 digits that are vendored in `examples/data/digits`
//! and with seeded weights. `--help` lists what can be changed: real weights, an MNIST-format
//! folder, the number of epochs.
//!
//! `backbone.rs` is where the cache is; `train.rs` is an ordinary training loop that does not know
//! of it. `data.rs` reads images, `again.rs` starts the second process, `report.rs` compares.

mod again;
mod args;
mod backbone;
mod data;
mod head;
mod report;
mod train;

use std::error::Error;
use std::process::ExitCode;

use args::Args;
use backbone::Backbone;
use data::Data;
use report::Checks;
use train::Run;

/// Of the weights, of the head and of the order of the images: all runs see the same.
const SEED: i64 = 1;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    match demo(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every cached feature was what the backbone gives.
fn demo(args: &Args) -> Result<bool, Box<dyn Error>> {
    let data = Data::load(&args.data, args.limit)?;
    if let Some(features) = &args.second_process {
        again::second_process(args, &data, features)?;
        return Ok(true);
    }
    println!(
        "{} images to train on and {} to test on, scaled to {side} x {side}; ResNet-18 with {}",
        data.train.len(),
        data.test.len(),
        match &args.weights {
            Some(file) => format!("the weights of {}", file.display()),
            None => "seeded weights".to_owned(),
        },
        side = args.side,
    );

    let mut backbone = Backbone::new(args)?;
    backbone.torchcache_enabled = false;
    let plain = Run::train("without the cache", &backbone, &data, args)?;

    // A directory of its own, removed at the end, so that the first epoch starts with nothing.
    let temporary = tempfile::tempdir()?;
    let cache_dir = args.cache_dir.as_deref().unwrap_or(temporary.path());
    backbone.torchcache_enabled = true;
    backbone.torchcache_persistent_cache_dir = cache_dir.to_owned();
    let cached = Run::train("with the cache", &backbone, &data, args)?;

    if !backbone.torchcache.flush() {
        return Err("not every feature could be written to disk".into());
    }
    println!(
        "\nwhat the cache of this process says:\n{}",
        backbone.torchcache.stats()
    );
    drop(backbone);
    let again = again::start(args, cache_dir, &cached.first_features)?;

    let summaries = [plain.summary(), cached.summary(), again];
    let summaries = summaries.each_ref();
    let checks = Checks::of(summaries, &plain.first_features, &cached.first_features);
    println!("\n{}\n{checks}", report::table(summaries));
    Ok(checks.hold())
}
