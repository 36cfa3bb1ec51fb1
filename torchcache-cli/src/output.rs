//! Prints results: text or one JSON document on standard output, notes and errors on standard error. A
//! pipe that was closed early is not an error.

use std::fmt::Display;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anstream::AutoStream;
use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use serde_json::Value;
use terminal_size::terminal_size_of;

use crate::error::Error;
use crate::text::{escaped, harmless, path_text, plain, width};

pub(crate) const HEADER: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const DIM: Style = Style::new().dimmed();
const NOTE: Style = AnsiColor::Yellow.on_default();

/// Further indents the continuation of a long line.
const HANGING: &str = "  ";

/// The result of a command.
#[derive(Debug)]
pub(crate) struct CommandReport {
    /// For people. May be styled.
    text: String,
    /// For programs.
    json: Value,
    code: u8,
    /// Whether the text is for programs too, and is printed without wrapping.
    is_source: bool,
}

impl CommandReport {
    pub(crate) fn new(text: String, json: Value) -> CommandReport {
        CommandReport::with_code(text, json, 0)
    }

    pub(crate) fn with_code(text: String, json: Value, code: u8) -> CommandReport {
        CommandReport {
            text,
            json,
            code,
            is_source: false,
        }
    }

    /// A text that shells and other programs read.
    pub(crate) fn source(text: String, json: Value) -> CommandReport {
        CommandReport {
            is_source: true,
            ..CommandReport::new(text, json)
        }
    }
}

/// How to print.
#[derive(Debug)]
pub(crate) struct Printer {
    json: bool,
    /// The time that ages are counted from.
    pub(crate) now: SystemTime,
    /// The width that text has to fit; `None` for files and pipes.
    pub(crate) columns: Option<usize>,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Printer {
        Printer {
            json,
            now: SystemTime::now(),
            columns: columns(&io::stdout()),
        }
    }

    /// Prints a result, and returns its exit code.
    pub(crate) fn print(&self, report: CommandReport) -> ExitCode {
        let written = match (self.json, report.is_source) {
            (true, _) => {
                let document = format!("{:#}\n", report.json);
                write_raw(escaped(&document).as_bytes())
            }
            (false, true) => write_raw(report.text.as_bytes()),
            (false, false) => write_styled(&wrapped(&report.text, self.columns)),
        };
        exit_code(written, report.code)
    }

    /// Prints a note next to the result: plain text on one line.
    pub(crate) fn note(&self, text: impl Display) {
        let text = format!("{NOTE}note:{NOTE:#} {}\n", plain(text));
        write_stderr(&wrapped(&text, columns(&io::stderr())));
    }
}

/// Prints an error, and returns its exit code.
pub(crate) fn print_error(error: &Error) -> ExitCode {
    let text = format!("{BAD}torchcache:{BAD:#} {error}\n");
    write_stderr(&wrapped(&text, columns(&io::stderr())));
    ExitCode::from(error.code())
}

/// A line about a file or directory for which something failed.
pub(crate) fn failure(what: &str, path: &Path, error: impl Display) -> String {
    let (path, error) = (plain(path_text(path)), plain(error));
    format!("{BAD}{what}{BAD:#}: {path}: {error}\n")
}

/// Asks a question on the terminal. Returns whether the answer is `y` or `yes`.
///
/// Without a terminal, the error is `refusal`.
pub(crate) fn confirm(question: &str, refusal: impl Display) -> Result<bool, Error> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::failed(refusal));
    }
    let question = wrapped(&format!("{question} [y/N]"), columns(&io::stderr()));
    write_stderr(&format!("{} ", question.trim_end()));
    let mut answer = String::new();
    let answered = io::stdin().lock().read_line(&mut answer);
    answered.map_err(|error| Error::failed(format!("cannot read the answer: {error}")))?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}

