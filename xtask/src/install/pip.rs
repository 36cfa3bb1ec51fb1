//! One run of pip that fills a folder. What it prints goes to standard error.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::install::staged::Partial;

/// What pip installs.
pub(crate) struct PipInstall<'a> {
    pub(crate) python: &'a Path,
    pub(crate) target: &'a Path,
    /// Options and requirements.
    pub(crate) args: Vec<OsString>,
    /// For the screen, such as `torch 2.13.0`.
    pub(crate) what: &'a str,
    /// For the screen, such as `1.2 GB`.
    pub(crate) size: &'a str,
}

impl PipInstall<'_> {
    pub(crate) fn run(&self, partial: &Partial) -> Result<()> {
        let Self { what, size, .. } = self;
        eprintln!("installing {what} below target/, about {size}");
        let status = Command::new(self.python)
            .args(["-m", "pip", "install", "--no-input", "--no-compile"])
            .arg("--target")
            .arg(self.target)
            .args(&self.args)
            // pip unpacks into its temporary folder: /tmp may be small, and on one file system a move
            // is a rename.
            .env("TMPDIR", &partial.scratch)
            // Settings of a pip.conf that `--target` does not work with.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .status();
        let status = status.with_context(|| format!("cannot start {}", self.python.display()))?;
        ensure!(status.success(), "pip failed; its messages are above");
        Ok(())
    }
}
