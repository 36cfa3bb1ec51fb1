//! How a command of ours ends when it does not end well: one line to read and an exit code.

use std::fmt;
use std::process::ExitCode;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub(crate) enum Error {
    /// The command line was not understood. Exit code 2.
    Usage(String),
    /// The work failed. Exit code 1.
    Failed(String),
    /// The work failed and the program that did it has said so: a second message would only
    /// push the test runner's count off the last line. Exit code 1.
    Reported,
}

impl Error {
    /// For the calls of the standard library, whose errors name neither the deed nor the file.
    pub(crate) fn io(deed: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Failed(format!("cannot {deed}: {cause}"))
    }

    pub(crate) fn print(&self) {
        match self {
            Self::Usage(text) => {
                eprintln!("error: {text}\n`cargo xtask` lists the commands and their options.");
            }
            Self::Failed(text) => eprintln!("error: {text}"),
            Self::Reported => {}
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Reported => ExitCode::from(1),
        }
    }
}