/// Prints clap's help, version or usage error, and returns the exit code.
pub(crate) fn print_usage(error: &clap::Error) -> ExitCode {
    // It repeats arguments, which may be file names that another user chose.
    let is_plain = |arg: std::ffi::OsString| arg.to_str().is_some_and(|arg| plain(arg) == arg);
    let text = match std::env::args_os().all(is_plain) {
        true => error.render().ansi().to_string(),
        false => {
            let lines = error.render().to_string();
            lines.lines().map(|line| plain(line) + "\n").collect()
        }
    };
    if error.use_stderr() {
        let text = text.replacen("error:", "torchcache:", 1);
        write_stderr(&text);
        return ExitCode::from(2);
    }
    exit_code(write_styled(&text), 0)
}

/// A reader that closes the pipe has read enough: `code` stays what it is.
fn exit_code(written: io::Result<()>, code: u8) -> ExitCode {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            print_error(&Error::failed(format!("cannot print: {error}")))
        }
        _ => ExitCode::from(code),
    }
}

/// Writes to standard output, without colours if it is not a terminal.
fn write_styled(text: &str) -> io::Result<()> {
    let mut out = AutoStream::auto(io::stdout().lock());
    out.write_all(harmless(text).as_bytes())?;
    out.flush()
}

/// Writes to standard output as it is: removing colours could remove letters of names.
fn write_raw(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

fn write_stderr(text: &str) {
    // If this fails, there is nowhere to report it.
    let _ = AutoStream::auto(io::stderr().lock()).write_all(harmless(text).as_bytes());
}

/// `COLUMNS` if it is set, otherwise the width of the terminal.
fn columns(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let set = std::env::var("COLUMNS").ok();
    let set = set.and_then(|columns| columns.parse().ok());
    set.filter(|&columns| columns > 0).or_else(|| {
        let size = stream.is_terminal().then(|| terminal_size_of(stream));
        size.flatten().map(|(width, _)| usize::from(width.0))
    })
}

/// Breaks long lines between words, and indents the continuation. A word that is longer than a line is
/// left to the terminal, so that it can be copied.
fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else {
        return text.to_owned();
    };
    text.lines()
        .map(|line| wrapped_line(line, columns))
        .collect()
}

fn wrapped_line(line: &str, columns: usize) -> String {
    let words = line.trim_start_matches(' ');
    let indent = &line[..line.len() - words.len()];
    let mut wrapped = indent.to_owned();
    // The columns that the present line takes; none without a word in it.
    let mut used = None;
    for piece in words.split_inclusive(' ') {
        let word = piece.trim_end_matches(' ');
        let columns_of_word = width(&strip_str(word).to_string());
        let mut begin = used.unwrap_or(indent.len());
        if used.is_some() && !word.is_empty() && begin + columns_of_word > columns {
            wrapped.truncate(wrapped.trim_end_matches(' ').len());
            wrapped += &format!("\n{indent}{HANGING}");
            begin = indent.len() + HANGING.len();
        }
        wrapped += piece;
        used = Some(begin + columns_of_word + piece.len() - word.len());
    }
    wrapped.truncate(wrapped.trim_end_matches(' ').len());
    wrapped + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = format!("  a  table   row\n  {BAD}bad{BAD:#}: one two three four\n\nlast\n");
        let broken = wrapped(&text, Some(16));
        let plain = anstream::adapter::strip_str(&broken).to_string();
        let expected = "  a  table   row\n  bad: one two\n    three four\n\nlast\n";
        assert_eq!(plain, expected);
        assert!(broken.contains(&format!("{BAD}bad{BAD:#}")), "{broken:?}");
        assert_eq!(wrapped(&text, None), text);
        let hash = "0123456789".repeat(3);
        let line = format!("at {hash} on\n");
        let broken = format!("at\n  {hash}\n  on\n");
        assert_eq!(wrapped(&line, Some(16)), broken, "the terminal breaks it");
        let line = format!("  {hash}\n");
        assert_eq!(wrapped(&line, Some(16)), line);
        // Ten columns, of which a sum over the letters finds five.
        let hearts = "❤\u{fe0f}".repeat(5);
        let broken = format!("{hearts} is\n  two\n");
        assert_eq!(wrapped(&format!("{hearts} is two\n"), Some(14)), broken);
    }
}
