//! Processes of their own: this program again, told by its arguments what to be. They say on their
//! standard output what must be there since.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use crate::scenarios;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says where the program `soak` is, which plays all roles.
pub fn set_program(path: impl Into<PathBuf>) {
    PROGRAM.get_or_init(|| path.into());
}

/// The command that starts a role on a directory.
pub(crate) fn command(role: &str, dir: &Path, words: &[String]) -> Command {
    let program = PROGRAM
        .get()
        .expect("it was said which program plays roles");
    let mut command = Command::new(program);
    command.args(["child", role]).arg(dir).args(words);
    command.stdout(Stdio::piped());
    command
}

/// Plays a role, in a process that [`command`] started.
///
/// # Panics
/// If there is no such role, and if something is not as promised.
pub fn play(role: &str, dir: &Path, words: &[String]) {
    let role = scenarios::ROLES.iter().find(|(name, _)| *name == role);
    let (_, play) = role.expect("a role that there is");
    play(dir, words);
}

/// Tells the process that waits.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // Nobody may be listening any more.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A child that runs, and what it says.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a child.
    pub(crate) fn start(mut command: Command) -> Result<Running, String> {
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = child.stdout.take().map(BufReader::new);
        let output = output.ok_or("its output is not piped")?;
        Ok(Running { child, output })
    }

    /// The next line; `None` at the end.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).ok()?;
        // A line that was cut short by the end says nothing.
        (read > 0 && line.ends_with('\n')).then(|| line.trim().to_owned())
    }

    /// Everything that it still says.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind a word in a line such as `FLUSHED 12`.
pub(crate) fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.trim().parse().ok()
}

/// Whether a name is that of a segment.
pub(crate) fn is_segment(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.ends_with(".tcs") && !name.starts_with('.'))
}
