//! The images of Fashion-MNIST: in the folder that `TORCHCACHE_FASHION_MNIST` names, else where
//! Debian's package `dataset-fashion-mnist` installs them, else below `target/datasets/`, out of that
//! package without installing it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::Shell;

use crate::install::debian;
use crate::install::staged::{Partial, Staged};

/// Names the folder, for this program and for the benchmark.
pub(crate) const VARIABLE: &str = "TORCHCACHE_FASHION_MNIST";

const PACKAGE: &str = "dataset-fashion-mnist";
/// The folder in the package, relative to the root of the system.
const FOLDER: &str = "usr/share/datasets/fashion-mnist";

const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// The folder of the images. With `quick` nothing is fetched: `None` if they are missing.
pub(crate) fn folder(root: &Path, quick: bool) -> Result<Option<PathBuf>> {
    if let Some(named) = super::named(VARIABLE) {
        return match missing(&named) {
            None => Ok(Some(named)),
            Some(file) => bail!(
                "{VARIABLE}={} has no {file}, gzipped or not",
                named.display()
            ),
        };
    }
    let installed = Path::new("/").join(FOLDER);
    if missing(&installed).is_none() {
        return Ok(Some(installed));
    }
    let staged = Staged {
        parent: &root.join("target/datasets"),
        name: "fashion-mnist",
    };
    let accepted = [PACKAGE.to_owned()];
    if quick && !staged.is_complete(&accepted) {
        return Ok(None);
    }
    let folder = staged.ensure(&accepted, fetch).with_context(|| {
        format!(
            "the images could not be fetched from Debian's package {PACKAGE}. Put the four files of \
             Fashion-MNIST into a folder and set {VARIABLE} to it"
        )
    });
    folder.map(Some)
}

/// The first file that is missing.
fn missing(folder: &Path) -> Option<&'static str> {
    let exists =
        |file: &str| folder.join(file).is_file() || folder.join(format!("{file}.gz")).is_file();
    FILES.into_iter().find(|file| !exists(file))
}

fn fetch(partial: &Partial) -> Result<()> {
    eprintln!("fetching Debian's package {PACKAGE}, about 31 MB, into target/datasets/");
    let unpacked = partial.scratch.join("unpacked");
    debian::unpack(&[PACKAGE.to_owned()], &unpacked, partial)?;
    for file in Shell::new()?.read_dir(unpacked.join(FOLDER))? {
        let name = file.file_name().expect("a listed file has a name");
        fs::rename(&file, partial.content.join(name))
            .with_context(|| format!("cannot move {}", file.display()))?;
    }
    match missing(&partial.content) {
        None => Ok(()),
        Some(file) => bail!("no {file} in the package"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_needs_all_four_files_gzipped_or_not() {
        let folder = tempfile::tempdir().unwrap();
        for (file, extension) in FILES.into_iter().zip(["", ".gz", "", ".gz"]) {
            assert_eq!(missing(folder.path()), Some(file));
            fs::write(folder.path().join(format!("{file}{extension}")), "").unwrap();
        }
        assert_eq!(missing(folder.path()), None);
    }
}
