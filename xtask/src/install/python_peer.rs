//! A Python with the package that benchmarks compare with: the one that `TORCHCACHE_PEER_PYTHON`
//! names, else one in a virtual environment below `target/peer/`, made if it is missing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result, anyhow, bail};

use crate::install::pip::PipInstall;
use crate::install::python;
use crate::install::staged::{Partial, Staged};
use crate::release::{Release, public_version};

/// Names the interpreter, for this program and for the benchmark.
pub(crate) const VARIABLE: &str = "TORCHCACHE_PEER_PYTHON";

/// The version that all published figures are of.
const PEER: &str = "0.6.0";

/// The interpreter that the environment names.
pub(crate) fn named() -> Option<PathBuf> {
    super::named(VARIABLE)
}

/// The interpreter to use. With `quick` nothing is installed.
pub(crate) fn interpreter(root: &Path, release: &Release, quick: bool) -> Result<PathBuf> {
    let Some(python) = named() else {
        return managed(root, release, quick);
    };
    check(&python, release).map_err(|reason| {
        anyhow!(
            "{VARIABLE}={}: {reason}; unset it to have the package installed below target/peer/",
            python.display()
        )
    })?;
    Ok(python)
}

/// The interpreter of the environment below `target/peer/`.
fn managed(root: &Path, release: &Release, quick: bool) -> Result<PathBuf> {
    let staged = Staged {
        parent: &root.join("target/peer"),
        name: release.torch,
    };
    let stamp = requirements(release).join("\n");
    let fill = |partial: &Partial| install(release, partial);
    if !staged.is_complete(std::slice::from_ref(&stamp)) {
        if quick {
            bail!("it is not installed, and --quick installs nothing");
        }
        return Ok(python_of(&staged.ensure(&[stamp], fill)?));
    }
    // The environment uses a Python of the system, which may have changed since.
    let python = python_of(&staged.path());
    match check(&python, release) {
        Ok(()) => Ok(python),
        Err(reason) if quick => bail!("it no longer works, and --quick installs nothing: {reason}"),
        Err(reason) => {
            eprintln!("installing the Python package again, since it no longer works: {reason}");
            Ok(python_of(&staged.renew(&stamp, fill)?))
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

fn python_of(environment: &Path) -> PathBuf {
    environment.join("bin/python")
}

fn install(release: &Release, partial: &Partial) -> Result<()> {
    let python = python::with_pip()?;
    // Without its own pip, which not every Python can install; ours fills it as well. The environment
    // also works under its final name: its Python finds itself by its own path.
    let mut venv = Command::new(&python);
    venv.args(["-m", "venv", "--without-pip"])
        .arg(&partial.content);
    python::output(&mut venv)
        .map_err(Error::msg)
        .context("cannot create a virtual environment")?;
    let inside = python_of(&partial.content);
    let site = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let site = python::output(Command::new(&inside).args(["-c", site])).map_err(Error::msg)?;
    let request = PipInstall {
        python: &python,
        target: Path::new(&site),
        args: requirements(release).map(OsString::from).to_vec(),
        what: &format!("Python's torchcache {PEER} with torch {}", release.torch),
        size: "5 GB with dependencies",
    };
    request.run(partial)?;
    check(&inside, release).map_err(Error::msg)
}

/// Whether the interpreter has the packages in versions that can be compared.
fn check(python: &Path, release: &Release) -> Result<(), String> {
    const PRINT: &str = "import numpy, torch, torchcache\n\
                         from importlib.metadata import version\n\
                         print(version('torch'), version('torchcache'))";
    let output = python::output(Command::new(python).args(["-c", PRINT]))?;
    check_versions(output.lines().last().unwrap_or_default(), release)
}

fn check_versions(versions: &str, release: &Release) -> Result<(), String> {
    let (torch, peer) = versions.split_once(' ').unwrap_or((versions, ""));
    match public_version(torch) == release.torch && peer == PEER {
        true => Ok(()),
        false => Err(format!(
            "found torch {torch} and torchcache {peer}; expected torch {} and torchcache {PEER}",
            release.torch
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::DEFAULT;
    use std::fs;

    #[test]
    fn an_environment_is_used_while_its_python_works() {
        let root = tempfile::tempdir().unwrap();
        let staged = Staged {
            parent: &root.path().join("target/peer"),
            name: DEFAULT.torch,
        };
        assert!(managed(root.path(), DEFAULT, true).is_err());
        let stamp = requirements(DEFAULT).join("\n");
        let python = python_of(&staged.renew(&stamp, |_| Ok(())).unwrap());
        fs::create_dir(python.parent().unwrap()).unwrap();
        for (versions, works) in [("2.13.0 0.6.0", true), ("2.13.0 0.5.0", false)] {
            python::write_fake(&python, versions);
            assert_eq!(managed(root.path(), DEFAULT, true).is_ok(), works);
        }
    }

    #[test]
    fn torch_must_be_the_release_and_the_peer_the_measured_one() {
        assert_eq!(check_versions("2.13.0+cu130 0.6.0", DEFAULT), Ok(()));
        for versions in ["2.11.0 0.6.0", "2.13.0 0.5.0", "2.13.0", ""] {
            let reason = check_versions(versions, DEFAULT).unwrap_err();
            assert!(
                reason.contains("expected torch 2.13.0 and torchcache 0.6.0"),
                "{reason}"
            );
        }
        assert_eq!(requirements(DEFAULT)[0], "torch==2.13.0");
    }
}
