//! The command line: raw arguments become checked ones in one step.

use std::env;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

pub(crate) const HELP: &str = "\
Embeds definitions of English words with all-MiniLM-L6-v2, again, and once more after 1 % of them
changed; then finds those that are nearest in meaning to each QUERY.

  QUERY ...         what to look for (default: three descriptions of words)
  --model DIR       the folder of the model (default: TORCHCACHE_MINILM, else where
                    `cargo xtask minilm` puts it)
  --texts N         embed only the first N definitions, 100 to 4000 (default 4000)
  --batch N         texts in a batch (default 64)
  --cache-dir DIR   keep the embeddings there (default: target/semantic_search)
";

/// Names the folder of the model, where there is no argument.
const MODEL: &str = "TORCHCACHE_MINILM";

/// Below `target/`: where `cargo xtask minilm` puts the model.
const FETCHED: &str = "minilm/0.1.0";

const QUERIES: [&str; 3] = [
    "the room where food is cooked",
    "frozen water falling from the sky",
    "feeling sorry for what one did",
];

/// What to embed, with what, and what to look for.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) queries: Vec<String>,
    pub(crate) model: PathBuf,
    pub(crate) texts: usize,
    pub(crate) batch: usize,
    pub(crate) cache_dir: PathBuf,
    /// Set by the first process for the second: the file of the embeddings it must find.
    pub(crate) second_process: Option<PathBuf>,
}

impl Args {
    /// `None` where only the help was asked for.
    ///
    /// # Errors
    ///
    /// A message that names the argument.
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let named = env::var_os(MODEL).filter(|folder| !folder.is_empty());
        let mut parsed = Args {
            queries: Vec::new(),
            model: named.map_or_else(|| target().join(FETCHED), PathBuf::from),
            texts: 4000,
            batch: 64,
            cache_dir: target().join("semantic_search"),
            second_process: None,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let name = arg.to_string_lossy().into_owned();
            let mut value = || args.next().ok_or(format!("{name} wants a value"));
            match name.as_str() {
                "--model" => parsed.model = value()?.into(),
                "--texts" => parsed.texts = number(&name, value()?, 100..=4000)?,
                "--batch" => parsed.batch = number(&name, value()?, 1..=4000)?,
                "--cache-dir" => parsed.cache_dir = value()?.into(),
                "--second-process" => parsed.second_process = Some(value()?.into()),
                "-h" | "--help" => return Ok(None),
                _ if name.starts_with('-') => return Err(format!("there is no argument {name}")),
                _ => parsed.queries.push(name),
            }
        }
        if parsed.queries.is_empty() {
            parsed.queries = QUERIES.map(str::to_owned).to_vec();
        }
        Ok(Some(parsed))
    }
}

fn target() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("examples/ lies in the root");
    root.join("target")
}

fn number(name: &str, value: OsString, allowed: RangeInclusive<usize>) -> Result<usize, String> {
    let value = value.to_string_lossy();
    match value.parse() {
        Ok(number) if allowed.contains(&number) => Ok(number),
        _ => Err(format!(
            "{name} {value}: expected a whole number, {} to {}",
            allowed.start(),
            allowed.end()
        )),
    }
}
