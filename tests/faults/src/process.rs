//! Child processes that play a role on a directory, and what they print.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::geteuid;

pub use crate::sys::fork;

/// The command that starts `program`, which plays a role on a directory.
pub fn command(program: &str, role: &str, dir: &Path, args: &[String]) -> Command {
    let mut command = Command::new(program);
    command.arg(role).arg(dir).args(args);
    command.stdout(Stdio::piped());
    command
}

/// Prints a line for the parent process.
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    // The parent may have ended.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A child that runs, and what it prints. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a child.
    pub fn start(mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().map(BufReader::new);
        let output = output.expect("its output is piped");
        Running { child, output }
    }

    /// The next line; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).ok()?;
        // A line that the end cut short says nothing.
        (read > 0 && line.ends_with('\n')).then(|| line.trim().to_owned())
    }

    /// The remaining lines, and how it ended.
    pub fn rest(&mut self) -> (Vec<String>, ExitStatus) {
        let lines = std::iter::from_fn(|| self.line()).collect();
        (lines, self.child.wait().unwrap())
    }

    /// Waits for its end, which must be a success.
    #[track_caller]
    pub fn succeeds(mut self) {
        let (lines, status) = self.rest();
        assert!(status.success(), "{status}: {lines:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number after a word in a line such as `FLUSHED 12`.
pub fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.trim().parse().ok()
}

fn is_of_another(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"of another")
}

/// An unprivileged user that every system has, and its group.
pub const NOBODY: u32 = 65_534;

/// Starts a child to whom permissions apply: as another user where this one is root. The program
/// is copied to where that user can reach it.
pub fn unprivileged(mut command: Command, dir: &Path) -> Running {
    if !geteuid().is_root() {
        return Running::start(command);
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.map(|entry| entry.path());
    for path in entries.filter(|path| !is_of_another(path)) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let program = dir.join("program");
    fs::copy(command.get_program(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(program);
    command.args(args).current_dir("/");
    command.uid(NOBODY).gid(NOBODY).stdout(Stdio::piped());
    Running::start(command)
}
