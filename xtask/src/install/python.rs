//! Finds a Python: the one that torch-sys runs, or the first with pip.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

/// The interpreter that torch-sys runs under `LIBTORCH_USE_PYTORCH`.
pub(crate) fn of_torch_sys() -> &'static str {
    match env::var_os("VIRTUAL_ENV") {
        Some(_) => "python",
        None => "python3",
    }
}

/// The first Python with a pip.
pub(crate) fn with_pip() -> Result<PathBuf> {
    let active = env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("bin/python"));
    let mut reasons = String::new();
    for python in active
        .into_iter()
        .chain(["python3".into(), "python".into()])
    {
        match output(Command::new(&python).args(["-m", "pip", "--version"])) {
            Ok(_) => return Ok(python),
            Err(reason) => reasons += &format!("\n  {}: {reason}", python.display()),
        }
    }
    bail!("no Python with pip was found:{reasons}")
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

/// Writes a program that prints some lines. Another process writes it: while one of ours is forked, a
/// file that we have open for writing cannot be executed.
#[cfg(test)]
pub(crate) fn write_fake(path: &std::path::Path, lines: &str) {
    let script = format!("printf '#!/bin/sh\\necho \"{lines}\"\\n' > \"$0\" && chmod +x \"$0\"");
    let status = Command::new("sh").arg("-c").arg(script).arg(path).status();
    assert!(status.unwrap().success());
}

#[cfg(test)]
mod tests {
    use super::*;

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
