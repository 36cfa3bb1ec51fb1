//! Starting cargo for someone: in which folder, with which variables, and what its exit means.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// A workspace and the environment it is built in.
#[derive(Clone)]
pub(crate) struct Cargo {
    pub(crate) root: PathBuf,
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// Another compiler than the one that built us, by the name that rustup knows it by.
    pub(crate) toolchain: Option<&'static str>,
}

impl Cargo {
    /// The same with one more variable.
    pub(crate) fn with(&self, name: &'static str, value: impl Into<OsString>) -> Cargo {
        let mut cargo = self.clone();
        cargo.variables.push((name, value.into()));
        cargo
    }

    /// The same with another compiler.
    pub(crate) fn on(&self, toolchain: &'static str) -> Cargo {
        let mut cargo = self.clone();
        cargo.toolchain = Some(toolchain);
        cargo
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = match self.toolchain {
            None => Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
            Some(toolchain) => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", toolchain, "cargo"]);
                rustup
            }
        };
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
        self.capture(args)?.map_err(|_| Error::Reported)
    }

    /// The same for tests: what they printed goes to the terminal as well if one fails.
    pub(crate) fn test_output<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        self.capture(args)?.map_err(|said| {
            eprint!("{said}");
            Error::Reported
        })
    }

    /// What cargo printed: `Ok` if it succeeded, `Err` if it did not.
    fn capture<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<std::result::Result<String, String>> {
        let mut command = self.command();
        command.args(args).stderr(Stdio::inherit());
        show(&command);
        let output = command.output().map_err(Error::io("start cargo"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(match output.status.success() {
            true => Ok(said),
            false => Err(said),
        })
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
    let program = Path::new(command.get_program()).file_name();
    let words = program.into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    eprintln!("$ {}", words.join(" "));
}
