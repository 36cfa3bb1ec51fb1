//! The command line: clap's definition of it, with values that are checked while they are parsed.
//! Nothing after this reads text from the command line again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgGroup, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use torchcache_store::Key;
use torchcache_store::admin::Keep;
use torchcache_store::size;

use crate::export::ExportPath;
use crate::time;

const AFTER_HELP: &str = "\
DIR is a directory of caches, as given to persistent_cache_dir or TORCHCACHE_DIR; most commands accept \
the directory of one cache too. URL is an object store, as given to remote or TORCHCACHE_REMOTE: \
s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path. HASH is the name of a cache in DIR or URL, or a prefix that no other name has.

Exit codes: 0 done; 1 done, and found corruption, differences, or no cache named HASH; 2 failed.";

/// Manage the caches that torchcache keeps on disk and in object stores.
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
    /// Show one cache: options, identity, rows and segments.
    Show(Show),
    /// Compare the identities of two caches.
    Diff(Diff),
    /// Check every row; with --repair, remove the corrupt ones.
    Check(Check),
    /// Free space: remove the least recently read segments or caches.
    Prune(Prune),
    /// Remove one cache, or all of them.
    Clear(Clear),
    /// Copy the rows that an object store lacks into it.
    Push(Push),
    /// Copy the rows that a directory lacks into it.
    Pull(Pull),
    /// Join small segments of an object store.
    Compact(Compact),
    /// Write the rows of a cache and their keys into a file for Python.
    Export(Export),
    /// Print the keys of rows with ids, for export --keys.
    Key(RowKeys),
    /// Print a completion script for a shell.
    Completions(Completions),
    /// Print a man page.
    Man(Man),
}

/// Where caches are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Dir(PathBuf),
    /// An object store.
    Url(String),
}

impl Location {
    /// A directory whose name looks like a URL is named as `./s3://…`.
    fn new(path: PathBuf) -> Location {
        match path.to_str() {
            Some(text) if is_url(text) => Location::Url(text.to_owned()),
            _ => Location::Dir(path),
        }
    }
}

/// Whether a text begins with a scheme.
fn is_url(text: &str) -> bool {
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn location() -> impl TypedValueParser<Value = Location> {
    PathBufValueParser::new().map(Location::new)
}

/// Refuses URLs.
fn directory() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match Location::new(path) {
        Location::Dir(dir) => Ok(dir),
        Location::Url(_) => Err(
            "it is a URL, and this works on directories; `torchcache pull` copies caches into one",
        ),
    })
}

/// Refuses directories.
fn url(text: &str) -> Result<String, &'static str> {
    match is_url(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "write a URL: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path",
        ),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Directory of caches, or of one cache, or a URL.
    #[arg(value_name = "DIR|URL", value_parser = location())]
    pub(crate) dir: Location,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Directory of caches, or of one cache, or a URL.
    #[arg(value_name = "DIR|URL", value_parser = location())]
    pub(crate) dir: Location,
    /// The cache; not needed if DIR has only one.
    pub(crate) hash: Option<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// Directory of caches.
    #[arg(value_parser = directory())]
    pub(crate) dir: PathBuf,
    /// The first cache.
    #[arg(value_name = "HASH")]
    pub(crate) before: OsString,
    /// The cache to compare it with.
    #[arg(value_name = "HASH")]
    pub(crate) after: OsString,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Directory of caches, or of one cache, or a URL.
    #[arg(value_name = "DIR|URL", value_parser = location())]
    pub(crate) dir: Location,
    /// Rewrite segments without their corrupt rows, and remove segments that cannot be read at all.
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("keep").required(true),
    override_usage = "torchcache prune [OPTIONS] <--max-size SIZE|--older-than AGE|--keep-latest N> <DIR|URL>"
)]
pub(crate) struct Prune {
    /// Directory of caches, or of one cache, or a URL.
    #[arg(value_name = "DIR|URL", value_parser = location())]
    pub(crate) dir: Location,
    /// Remove the least recently read segments until the others fit: 50GB, "512 MiB".
    #[arg(long, group = "keep", value_name = "SIZE", value_parser = max_size)]
    max_size: Option<Keep>,
    /// Remove segments that were last read longer ago than this: 12h, 30d, 4w.
    #[arg(long, group = "keep", value_name = "AGE", value_parser = older_than)]
    older_than: Option<Keep>,
    /// Keep the N most recently read caches of each type, and remove the others.
    #[arg(long, group = "keep", value_name = "N", value_parser = keep_latest)]
    keep_latest: Option<Keep>,
    /// On a URL: keep what was put within this time, whatever else is said. Machines that may not write leave no mark
    /// when they read.
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = grace)]
    pub(crate) grace: Duration,
    /// Only print what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before everything is removed.
    #[arg(long, short)]
    pub(crate) yes: bool,
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

