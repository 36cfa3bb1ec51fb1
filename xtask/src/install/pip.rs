//! One run of pip that fills a folder: progress on the screen, output in a log file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::install::progress;
use crate::install::staged::Partial;

/// What pip installs.
pub(crate) struct Request<'a> {
    pub(crate) python: &'a Path,
    pub(crate) target: &'a Path,
    /// Options and requirements.
    pub(crate) args: Vec<OsString>,
    /// For the screen, such as `torch 2.13.0`.
    pub(crate) what: &'a str,
    /// For the screen, such as `1.2 GB`.
    pub(crate) size: &'a str,
}

impl Request<'_> {
    /// Runs pip. If it fails, the error holds the end of its output.
    pub(crate) fn run(&self, partial: &Partial) -> Result<()> {
        let Self { what, size, .. } = self;
        let log = &partial.log;
        let output = File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
        let (output, errors) =
            output.with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(self.python);
        command
            .args(["-m", "pip", "install", "--no-input", "--no-compile"])
            .args(["--progress-bar", "off", "--target"])
            .arg(self.target)
            .args(&self.args)
            // pip unpacks into its temporary folder: /tmp may be small, and on one file system a move
            // is a rename.
            .env("TMPDIR", &partial.scratch)
            // Settings of a pip.conf that `--target` does not work with.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        eprintln!("installing {what} below target/, about {size}");
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.python.display()))?;
        let status = progress::watch(&mut child, what, partial.folder());
        if !status.context("cannot wait for pip")?.success() {
            bail!(
                "pip failed:\n  {}\n(full output: {})",
                last_lines(log),
                log.display()
            );
        }
        Ok(())
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_last_lines_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lines: Vec<_> = (0..50).map(|number| format!("line {number};")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let text = last_lines(&log);
        assert!(
            text.contains("line 49;") && !text.contains("line 10;"),
            "{text}"
        );
    }
}
