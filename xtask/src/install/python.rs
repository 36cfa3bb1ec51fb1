//! Finds a Python: the one that torch-sys runs, or the first with a usable pip.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The interpreter that torch-sys runs under `LIBTORCH_USE_PYTORCH`.
pub(crate) fn of_torch_sys() -> &'static str {
    match env::var_os("VIRTUAL_ENV") {
        Some(_) => "python",
        None => "python3",
    }
}

/// The first Python with a pip that can install torch's wheel.
pub(crate) fn with_pip() -> Result<PathBuf> {
    let active = env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("bin/python"));
    let mut reasons = String::new();
    for python in active
        .into_iter()
        .chain(["python3".into(), "python".into()])
    {
        match check_pip(&python) {
            Ok(()) => return Ok(python),
            Err(reason) => reasons += &format!("\n  {}: {reason}", python.display()),
        }
    }
    bail!("no Python with pip was found:{reasons}")
}

fn check_pip(python: &Path) -> Result<(), String> {
    match output(Command::new(python).args(["-m", "pip", "--version"])) {
        Ok(line) => check_version(&line),
        Err(reason) => Err(reason),
    }
}

/// What a Python program prints, or the last line of its error.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    // cargo sets it for our own libtorch.
    let output = command.env_remove("LD_LIBRARY_PATH").output();
    let output = output.map_err(|cause| format!("cannot start {program}: {cause}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.trim().lines().last().unwrap_or_default();
    Err(format!("{program} failed: {last}"))
}

/// Checks `pip 23.2.1 from /usr/lib/… (python 3.11)`.
fn check_version(line: &str) -> Result<(), String> {
    // 20.3 is the first pip that accepts `manylinux_2_28` in the name of torch's wheel.
    const OLDEST: (u32, u32) = (20, 3);
    let line = line.trim();
    let mut numbers = line
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .split('.')
        .map_while(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= OLDEST && line.contains("(python 3") {
        true => Ok(()),
        false => Err(format!(
            "found `{line}`, expected pip 20.3 or newer on Python 3"
        )),
    }
}

/// Writes a program that prints some lines. Another process writes it: while one of ours is forked, a
/// file that we have open for writing cannot be executed.
#[cfg(test)]
pub(crate) fn write_fake(path: &Path, lines: &str) {
    let script = format!("printf '#!/bin/sh\\necho \"{lines}\"\\n' > \"$0\" && chmod +x \"$0\"");
    let status = Command::new("sh").arg("-c").arg(script).arg(path).status();
    assert!(status.unwrap().success());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_must_accept_the_name_of_torchs_wheel() {
        for version in ["23.2.1", "26.0", "20.3.4"] {
            let line = format!("pip {version} from /usr/lib/pip (python 3.11)\n");
            assert_eq!(check_version(&line), Ok(()));
        }
        for line in [
            "pip 20.2 from /x (python 3.8)",
            "pip 20.3.4 from /x (python 2.7)",
            "",
        ] {
            let reason = check_version(line).unwrap_err();
            assert!(reason.contains(line) && reason.contains("20.3"), "{reason}");
        }
    }

    #[test]
    fn an_error_is_the_last_line_of_the_program() {
        let shell = |script: &str| output(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo first; echo last"), Ok("first\nlast".into()));
        let failed = shell("echo ModuleNotFoundError: torch >&2; false");
        assert_eq!(failed, Err("sh failed: ModuleNotFoundError: torch".into()));
        let absent = output(&mut Command::new("no/such/python")).unwrap_err();
        assert!(absent.contains("cannot start no/such/python"), "{absent}");
    }
}