/// Refuses a number without a unit: `--max-size 5` would be five bytes.
fn max_size(text: &str) -> Result<Keep, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    if !text.trim_end().ends_with(char::is_alphabetic) {
        let text = text.trim();
        return Err(format!(
            "write a unit, as in `50GB` or `512 MiB`; `{text}B` are {text} bytes"
        ));
    }
    Ok(Keep::MaxBytes(bytes))
}

fn older_than(text: &str) -> Result<Keep, &'static str> {
    time::parse_age(text).map(Keep::ReadWithin)
}

/// `0s` is allowed, unlike for other ages.
fn grace(text: &str) -> Result<Duration, &'static str> {
    time::parse_age(text)
}

/// Refuses 0, which would remove every cache with a manifest.
fn keep_latest(text: &str) -> Result<Keep, String> {
    match text.parse() {
        Ok(0) => Err("at least 1; `torchcache clear` removes all caches".to_owned()),
        Ok(count) => Ok(Keep::LatestPerModule(count)),
        Err(_) => Err("write a whole number".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Clear {
    /// Directory of caches, or of one cache, or a URL.
    #[arg(value_name = "DIR|URL", value_parser = location())]
    pub(crate) dir: Location,
    /// The cache; without it, all of them.
    pub(crate) hash: Option<OsString>,
    /// Only print what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// Directory of caches, or of one cache.
    #[arg(value_parser = directory())]
    pub(crate) dir: PathBuf,
    /// The object store.
    #[arg(value_parser = url)]
    pub(crate) url: String,
    /// The cache; without it, all of them.
    pub(crate) hash: Option<OsString>,
    /// Only count the rows that would be copied.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// The object store.
    #[arg(value_parser = url)]
    pub(crate) url: String,
    /// Directory of caches; made if it does not exist.
    #[arg(value_parser = directory())]
    pub(crate) dir: PathBuf,
    /// The cache; without it, all of them.
    pub(crate) hash: Option<OsString>,
    /// Only count the rows that would be copied.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compact {
    /// The object store.
    #[arg(value_parser = url)]
    pub(crate) url: String,
    /// The cache; without it, all of them.
    pub(crate) hash: Option<OsString>,
    /// Only print what would be joined and removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "torchcache export [OPTIONS] --output <FILE> <DIR> [HASH]")]
pub(crate) struct Export {
    /// Directory of caches, or of one cache.
    #[arg(value_parser = directory())]
    pub(crate) dir: PathBuf,
    /// The cache; not needed if DIR has only one.
    pub(crate) hash: Option<OsString>,
    /// The file to write; its extension, .safetensors or .npy, names the format.
    #[arg(long, short, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(ExportPath::new))]
    pub(crate) output: ExportPath,
    /// Which rows, by their number in `show`, if a cache has rows of several schemas.
    #[arg(long, value_name = "N")]
    pub(crate) schema: Option<usize>,
    /// Export the rows with these keys, in their order: a file with a key in each line, and anything after it.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RowKeys {
    /// What all keys of a call have in common: 64 hexadecimal digits, from `hex_prefix()` of a row that the
    /// program peeked.
    #[arg(value_parser = key_prefix)]
    pub(crate) prefix: Key,
    /// The ids; without any, each line of the standard input is one.
    #[arg(allow_negative_numbers = true)]
    pub(crate) ids: Vec<OsString>,
    /// The type of an id. After several types, an id is a tuple of them, and tabs separate its elements.
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_delimiter = ',',
        default_value = "text"
    )]
    pub(crate) types: Vec<IdType>,
}

/// What an id is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IdType {
    /// Text or a path, as it is.
    Text,
    /// An integer.
    Integer,
    /// Integers, with commas between them.
    Integers,
    /// Bytes in hexadecimal digits.
    Bytes,
}

fn key_prefix(text: &str) -> Result<Key, String> {
    let mut prefix = Key::default();
    match hex::decode_to_slice(text, &mut prefix) {
        Ok(()) => Ok(prefix),
        Err(error) => Err(format!("expected 64 hexadecimal digits: {error}")),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// The command; without it, the program.
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
            format!("unknown command; the commands are {}", names.join(", "))
        })
}

#[cfg(test)]
mod tests {
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
    fn clap_accepts_the_definition() {
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

    #[test]
    fn a_size_without_a_unit_is_refused() {
        for size in ["5", "0", "5e9", "5_000", "1.5"] {
            let refused = keep(&format!("--max-size {size}")).expect_err(size);
            assert!(refused.contains("write a unit"), "{refused}");
            assert!(refused.contains(&format!("`{size}B`")), "{refused}");
        }
        assert_eq!(keep("--max-size 5B"), Ok(Keep::MaxBytes(5)));
        assert_eq!(keep("--max-size 5e9b"), Ok(Keep::MaxBytes(5_000_000_000)));
    }
}
