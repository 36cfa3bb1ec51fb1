//! How a command ends when it does not end well: one message and an exit code.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing is what was named. Exit code 1.
    #[error("{0}")]
    Nothing(String),
    /// It was not done. Exit code 2.
    #[error("{0}")]
    NotDone(String),
}

impl Error {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Error::Nothing(_) => 1,
            Error::NotDone(_) => 2,
        }
    }

    /// For the system, whose errors do not name the file.
    pub(crate) fn io(deed: impl Display, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::NotDone(format!("cannot {deed} {}: {error}", path.display()))
    }
}
