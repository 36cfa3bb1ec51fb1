//! How a command ends when it does not end well: one message and an exit code.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;

use crate::text::plain;

/// Why there is nothing to print. The message holds nothing that could move the cursor, whatever
/// names it repeats.
#[derive(Debug)]
pub(crate) struct Error {
    code: u8,
    text: String,
}

impl Error {
    /// Nothing is what was named. Exit code 1.
    pub(crate) fn nothing(text: impl Display) -> Error {
        let text = plain(&text.to_string());
        Error { code: 1, text }
    }

    /// It was not done. Exit code 2.
    pub(crate) fn not_done(text: impl Display) -> Error {
        let text = plain(&text.to_string());
        Error { code: 2, text }
    }

    /// With something to choose from, each on a line of its own.
    pub(crate) fn listing(mut self, lines: impl IntoIterator<Item = String>) -> Error {
        self.text.push(':');
        for line in lines {
            self.text += &format!("\n  {}", plain(&line));
        }
        self
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// For the system, whose errors do not name the file.
    pub(crate) fn io(deed: impl Display, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::not_done(format!("cannot {deed} {}: {error}", path.display()))
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
