//! Trains a head on a frozen ResNet-18 and the 60,000 images of Fashion-MNIST: the cost of the cache in
//! the first epoch, the time of later epochs, and a run with memory for a quarter of the features.
//!
//! Backbone and head are those of the example `transfer_learning`. Each run is a process, so that its
//! peak of memory can be read. `cargo xtask bench transfer` fetches the images, or
//! `TORCHCACHE_FASHION_MNIST` names their folder; without images nothing is measured, and that is no
//! error.

#[path = "../../examples/transfer_learning/args.rs"]
#[expect(dead_code, reason = "the example looks at more arguments")]
mod args;
#[path = "../../examples/transfer_learning/backbone.rs"]
mod backbone;
#[path = "../../examples/transfer_learning/data.rs"]
#[expect(dead_code, reason = "the example also tests on images")]
mod data;
mod epoch;
#[path = "../../examples/transfer_learning/head.rs"]
#[expect(dead_code, reason = "the example also predicts classes")]
mod head;
mod measured;
mod report;
mod runs;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;
use serde::de::DeserializeOwned;

use measured::{Ample, Plain, Starved};
use runs::Run;
use torchcache_benches::args::Args;

/// Names the folder of the images.
const VARIABLE: &str = "TORCHCACHE_FASHION_MNIST";

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: Args,
    /// In another process: what it runs.
    #[arg(long, hide = true, value_parser = runs::named, requires = "features")]
    run: Option<Run>,
    /// The directory of the features of that run.
    #[arg(long, hide = true)]
    features: Option<PathBuf>,
}

fn main() {
    let arguments = Arguments::parse();
    let quick = arguments.common.quick;
    let Some(images) = images() else {
        eprintln!(
            "skipping transfer: no images. `cargo xtask bench transfer` fetches them, or set {VARIABLE} \
             to their folder"
        );
        return;
    };
    match arguments.run.zip(arguments.features) {
        None => println!("{}", all(quick)),
        Some((run, features)) => {
            let measured = run(&setting(&images, quick), &features);
            println!("{}", measured.unwrap_or_else(|error| panic!("{error:#}")));
        }
    }
}

/// The folder of the images: the named one, which must have them, else the one that they are fetched to,
/// if it exists.
fn images() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).filter(|named| !named.is_empty());
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/datasets/fashion-mnist");
    match named {
        Some(named) => Some(named.into()),
        None => fetched.is_dir().then_some(fetched),
    }
}

/// All images, enlarged to the 32 pixels that ResNet-18 needs at least.
fn setting(images: &Path, quick: bool) -> args::Args {
    let mut args = args::Args::parse_from(["transfer", "--side", "32"]);
    args.data = images.to_owned();
    args.limit = quick.then_some(640);
    args
}

/// All runs, one after another, as Markdown.
fn all(quick: bool) -> String {
    let features = tempfile::tempdir().expect("a temporary directory");
    let plain: Plain = elsewhere(quick, "plain", features.path());
    let ample: Ample = elsewhere(quick, "ample", features.path());
    let starved: Starved = elsewhere(quick, "starved", features.path());
    report::markdown(&plain, &ample, &starved)
}

fn elsewhere<T: DeserializeOwned>(quick: bool, run: &str, features: &Path) -> T {
    eprintln!("run: {run}");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(quick.then_some("--quick"));
    command.args(["--run", run, "--features"]).arg(features);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be started again");
    assert!(output.status.success(), "the run `{run}` failed");
    serde_json::from_slice(&output.stdout).expect("a run prints what it measured")
}
