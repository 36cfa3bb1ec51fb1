//! The command line: raw arguments become checked ones in one step.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(crate) const HELP: &str = "\
Trains a linear head on a frozen ResNet-18 without the cache, with it, and in a second process.

  --weights FILE    load the backbone's weights: .safetensors or .ot, named as in torchvision
  --data DIR        a folder in MNIST format, such as Fashion-MNIST, gzipped or not
  --epochs N        epochs of each run, at least 2 (default 5)
  --limit N         use only the first N images for training, and N / 4 for testing
  --batch N         images in a batch (default 64)
  --side N          the width that images are scaled to (default 96)
  --cache-dir DIR   keep the features there (default: a temporary directory, removed at the end)
  --memory BYTES    the bound of the memory tier (default 2000000000): the rest comes from disk
  --quick           few and small images and two epochs, to see that it works
";

/// What to train on, and how.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) weights: Option<PathBuf>,
    pub(crate) data: PathBuf,
    pub(crate) epochs: u32,
    pub(crate) limit: Option<i64>,
    pub(crate) batch: i64,
    pub(crate) side: i64,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) memory: Option<u64>,
    /// Set by the first process for the second: the file of the features it must find.
    pub(crate) second_process: Option<PathBuf>,
}

impl Args {
    /// `None` where only the help was asked for.
    ///
    /// # Errors
    ///
    /// A message that names the argument.
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut parsed = Args {
            weights: None,
            data: Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits"),
            epochs: 5,
            limit: None,
            batch: 64,
            side: 96,
            cache_dir: None,
            memory: None,
            second_process: None,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let name = arg.to_string_lossy().into_owned();
            let mut value = || args.next().ok_or(format!("{name} wants a value"));
            match name.as_str() {
                "--weights" => parsed.weights = Some(value()?.into()),
                "--data" => parsed.data = value()?.into(),
                "--epochs" => parsed.epochs = number(&name, value()?, 2)?,
                "--limit" => parsed.limit = Some(number(&name, value()?, 8)?),
                "--batch" => parsed.batch = number(&name, value()?, 2)?,
                "--side" => parsed.side = number(&name, value()?, 32)?,
                "--cache-dir" => parsed.cache_dir = Some(value()?.into()),
                "--memory" => parsed.memory = Some(number(&name, value()?, 0)?),
                "--quick" => {
                    (parsed.limit, parsed.batch) = (Some(96), 32);
                    (parsed.side, parsed.epochs) = (32, 2);
                }
                "--second-process" => parsed.second_process = Some(value()?.into()),
                "-h" | "--help" => return Ok(None),
                _ => return Err(format!("there is no argument {name}")),
            }
        }
        Ok(Some(parsed))
    }
}

fn number<N: FromStr + PartialOrd + ToString>(
    name: &str,
    value: OsString,
    least: N,
) -> Result<N, String> {
    let value = value.to_string_lossy();
    match value.parse() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!(
            "{name} {value}: expected a whole number, at least {}",
            least.to_string()
        )),
    }
}
