//! One run of pip that fills a folder, with its progress on the screen and its output in a file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::progress;
use crate::staged::Partial;

/// What to ask pip for.
pub(crate) struct Request<'a> {
    pub(crate) python: &'a Path,
    /// Into which folder.
    pub(crate) target: &'a Path,
    /// Beside what every run has: options and requirements.
    pub(crate) args: Vec<OsString>,
    /// For the screen: `torch 2.13.0`, and `1.2 GB`.
    pub(crate) what: &'a str,
    pub(crate) size: &'a str,
}

impl Request<'_> {
    /// Runs it. Where pip fails, the error is the end of what it said.
    pub(crate) fn run(&self, partial: &Partial) -> Result<()> {
        let log = &partial.log;
        let output = File::create(log).map_err(Error::io(format!("make {}", log.display())))?;
        let errors = output
            .try_clone()
            .map_err(Error::io(format!("open {}", log.display())))?;
        let mut command = Command::new(self.python);
        command
            .args(["-m", "pip", "install", "--no-input", "--no-compile"])
            .args(["--progress-bar", "off", "--target"])
            .arg(self.target)
            .args(&self.args);
        // pip unpacks in its temporary folder: /tmp may be small, and a move within one file
        // system is a rename. The settings of someone's pip.conf do not go together with --target.
        command
            .env("TMPDIR", &partial.scratch)
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);

        let Self { what, size, .. } = self;
        eprintln!("installing {what} below target/, about {size}");
        let mut child = command
            .spawn()
            .map_err(Error::io(format!("run {}", self.python.display())))?;
        let status = progress::watch(&mut child, what, partial.whole())
            .map_err(Error::io("wait for pip"))?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::Failed(failed(log))),
        }
    }
}

fn failed(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(8)..].join("\n  ");
    format!("pip failed:\n  {end}\n(all of it: {})", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_pip_fails_the_message_shows_the_end_of_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lines: Vec<_> = (0..50).map(|number| format!("line {number};")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let text = failed(&log);
        assert!(
            text.contains("line 49;") && !text.contains("line 10;"),
            "{text}"
        );
        assert!(text.contains(&log.display().to_string()), "{text}");
    }
}
