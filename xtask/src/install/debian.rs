//! Packages of Debian, unpacked without installing them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::install::staged::Partial;

/// Fetches packages, each as `name` or `name=version`, and unpacks them into one folder.
pub(crate) fn unpack(packages: &[String], folder: &Path, partial: &Partial) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(&partial.scratch);
    cmd!(sh, "apt-get download {packages...}").quiet().read()?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    for package in sh.read_dir(".")?.into_iter().filter(is_package) {
        cmd!(sh, "dpkg-deb --extract {package} {folder}")
            .quiet()
            .read()?;
    }
    Ok(())
}
