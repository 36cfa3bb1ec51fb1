//! The second process: this program again, which must find every feature on disk.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use tch::Tensor;

use crate::args::Args;
use crate::backbone::Backbone;
use crate::data::Data;
use crate::report::{self, Summary};
use crate::train::Run;

/// Starts the second process on the cache in `cache_dir` and returns its results.
///
/// # Errors
///
/// The process cannot be started, or it fails.
pub(crate) fn start(cache_dir: &Path, features: &Tensor) -> Result<Summary> {
    let exchange = tempfile::tempdir()?;
    let file = exchange.path().join("features.pt");
    features.save(&file)?;
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        // The last of several values counts.
        .arg("--cache-dir")
        .arg(cache_dir)
        .arg("--second-process")
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()?;
    let status = output.status;
    ensure!(status.success(), "the second process failed: {status}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Trains as the first process did, and prints the results for that process.
///
/// # Errors
///
/// A file cannot be read, or libtorch fails.
pub(crate) fn second_process(args: &Args, data: &Data, features: &Path) -> Result<()> {
    let expected = Tensor::load(features)?;
    let mut backbone = Backbone::new(args)?;
    if let Some(cache_dir) = &args.cache_dir {
        backbone.torchcache_persistent_cache_dir = cache_dir.clone();
    }
    let run = Run::train("a second process", &backbone, data, args)?;
    let mut summary = run.summary();
    summary.changed_rows += report::rows_that_differ(&run.first_features, &expected);
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}
