//! Starting cargo for someone: in which folder, with which variables, and what its exit means.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// A workspace and the environment it is built in.
pub(crate) struct Cargo {
    pub(crate) root: PathBuf,
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

impl Cargo {
    /// The same with one more variable.
    pub(crate) fn with(&self, name: &'static str, value: impl Into<OsString>) -> Cargo {
        let mut variables = self.variables.clone();
        variables.push((name, value.into()));
        let root = self.root.clone();
        Cargo { root, variables }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.root)
            .envs(self.variables.iter().cloned());
        command
    }

    /// Runs cargo with the terminal as ours, after showing what is run.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<()> {
        let mut command = self.command();
        command.args(args);
        show(&command);
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Error::Reported),
            Err(cause) => Err(Error::io("start cargo")(cause)),
        }
    }

    /// Runs cargo for what it prints, while its own messages go to the terminal.
    pub(crate) fn output<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = self.command();
        command.args(args).stderr(Stdio::inherit());
        show(&command);
        let output = command.output().map_err(Error::io("start cargo"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Error::Reported),
        }
    }

    /// Whether cargo has this subcommand, which someone may not have installed.
    pub(crate) fn has(&self, subcommand: &str) -> bool {
        self.command()
            .args([subcommand, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

fn show(command: &Command) {
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    eprintln!("$ cargo {}", args.join(" "));
}
