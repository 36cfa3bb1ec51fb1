//! What goes to the screen, to a pipe or to a program: text or one JSON document on standard output,
//! notes and errors on standard error, and the exit code. A pipe that somebody closed is no error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::SystemTime;

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde_json::Value;
use terminal_size::terminal_size_of;
use textwrap::{WordSeparator, WordSplitter};

use crate::error::Error;
use crate::text::{escaped, harmless, plain};

pub(crate) const HEADER: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const DIM: Style = Style::new().dimmed();
const NOTE: Style = AnsiColor::Yellow.on_default();

/// Further indents the continuation of a long line.
const HANGING: &str = "  ";

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Report {
    /// For people. May be styled.
    text: String,
    /// For programs.
    json: Value,
    /// Whether something was found that the exit code tells.
    code: u8,
    /// Whether the text is for programs as well, and so goes out as it is.
    is_source: bool,
}

impl Report {
    /// What was done as it should be.
    pub(crate) fn good(text: String, json: Value) -> Report {
        Report::found(text, json, 0)
    }

    /// What was found, and the exit code that tells it.
    pub(crate) fn found(text: String, json: Value, code: u8) -> Report {
        Report {
            text,
            json,
            code,
            is_source: false,
        }
    }

    /// A text that shells and other programs read.
    pub(crate) fn source(text: String, json: Value) -> Report {
        Report {
            is_source: true,
            ..Report::good(text, json)
        }
    }
}

/// How to print.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    /// What "ago" is counted from.
    pub(crate) now: SystemTime,
    /// The width that text has to fit; `None` for files and pipes.
    pub(crate) columns: Option<usize>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output {
            json,
            now: SystemTime::now(),
            columns: columns(&io::stdout()),
        }
    }

    /// Prints what a command said.
    pub(crate) fn print(&self, printed: Report) -> ExitCode {
        let written = match (self.json, printed.is_source) {
            (true, _) => {
                let document = format!("{:#}\n", printed.json);
                write_as_is(escaped(&document).as_bytes())
            }
            (false, true) => write_as_is(printed.text.as_bytes()),
            (false, false) => write_out(&wrapped(&printed.text, self.columns)),
        };
        match written {
            // Whoever closes a pipe has read enough. What was found is still so.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => cannot_print(&error),
            _ => ExitCode::from(printed.code),
        }
    }

    /// Says something beside the result: plain text on one line.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        let text = plain(&text.to_string());
        let text = format!("{NOTE}note:{NOTE:#} {text}\n");
        to_stderr(&wrapped(&text, columns(&io::stderr())));
    }
}

/// Prints why a command did not do what it should.
pub(crate) fn print_error(error: &Error) -> ExitCode {
    let text = format!("{BAD}torchcache:{BAD:#} {error}\n");
    to_stderr(&wrapped(&text, columns(&io::stderr())));
    ExitCode::from(error.code())
}

fn cannot_print(error: &io::Error) -> ExitCode {
    print_error(&Error::not_done(format!("cannot print: {error}")))
}

/// Asks something, and leaves the cursor behind the question.
pub(crate) fn ask(question: &str) {
    let question = wrapped(question, columns(&io::stderr()));
    to_stderr(&format!("{} ", question.trim_end()));
}

/// Prints what clap has to say: the help, the version, or what it did not understand.
pub(crate) fn print_usage(error: &clap::Error) -> ExitCode {
    // It repeats arguments, which may be names out of a directory that anybody may have written.
    let is_plain = |arg: std::ffi::OsString| {
        let arg = arg.to_string_lossy();
        plain(&arg) == arg
    };
    let text = match std::env::args_os().all(is_plain) {
        true => error.render().ansi().to_string(),
        false => {
            let lines = error.render().to_string();
            lines.lines().map(|line| plain(line) + "\n").collect()
        }
    };
    if error.use_stderr() {
        let text = text.replacen("error:", "torchcache:", 1);
        to_stderr(&text);
        return ExitCode::from(2);
    }
    match write_out(&text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => cannot_print(&error),
        _ => ExitCode::SUCCESS,
    }
}

/// Writes to standard output, without colours if that is no terminal.
fn write_out(text: &str) -> io::Result<()> {
    let mut out = AutoStream::auto(io::stdout().lock());
    out.write_all(harmless(text).as_bytes())?;
    out.flush()
}

/// The same for programs: taking colours away would take letters out of names.
fn write_as_is(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

fn to_stderr(text: &str) {
    // There is nobody left to tell if this fails.
    let _ = AutoStream::auto(io::stderr().lock()).write_all(harmless(text).as_bytes());
}

/// COLUMNS if somebody set it, else the width of the terminal.
fn columns(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let set = std::env::var("COLUMNS").ok();
    let set = set.and_then(|columns| columns.parse().ok());
    set.filter(|&columns| columns > 0).or_else(|| {
        let size = stream.is_terminal().then(|| terminal_size_of(stream));
        size.flatten().map(|(width, _)| usize::from(width.0))
    })
}

/// Breaks long lines between words, and indents what follows. A word that is longer than a line is left
/// to the terminal, so that it can be copied.
fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else {
        return text.to_owned();
    };
    let wrap = |line: &str| {
        let words = line.trim_start_matches(' ');
        let indent = " ".repeat(line.len() - words.len());
        let hanging = format!("{indent}{HANGING}");
        let options = textwrap::Options::new(columns)
            .initial_indent(&indent)
            .subsequent_indent(&hanging)
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation);
        textwrap::fill(words, options) + "\n"
    };
    text.lines().map(wrap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_between_words_and_others_are_as_they_were() {
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
    }
}
