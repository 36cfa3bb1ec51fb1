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

/// Names the folder of the images.
const VARIABLE: &str = "TORCHCACHE_FASHION_MNIST";

/// Arguments, of a user or of the first process.
struct Arguments {
    /// The number of images, if not all.
    limit: Option<i64>,
    /// In another process: the name of the run and the directory of its features.
    run: Option<(String, PathBuf)>,
}

fn main() {
    let arguments = Arguments::read();
    let Some(images) = images() else {
        eprintln!(
            "skipping transfer: no images. `cargo xtask bench transfer` fetches them, or set {VARIABLE} \
             to their folder"
        );
        return;
    };
    match &arguments.run {
        None => println!("{}", all(&arguments)),
        Some((run, features)) => {
            let run = runs::named(run).expect("the first process knows the names");
            let measured = run(&setting(&images, arguments.limit), features);
            println!("{}", measured.unwrap_or_else(|error| panic!("{error}")));
        }
    }
}

impl Arguments {
    fn read() -> Self {
        let mut arguments = Arguments {
            limit: None,
            run: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" | "--test" => arguments.limit = Some(640),
                "--run" => arguments.run = args.next().zip(args.next().map(PathBuf::from)),
                // cargo adds the first; the output is always Markdown.
                "--bench" | "--markdown" => {}
                _ => panic!("unknown argument `{arg}`; expected --quick or --markdown"),
            }
        }
        arguments
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
fn setting(images: &Path, limit: Option<i64>) -> args::Args {
    let mut line: Vec<std::ffi::OsString> = vec![
        "transfer".into(),
        "--data".into(),
        images.into(),
        "--side".into(),
        "32".into(),
    ];
    if let Some(limit) = limit {
        line.extend(["--limit".into(), limit.to_string().into()]);
    }
    args::Args::parse_from(line)
}

/// All runs, one after another, as Markdown.
fn all(arguments: &Arguments) -> String {
    let features = tempfile::tempdir().expect("a temporary directory");
    let plain: Plain = elsewhere(arguments, "plain", features.path());
    let ample: Ample = elsewhere(arguments, "ample", features.path());
    let starved: Starved = elsewhere(arguments, "starved", features.path());
    report::markdown(&plain, &ample, &starved)
}

fn elsewhere<T: DeserializeOwned>(arguments: &Arguments, run: &str, features: &Path) -> T {
    eprintln!("run: {run}");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(arguments.limit.map(|_| "--quick"));
    command.arg("--run").arg(run).arg(features);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be started again");
    assert!(output.status.success(), "the run `{run}` failed");
    serde_json::from_slice(&output.stdout).expect("a run prints what it measured")
}
