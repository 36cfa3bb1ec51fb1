//! Azurite, an emulator of Azure for the long tests of the remote tier, below `target/azurite/`. npm fetches it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::install::staged::{Partial, Staged};

const VERSION: &str = "3.37.0";

/// Its program for blobs, which is installed below `target/` if it is missing, where the machine has npm. Else the one in
/// `PATH`, or `None`.
pub(crate) fn program(root: &Path) -> Result<Option<PathBuf>> {
    const PROGRAM: &str = "azurite-blob";
    let staged = Staged {
        parent: &root.join("target/azurite"),
        name: VERSION,
    };
    let accepted = [format!("azurite@{VERSION}")];
    if staged.is_complete(&accepted) || super::in_path("npm").is_some() {
        let folder = staged.ensure(&accepted, install)?;
        return Ok(Some(folder.join("node_modules/.bin").join(PROGRAM)));
    }
    Ok(super::in_path(PROGRAM))
}

fn install(partial: &Partial) -> Result<()> {
    eprintln!("installing Azurite {VERSION} below target/, about 360 MB");
    let status = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--loglevel=error",
            "--prefix",
        ])
        .arg(&partial.content)
        .arg(format!("azurite@{VERSION}"))
        .env("TMPDIR", &partial.scratch)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status();
    let status = status.context("cannot start npm")?;
    ensure!(status.success(), "npm failed; its messages are above");
    Ok(())
}
