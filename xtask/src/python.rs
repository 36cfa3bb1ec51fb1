//! Which Python is asked: the one that torch-sys would ask, or the first that has a usable pip.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The interpreter torch-sys runs under `LIBTORCH_USE_PYTORCH`.
pub(crate) fn of_torch_sys() -> &'static str {
    match env::var_os("VIRTUAL_ENV") {
        Some(_) => "python",
        None => "python3",
    }
}

/// The first Python with a pip that can install the wheel, or why each of them cannot.
pub(crate) fn with_pip() -> Result<PathBuf, Vec<String>> {
    let active = env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("bin/python"));
    let mut refused = Vec::new();
    for python in active
        .into_iter()
        .chain(["python3".into(), "python".into()])
    {
        match pip_version(&python) {
            Ok(()) => return Ok(python),
            Err(reason) => refused.push(format!("{}: {reason}", python.display())),
        }
    }
    Err(refused)
}

fn pip_version(python: &PathBuf) -> Result<(), String> {
    let output = Command::new(python)
        .args(["-m", "pip", "--version"])
        .output()
        .map_err(|cause| cause.to_string())?;
    match output.status.success() {
        true => usable(&String::from_utf8_lossy(&output.stdout)),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Judges `pip 23.2.1 from /usr/lib/… (python 3.11)`.
fn usable(line: &str) -> Result<(), String> {
    // 20.3 is the first pip that knows the `manylinux_2_28` in the name of torch's wheel.
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
            "it has `{line}`, but pip 20.3 or newer on Python 3 is needed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pip_that_knows_the_wheels_name_is_usable() {
        assert_eq!(
            usable("pip 23.2.1 from /usr/lib/pip (python 3.11)\n"),
            Ok(())
        );
        assert_eq!(usable("pip 26.0 from /usr/lib/pip (python 3.14)"), Ok(()));
        assert_eq!(usable("pip 20.3.4 from /usr/lib/pip (python 3.9)"), Ok(()));
    }

    #[test]
    fn an_old_pip_or_python_is_refused_with_what_is_needed() {
        for line in [
            "pip 20.2 from /x (python 3.8)",
            "pip 20.3.4 from /x (python 2.7)",
            "",
        ] {
            let reason = usable(line).unwrap_err();
            assert!(reason.contains(line) && reason.contains("20.3"), "{reason}");
        }
    }
}
