//! The Python that has the peer: the one that `TORCHCACHE_PEER_PYTHON` names, else one in a virtual
//! environment below `target/peer/`, which is made when it is missing.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::pip::Request;
use crate::python;
use crate::release::{Release, public_version};
use crate::staged::{Partial, Staged};

/// Names an interpreter to us, and the one that is used to the benchmark.
pub(crate) const VARIABLE: &str = "TORCHCACHE_PEER_PYTHON";

/// The version that everything about the peer was measured with.
const PEER: &str = "0.6.0";

/// The interpreter that someone named.
pub(crate) fn named() -> Option<PathBuf> {
    let python = env::var_os(VARIABLE).filter(|python| !python.is_empty());
    python.map(PathBuf::from)
}

/// The interpreter to use. With `quick` nothing is installed for it.
pub(crate) fn python(root: &Path, release: &Release, quick: bool) -> Result<PathBuf> {
    if let Some(python) = named() {
        return match check(&python, release) {
            Ok(()) => Ok(python),
            Err(reason) => Err(Error::Failed(format!(
                "{VARIABLE}={}: {reason}; unset it to have them installed below target/peer/",
                python.display()
            ))),
        };
    }
    managed(root, release, quick)
}

/// The interpreter of the environment that is ours to install.
fn managed(root: &Path, release: &Release, quick: bool) -> Result<PathBuf> {
    let staged = Staged {
        all: &root.join("target/peer"),
        name: release.torch,
    };
    let stamp = requirements(release).join("\n");
    let fill = |partial: &Partial| install(release, partial);
    if !staged.is_complete(std::slice::from_ref(&stamp)) {
        if quick {
            return Err(Error::Failed("it is not installed for a smoke run".into()));
        }
        return Ok(interpreter(&staged.ensure(&[stamp], fill)?));
    }
    // The environment borrows a Python of the system, which may have changed since.
    let python = interpreter(&staged.path());
    match check(&python, release) {
        Ok(()) => Ok(python),
        Err(reason) if quick => Err(Error::Failed(format!(
            "it no longer works, and a smoke run does not install it anew: {reason}"
        ))),
        Err(reason) => {
            eprintln!("the Python package is installed anew, since it no longer works: {reason}");
            Ok(interpreter(&staged.renew(&stamp, fill)?))
        }
    }
}

fn requirements(release: &Release) -> [String; 3] {
    [
        format!("torch=={}", release.torch),
        format!("torchcache=={PEER}"),
        "numpy".to_owned(),
    ]
}

fn interpreter(environment: &Path) -> PathBuf {
    environment.join("bin/python")
}

fn install(release: &Release, partial: &Partial) -> Result<()> {
    let python = python::with_pip().map_err(|reasons| {
        Error::Failed(format!(
            "no Python with pip was found:\n  {}",
            reasons.join("\n  ")
        ))
    })?;
    // Without its own pip, which not every Python can put there; ours fills it just as well. The
    // environment works under its final name too: its Python looks for itself where it is.
    let environment = &partial.fresh;
    said(
        Command::new(&python)
            .args(["-m", "venv", "--without-pip"])
            .arg(environment),
    )
    .map_err(|reason| Error::Failed(format!("no virtual environment: {reason}")))?;
    let inside = interpreter(environment);
    let site = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let site = said(Command::new(&inside).args(["-c", site])).map_err(Error::Failed)?;
    let request = Request {
        python: &python,
        target: Path::new(&site),
        args: requirements(release).map(OsString::from).to_vec(),
        what: &format!("Python's torchcache {PEER} with torch {}", release.torch),
        size: "5 GB with all that torch depends on",
    };
    request.run(partial)?;
    check(&inside, release).map_err(Error::Failed)
}

/// Whether the interpreter has the packages, in the versions that can be compared.
fn check(python: &Path, release: &Release) -> std::result::Result<(), String> {
    const PRINT: &str = "import numpy, torch, torchcache\n\
                         from importlib.metadata import version\n\
                         print(version('torch'), version('torchcache'))";
    fits(&said(Command::new(python).args(["-c", PRINT]))?, release)
}

fn fits(versions: &str, release: &Release) -> std::result::Result<(), String> {
    let (torch, peer) = versions.split_once(' ').unwrap_or((versions, ""));
    match public_version(torch) == release.torch && peer == PEER {
        true => Ok(()),
        false => Err(format!(
            "torch {torch} and torchcache {peer} are there, but torch {} and torchcache {PEER} \
             are needed",
            release.torch
        )),
    }
}

/// The last line that a program prints, or the last that it complains with.
fn said(command: &mut Command) -> std::result::Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    // cargo sets it for our own libtorch.
    let output = command.env_remove("LD_LIBRARY_PATH").output();
    let output = output.map_err(|cause| format!("{program} does not run: {cause}"))?;
    let (text, good) = match output.status.success() {
        true => (&output.stdout, true),
        false => (&output.stderr, false),
    };
    let text = String::from_utf8_lossy(text);
    let last = text.trim().lines().last().unwrap_or_default().to_owned();
    match good {
        true => Ok(last),
        false => Err(format!("{program} failed: {last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::DEFAULT;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_installed_environment_is_used_only_while_its_python_still_works() {
        let root = tempfile::tempdir().unwrap();
        let staged = Staged {
            all: &root.path().join("target/peer"),
            name: DEFAULT.torch,
        };
        assert!(managed(root.path(), DEFAULT, true).is_err());
        let stamp = requirements(DEFAULT).join("\n");
        let python = interpreter(&staged.renew(&stamp, |_| Ok(())).unwrap());
        fs::create_dir(python.parent().unwrap()).unwrap();
        for (versions, works) in [("2.13.0 0.6.0", true), ("2.13.0 0.5.0", false)] {
            fs::write(&python, format!("#!/bin/sh\necho {versions}\n")).unwrap();
            fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(managed(root.path(), DEFAULT, true).is_ok(), works);
        }
    }

    #[test]
    fn torch_must_be_that_of_our_libtorch_and_the_peer_the_one_measured() {
        assert_eq!(fits("2.13.0+cu130 0.6.0", DEFAULT), Ok(()));
        for versions in ["2.11.0 0.6.0", "2.13.0 0.5.0", "2.13.0", ""] {
            let reason = fits(versions, DEFAULT).unwrap_err();
            assert!(
                reason.contains("torch 2.13.0 and torchcache 0.6.0"),
                "{reason}"
            );
        }
        assert_eq!(requirements(DEFAULT)[0], "torch==2.13.0");
    }

    #[test]
    fn what_a_program_complains_with_is_told_and_so_is_one_that_is_not_there() {
        let shell = |script: &str| said(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo first; echo last"), Ok("last".into()));
        let failed = shell("echo ModuleNotFoundError: torch >&2; false");
        assert_eq!(failed, Err("sh failed: ModuleNotFoundError: torch".into()));
        let absent = said(&mut Command::new("no/such/python")).unwrap_err();
        assert!(absent.contains("no/such/python does not run"), "{absent}");
    }
}
