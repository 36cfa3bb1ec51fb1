//! Starting programs: what is shown, and what their exit status means.

use std::fmt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use xshell::{Cmd, Shell, cmd};

/// A program failed and has printed why. Nothing is added: the last line stays the test runner's.
#[derive(Debug)]
pub(crate) struct Reported;

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a program failed")
    }
}

impl std::error::Error for Reported {}

/// Runs a program that prints to the terminal.
pub(crate) fn run(command: Cmd<'_>) -> Result<()> {
    let shown = show(&command);
    let status = Command::from(command).status();
    match status.with_context(|| format!("cannot start `{shown}`"))? {
        status if status.success() => Ok(()),
        _ => Err(Reported.into()),
    }
}

/// Runs a program for what it prints to standard output.
pub(crate) fn read(command: Cmd<'_>) -> Result<String> {
    capture(command)?.map_err(|_| Reported.into())
}

/// Runs tests for what they print, and prints it if one fails.
pub(crate) fn read_tests(command: Cmd<'_>) -> Result<String> {
    capture(command)?.map_err(|output| {
        eprint!("{output}");
        Reported.into()
    })
}

/// The standard output of a program that succeeded, or of one that failed.
fn capture(command: Cmd<'_>) -> Result<Result<String, String>> {
    let shown = show(&command);
    let output = Command::from(command).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{shown}`"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    })
}

fn show(command: &Cmd<'_>) -> String {
    let shown = command.to_string();
    eprintln!("$ {shown}");
    shown
}

/// Whether `cargo nextest` is installed.
pub(crate) fn has_nextest(sh: &Shell) -> bool {
    let version = cmd!(sh, "cargo nextest --version").quiet();
    version.ignore_stdout().ignore_stderr().run().is_ok()
}
