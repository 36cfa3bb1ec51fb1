//! A head is trained on a frozen ResNet-18 and the 60,000 images of Fashion-MNIST: what the cache
//! costs in the first epoch, what it leaves of the later ones, and what a run costs whose memory
//! holds a quarter of the features.
//!
//! Backbone and head are those of the example `transfer_learning`. Each run is a process of its own, so
//! that its peak of memory is its own as well. `cargo xtask bench -- transfer` fetches the images;
//! `TORCHCACHE_FASHION_MNIST` names a folder that has them. Where nobody fetched or named any,
//! nothing is measured: that is no mistake of whoever runs all benchmarks.

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
#[expect(dead_code, reason = "the example also asks for classes")]
mod head;
mod report;
mod runs;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use report::{Ample, Plain, Starved};

/// Of the weights, of the head and of the order of the images: all runs see the same.
const SEED: i64 = 1;

/// Names the folder of the images.
const VARIABLE: &str = "TORCHCACHE_FASHION_MNIST";

/// What was asked for, by a user or by the first process of the others.
struct Asked {
    /// Only that many images.
    limit: Option<i64>,
    /// In another process: which run, and the directory of its features.
    run: Option<(String, PathBuf)>,
}

fn main() {
    let asked = Asked::read();
    let Some(images) = images() else {
        eprintln!(
            "transfer is not run: there are no images. `cargo xtask bench -- transfer` fetches \
             them, or name their folder in {VARIABLE}"
        );
        return;
    };
    match &asked.run {
        None => println!("{}", all(&asked)),
        Some((run, features)) => {
            let run = runs::named(run).expect("the first process knows the names");
            let measured = run(&setting(&images, asked.limit), features);
            println!("{}", measured.unwrap_or_else(|error| panic!("{error}")));
        }
    }
}

impl Asked {
    fn read() -> Self {
        let mut asked = Asked {
            limit: None,
            run: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" | "--test" => asked.limit = Some(640),
                "--run" => asked.run = args.next().zip(args.next().map(PathBuf::from)),
                // cargo says the first; what is printed is Markdown in any case.
                "--bench" | "--markdown" => {}
                _ => panic!("`{arg}` is not known; there are --quick and --markdown"),
            }
        }
        asked
    }
}

/// The folder of the images: the one that is named, which must have them, else the one that they
/// are fetched to, if they were.
fn images() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).filter(|named| !named.is_empty());
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/datasets/fashion-mnist");
    match named {
        Some(named) => Some(named.into()),
        None => fetched.is_dir().then_some(fetched),
    }
}

/// Images as they are, a little enlarged: ResNet-18 wants 32 pixels at least.
fn setting(images: &Path, limit: Option<i64>) -> args::Args {
    let mut line = vec!["--data".into(), images.into(), "--side".into(), "32".into()];
    if let Some(limit) = limit {
        line.extend(["--limit".into(), limit.to_string().into()]);
    }
    args::Args::parse(line.into_iter())
        .expect("the arguments are right")
        .expect("nobody asked for help")
}

/// Every run in its own process, one after the other, as Markdown.
fn all(asked: &Asked) -> String {
    let features = tempfile::tempdir().expect("a temporary directory");
    let plain: Plain = elsewhere(asked, "plain", features.path());
    let ample: Ample = elsewhere(asked, "ample", features.path());
    let starved: Starved = elsewhere(asked, "starved", features.path());
    report::markdown(&plain, &ample, &starved)
}

fn elsewhere<T: DeserializeOwned>(asked: &Asked, run: &str, features: &Path) -> T {
    eprintln!("run: {run}");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(asked.limit.map(|_| "--quick"));
    command.arg("--run").arg(run).arg(features);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be started again");
    assert!(output.status.success(), "the run `{run}` failed");
    serde_json::from_slice(&output.stdout).expect("a run prints what it measured")
}
