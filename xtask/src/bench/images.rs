//! The images of Fashion-MNIST: in the folder that `TORCHCACHE_FASHION_MNIST` names, else where
//! Debian's package `dataset-fashion-mnist` puts them, else from that package, below
//! `target/datasets/`, without installing it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::staged::{Partial, Staged};

/// Names a folder to us, and the one that is used to the benchmark.
pub(crate) const VARIABLE: &str = "TORCHCACHE_FASHION_MNIST";

const PACKAGE: &str = "dataset-fashion-mnist";
/// Where the package has the images, from the root of the system.
const PLACE: &str = "usr/share/datasets/fashion-mnist";

const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// A folder that has the images. With `quick` nothing is fetched: `None` where they are not there.
pub(crate) fn folder(root: &Path, quick: bool) -> Result<Option<PathBuf>> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return match missing(&named) {
            None => Ok(Some(named)),
            Some(file) => Err(Error::Failed(format!(
                "{VARIABLE}={}: there is no {file} in it, gzipped or not",
                named.display()
            ))),
        };
    }
    let installed = Path::new("/").join(PLACE);
    if missing(&installed).is_none() {
        return Ok(Some(installed));
    }
    let staged = Staged {
        all: &root.join("target/datasets"),
        name: "fashion-mnist",
    };
    let accepted = [PACKAGE.to_owned()];
    if quick && !staged.is_complete(&accepted) {
        return Ok(None);
    }
    staged.ensure(&accepted, fetch).map(Some)
}

/// The first file that is not there.
fn missing(folder: &Path) -> Option<&'static str> {
    let there =
        |file: &str| folder.join(file).is_file() || folder.join(format!("{file}.gz")).is_file();
    FILES.into_iter().find(|file| !there(file))
}

fn fetch(partial: &Partial) -> Result<()> {
    eprintln!("fetching Debian's package {PACKAGE}, about 31 MB, into target/datasets/");
    let advice = |reason: String| {
        Error::Failed(format!(
            "{reason}\n(The images are in Debian's package {PACKAGE}, which apt-get could not \
             download here. Put the four files of Fashion-MNIST into a folder and set {VARIABLE} \
             to it.)"
        ))
    };
    let scratch = &partial.scratch;
    run(Command::new("apt-get")
        .args(["download", PACKAGE])
        .current_dir(scratch))
    .map_err(advice)?;
    let files = fs::read_dir(scratch).map_err(Error::io("list what was downloaded"))?;
    let package = files
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| advice("apt-get left no package".into()))?;
    let unpacked = scratch.join("unpacked");
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(package)
        .arg(&unpacked))
    .map_err(advice)?;
    for entry in fs::read_dir(unpacked.join(PLACE)).map_err(Error::io("list the images"))? {
        let from = entry.map_err(Error::io("list the images"))?.path();
        let name = from.file_name().expect("a listed file has a name");
        let into = partial.fresh.join(name);
        fs::rename(&from, &into).map_err(Error::io(format!("move {}", from.display())))?;
    }
    match missing(&partial.fresh) {
        None => Ok(()),
        Some(file) => Err(advice(format!("there is no {file} in the package"))),
    }
}

fn run(command: &mut Command) -> std::result::Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_with_all_four_files_gzipped_or_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(missing(folder.path()), Some(FILES[0]));
        for (number, file) in FILES.into_iter().enumerate() {
            assert_eq!(missing(folder.path()), Some(file));
            let name = if number % 2 == 0 {
                file.to_owned()
            } else {
                format!("{file}.gz")
            };
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(missing(folder.path()), None);
    }
}
