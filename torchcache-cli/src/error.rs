//! Errors that end a command: a message and an exit code.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;

use crate::text::{path_text, plain};

/// Why a command printed no result. The message has no control characters, whatever names it repeats.
#[derive(Debug)]
pub(crate) struct Error {
    code: u8,
    text: String,
}

impl Error {
    /// Nothing has the given name. Exit code 1.
    pub(crate) fn not_found(text: impl Display) -> Error {
        let text = plain(text);
        Error { code: 1, text }
    }

    /// The command failed. Exit code 2.
    pub(crate) fn failed(text: impl Display) -> Error {
        let text = plain(text);
        Error { code: 2, text }
    }

    /// Adds choices, each on a line of its own.
    pub(crate) fn with_choices(mut self, lines: impl IntoIterator<Item = String>) -> Error {
        self.text.push(':');
        for line in lines {
            self.text += &format!("\n  {}", plain(&line));
        }
        self
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Adds the action and the path to an error of the system, which names neither.
    pub(crate) fn io(action: impl Display, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| {
            let hint = match path.as_os_str().as_encoded_bytes() {
                [b'~' | b'$', ..] if error.kind() == io::ErrorKind::NotFound => {
                    "; only a shell expands `~` and variables, and only outside quotes"
                }
                _ => "",
            };
            let path = path_text(path);
            Error::failed(format!("cannot {action} {path}: {error}{hint}"))
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
