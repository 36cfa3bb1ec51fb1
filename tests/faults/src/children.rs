//! Processes of their own: this program again, told by its arguments what to be. They say on their
//! standard output what must be there since.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::geteuid;

use crate::tally::{Tally, ensure};

static PROGRAM: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Says where the program is that plays the roles of what is run next.
pub fn set_program(path: impl Into<PathBuf>) {
    *PROGRAM.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.into());
}

/// The command that starts a role on a directory.
pub fn command(role: &str, dir: &Path, words: &[String]) -> Command {
    let program = PROGRAM
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let program = program.expect("it was said which program plays roles");
    let mut command = Command::new(program);
    command.args(["child", role]).arg(dir).args(words);
    command.stdout(Stdio::piped());
    command
}

/// Tells the process that waits.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // Nobody may be listening any more.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A child that runs, and what it says.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Its standard output.
    pub output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a child.
    pub fn start(mut command: Command) -> Result<Running, String> {
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = child.stdout.take().map(BufReader::new);
        let output = output.ok_or("its output is not piped")?;
        Ok(Running { child, output })
    }

    /// The next line; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).ok()?;
        // A line that was cut short by the end says nothing.
        (read > 0 && line.ends_with('\n')).then(|| line.trim().to_owned())
    }

    /// Everything that it still says.
    pub fn rest(&mut self) -> Vec<String> {
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
pub fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.trim().parse().ok()
}

/// A child to whom permissions apply: as another user, where this one may do anything. What it needs
/// is put where that user can reach it.
pub fn unprivileged(role: &str, dir: &Path, words: &[String]) -> Result<Running, String> {
    /// A user that nobody is.
    const NOBODY: u32 = 65_534;

    let command = command(role, dir, words);
    if !geteuid().is_root() {
        return Running::start(command);
    }
    let mut entries = vec![dir.to_owned()];
    entries.extend(
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    let program = dir.join("program");
    let prepared = || {
        for path in entries.iter().filter(|path| !path.ends_with("of another")) {
            chown(path, Some(NOBODY), Some(NOBODY))?;
        }
        fs::copy(command.get_program(), &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
    };
    prepared().map_err(|error: std::io::Error| error.to_string())?;
    let mut other = Command::new(program);
    other.args(command.get_args()).current_dir("/");
    other.uid(NOBODY).gid(NOBODY).stdout(Stdio::piped());
    Running::start(other)
}

/// Takes in what a child counted and said in a line.
pub fn sums(tally: &mut Tally, mut running: Running) -> Result<(), String> {
    let lines = running.rest();
    let status = running.child.wait().map_err(|error| error.to_string())?;
    ensure(status.success(), || {
        format!("the child: {status}: {lines:?}")
    })?;
    let told = lines.iter().any(|line| tally.add_line(line));
    ensure(told, || {
        format!("the child did not tell what it saw: {lines:?}")
    })
}
