//! Trains a linear head on a frozen ResNet-18 with real images: without the cache, with it, and in a
//! second process that finds every feature on disk.
//!
//! Look for the table at the end: from the second epoch on, the cached run computes no feature, the
//! second process computes none at all, and all three runs reach the same accuracy. The program fails
//! if a cached feature differs from a computed one.
//!
//! `cargo xtask demo` runs it with the 1,797 digits in `examples/data/digits` and seeded weights.
//! `--help` lists the options.
//!
//! `backbone.rs` has the cache; `train.rs` is an ordinary training loop, `data.rs` reads images,
//! `report.rs` compares.

mod args;
mod backbone;
mod data;
mod head;
mod report;
mod train;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use args::Args;
use backbone::Backbone;
use data::Data;
use report::Checks;
use tch::Tensor;
use torchcache_examples::rows_that_differ;
use train::Run;

fn main() -> Result<ExitCode> {
    Ok(match demo(&Args::read())? {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Returns whether every cached feature is right.
fn demo(args: &Args) -> Result<bool> {
    // Ctrl-C writes the features that are still queued.
    torchcache::flush_on_signals()?;
    let data = Data::load(&args.data, args.limit)?;
    if let Some(features) = &args.second_process {
        second_process(args, &data, features)?;
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

    // Empty, so that the first epoch computes everything.
    let temporary = tempfile::tempdir()?;
    let cache_dir = args.cache_dir.as_deref().unwrap_or(temporary.path());
    backbone.torchcache_enabled = true;
    backbone.torchcache_persistent_cache_dir = cache_dir.to_owned();
    let cached = Run::train("with the cache", &backbone, &data, args)?;

    backbone.torchcache.flush()?;
    println!(
        "\nthe cache of this process:\n{}",
        backbone.torchcache.stats()
    );
    drop(backbone);
    // The last of several values of an argument counts.
    let further = ["--cache-dir".as_ref(), cache_dir.as_os_str()];
    let again = torchcache_examples::second_process(&cached.first_features, &further)?;

    let summaries = [plain.summary(), cached.summary(), again];
    let summaries = summaries.each_ref();
    let checks = Checks::new(summaries, &plain.first_features, &cached.first_features);
    println!("\n{}\n{checks}", report::table(summaries));
    Ok(checks.hold())
}

/// Trains as the first process did, and prints the results for that process.
fn second_process(args: &Args, data: &Data, features: &Path) -> Result<()> {
    let mut backbone = Backbone::new(args)?;
    if let Some(cache_dir) = &args.cache_dir {
        backbone.torchcache_persistent_cache_dir = cache_dir.clone();
    }
    let run = Run::train("a second process", &backbone, data, args)?;
    let mut summary = run.summary();
    summary.changed_rows += rows_that_differ(&run.first_features, &Tensor::load(features)?);
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}
