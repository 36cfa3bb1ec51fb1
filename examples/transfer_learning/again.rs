//! The second process: this program once more, which must find every feature on disk.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

use tch::Tensor;

use crate::args::Args;
use crate::backbone::Backbone;
use crate::data::Data;
use crate::report::{self, Summary};
use crate::train::Run;

/// Starts the second process on the cache in `cache_dir` and returns what it reports.
///
/// # Errors
///
/// It could not be started, or it failed.
pub(crate) fn start(
    args: &Args,
    cache_dir: &Path,
    features: &Tensor,
) -> Result<Summary, Box<dyn Error>> {
    let exchange = tempfile::tempdir()?;
    let file = exchange.path().join("features.pt");
    features.save(&file)?;
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        // The later of two values counts.
        .arg("--cache-dir")
        .arg(cache_dir)
        .arg("--second-process")
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the second process failed: {}", output.status).into());
    }
    let report = String::from_utf8_lossy(&output.stdout);
    let summary = Summary::from_line(report.trim(), args.epochs);
    Ok(summary.ok_or_else(|| format!("the second process reported {report:?}"))?)
}

/// Trains as the first process did, and prints what it saw for that process to read.
///
/// # Errors
///
/// What libtorch says.
pub(crate) fn second_process(
    args: &Args,
    data: &Data,
    features: &Path,
) -> Result<(), Box<dyn Error>> {
    let expected = Tensor::load(features)?;
    let mut backbone = Backbone::new(args)?;
    if let Some(cache_dir) = &args.cache_dir {
        backbone.torchcache_persistent_cache_dir = cache_dir.clone();
    }
    let run = Run::train("a second process", &backbone, data, args)?;
    let mut summary = run.summary();
    summary.changed_rows += report::rows_that_differ(&run.first_features, &expected);
    println!("{}", summary.to_line());
    Ok(())
}
