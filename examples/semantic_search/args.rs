//! The command line.

use std::env;
use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use clap::{Parser, ValueEnum};

const QUERIES: [&str; 3] = [
    "the room where food is cooked",
    "frozen water falling from the sky",
    "feeling sorry for what one did",
];

/// Embeds definitions of English words with all-MiniLM-L6-v2, again, and once more after 1 % of them
/// changed; then finds those that are nearest in meaning to each QUERY.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// What to look for [default: three descriptions of words]
    #[arg(value_name = "QUERY", default_values = QUERIES, hide_default_value = true)]
    pub(crate) queries: Vec<String>,
    /// The folder of the model; `cargo xtask minilm` fetches it, TORCHCACHE_MINILM names another
    #[arg(long, value_name = "DIR", default_value_os_t = model())]
    pub(crate) model: PathBuf,
    /// Embed only the first N definitions, 100 to 4000
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = between(100, 4000))]
    pub(crate) texts: usize,
    /// Texts in a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between(1, 4000))]
    pub(crate) batch: usize,
    /// Keep the embeddings in this folder
    #[arg(long, value_name = "DIR", default_value_os_t = target().join("semantic_search"))]
    pub(crate) cache_dir: PathBuf,
    /// Print how often 1024 texts are found again in shuffled batches, by the marks of the arguments
    #[arg(long)]
    pub(crate) padding: bool,
    /// Print what rows take, lose and cost in each kind that outputs are rounded to
    #[arg(long, conflicts_with = "padding")]
    pub(crate) precision: bool,
    /// Only with --precision or --machines: of little data
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print what machines compute, read and request that share a bucket; starts a server for it, which
    /// TORCHCACHE_SEAWEEDFS names
    #[arg(long, conflicts_with_all = ["padding", "precision"])]
    pub(crate) machines: bool,
    /// Only with --machines: the bucket, in place of that of a server
    #[arg(long, value_name = "URL", requires = "machines")]
    pub(crate) remote: Option<String>,
    /// Set by --machines for its processes: what is done with each batch
    #[arg(long, hide = true)]
    pub(crate) machine: Option<Work>,
    /// Set by --machines: 1 % of the texts are changed
    #[arg(long, hide = true)]
    pub(crate) edited: bool,
    /// Set by --machines: where the embeddings are written to
    #[arg(long, hide = true)]
    pub(crate) embeddings: Option<PathBuf>,
    /// Set by the first process for the second: the file of the expected embeddings
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) second_process: Option<PathBuf>,
}

/// What a machine does with each batch of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Nothing.
    None,
    /// It trains a head.
    Head,
    /// It trains a head, and meanwhile reads the rows of the next batch.
    HeadAndReadAhead,
}

impl Work {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::None => "none",
            Work::Head => "head",
            Work::HeadAndReadAhead => "head-and-read-ahead",
        }
    }
}

fn model() -> PathBuf {
    let named = env::var_os("TORCHCACHE_MINILM").filter(|folder| !folder.is_empty());
    named.map_or_else(|| target().join("minilm/0.1.0"), PathBuf::from)
}

fn target() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("examples/ is in the root");
    root.join("target")
}

fn between(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}
