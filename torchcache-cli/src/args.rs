//! The command line: clap's definition of it, with values that are checked while they are parsed.
//! Nothing after this reads text from the command line again.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgGroup, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use torchcache_store::admin::Keep;
use torchcache_store::size::{self, SizeError};

use crate::export::ExportPath;
use crate::time;

const AFTER_HELP: &str = "\
DIR is a directory of caches, as given to persistent_cache_dir or TORCHCACHE_DIR; most commands take \
the directory of one cache as well. HASH is the name of a cache in it: any beginning that only one of \
them has.

Exit codes: 0 done; 1 done, and something was found: damage, differences, or nothing that HASH means; \
2 not done.";

/// Look after the caches that torchcache keeps on disk.
#[derive(Debug, Parser)]
#[command(name = "torchcache", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the caches, most recently read first.
    Ls(Ls),
    /// Show one cache: options, identity, what its rows are, segments.
    Show(Show),
    /// Say what changed between the identities of two caches.
    Diff(Diff),
    /// Read every row and check that it is what was written.
    Check(Check),
    /// Make room: remove what was read least recently.
    Prune(Prune),
    /// Remove a cache, or all of them.
    Clear(Clear),
    /// Write the rows of a cache, with their keys, into one file for Python.
    Export(Export),
    /// Print a completion script for a shell.
    Completions(Completions),
    /// Print a man page.
    Man(Man),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Directory of caches, or of one cache.
    pub(crate) dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Directory of caches, or of one cache.
    pub(crate) dir: PathBuf,
    /// Which cache; not needed where DIR has one only.
    pub(crate) hash: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// Directory of caches.
    pub(crate) dir: PathBuf,
    /// The cache to compare.
    #[arg(value_name = "HASH")]
    pub(crate) before: String,
    /// What to compare it with.
    #[arg(value_name = "HASH")]
    pub(crate) after: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Directory of caches, or of one cache.
    pub(crate) dir: PathBuf,
    /// Write damaged segments anew without the rows that are bad, and remove what cannot be read at
    /// all.
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("keep").required(true),
    override_usage = "torchcache prune [OPTIONS] <--max-size SIZE|--older-than AGE|--keep-latest N> <DIR>"
)]
pub(crate) struct Prune {
    /// Directory of caches, or of one cache.
    pub(crate) dir: PathBuf,
    /// Remove the least recently read segments until the rest is no larger: 50GB, 5e9, "512 MiB".
    #[arg(long, group = "keep", value_name = "SIZE", value_parser = max_size)]
    max_size: Option<Keep>,
    /// Remove segments that were not read for so long: 12h, 30d, 4w.
    #[arg(long, group = "keep", value_name = "AGE", value_parser = older_than)]
    older_than: Option<Keep>,
    /// Keep the N most recently read caches of each type, and remove the others.
    #[arg(long, group = "keep", value_name = "N", value_parser = keep_latest)]
    keep_latest: Option<Keep>,
    /// Only tell what would go.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Prune {
    /// The criterion.
    ///
    /// # Panics
    /// Never: clap requires exactly one option of the group.
    pub(crate) fn keep(&self) -> Keep {
        let given = self.max_size.or(self.older_than).or(self.keep_latest);
        given.expect("clap requires one option of the group")
    }
}

fn max_size(text: &str) -> Result<Keep, SizeError> {
    size::parse(text).map(Keep::MaxBytes)
}

fn older_than(text: &str) -> Result<Keep, String> {
    time::parse_age(text).map(Keep::ReadWithin)
}

/// None at all is not what is read last, and would take every cache that has a manifest.
fn keep_latest(text: &str) -> Result<Keep, String> {
    match text.parse() {
        Ok(0) => Err("it keeps at least 1; `torchcache clear` removes all".to_owned()),
        Ok(count) => Ok(Keep::LatestPerModule(count)),
        Err(_) => Err("write a whole number".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Clear {
    /// Directory of caches, or of one cache.
    pub(crate) dir: PathBuf,
    /// Which cache; without it, all of them.
    pub(crate) hash: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "torchcache export [OPTIONS] --output <FILE> <DIR> [HASH]")]
pub(crate) struct Export {
    /// Directory of caches, or of one cache.
    pub(crate) dir: PathBuf,
    /// Which cache; not needed where DIR has one only.
    pub(crate) hash: Option<String>,
    /// The file to write: its ending, .safetensors or .npy, says which format.
    #[arg(long, short, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(ExportPath::new))]
    pub(crate) output: ExportPath,
    /// Which rows, by the number that `show` gives them, where a cache has rows of several sorts.
    #[arg(long, value_name = "N")]
    pub(crate) schema: Option<usize>,
    /// Replace the file if there is one.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell.
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Of which command; without it, of the program.
    #[arg(value_parser = subcommand)]
    pub(crate) command: Option<Box<clap::Command>>,
}

/// The definition of the whole program.
pub(crate) fn definition() -> clap::Command {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    program
}

fn subcommand(name: &str) -> Result<Box<clap::Command>, String> {
    let program = definition();
    program
        .find_subcommand(name)
        .cloned()
        .map(Box::new)
        .ok_or_else(|| {
            let names: Vec<_> = program.get_subcommands().map(|it| it.get_name()).collect();
            format!("there is no such command; there are {}", names.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keep(line: &str) -> Result<Keep, String> {
        let line = format!("torchcache prune DIR {line}");
        match Args::try_parse_from(line.split(' ').filter(|word| !word.is_empty())) {
            Ok(Args {
                command: Command::Prune(prune),
                ..
            }) => Ok(prune.keep()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn prune_takes_exactly_one_criterion() {
        assert_eq!(keep("--max-size 50GB"), Ok(Keep::MaxBytes(50_000_000_000)));
        let month = Duration::from_secs(30 * 86_400);
        assert_eq!(keep("--older-than 30d"), Ok(Keep::ReadWithin(month)));
        assert_eq!(keep("--keep-latest 3"), Ok(Keep::LatestPerModule(3)));
        for line in [
            "",
            "--max-size 1GB --keep-latest 1",
            "--max-size 1X",
            "--older-than 3",
            "--keep-latest -1",
        ] {
            let error = keep(line).expect_err(line);
            assert!(error.contains("--max-size") || error.contains("--older-than"));
        }
        let none = keep("--keep-latest 0").expect_err("it would remove everything");
        assert!(none.contains("`torchcache clear` removes all"), "{none}");
    }
}
