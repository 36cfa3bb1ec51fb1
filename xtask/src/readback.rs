//! The Python packages that read exported files back in a test: below `target/readback/packages/`,
//! for the interpreter that is named in there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::pip::Request;
use crate::python;
use crate::staged::{Partial, Staged};

/// Names the interpreter to the test.
const INTERPRETER: &str = "TORCHCACHE_READBACK_PYTHON";

/// Names the folder to it, which a copy of the sources could not find.
const PACKAGES: &str = "TORCHCACHE_READBACK";

/// The newest for each Python: numpy's releases support a few of them each.
const REQUIREMENTS: [&str; 5] = [
    "numpy==2.0.2; python_version < '3.10'",
    "numpy==2.2.6; python_version == '3.10'",
    "numpy==2.4.6; python_version > '3.10'",
    "safetensors==0.7.0; python_version < '3.10'",
    "safetensors==0.8.0; python_version >= '3.10'",
];

/// The cargo whose tests find the packages; they are installed if they are not there.
pub(crate) fn prepare(root: &Path, cargo: Cargo) -> Result<Cargo> {
    if std::env::var_os(INTERPRETER).is_some_and(|named| !named.is_empty()) {
        return Ok(cargo); // it has them, says who named it
    }
    let python = python::with_pip().map_err(|reasons| {
        Error::Failed(format!(
            "no Python with pip was found, to install what reads exported files back:\n  {}\n\
             Install pip, or set {INTERPRETER} to a Python that has numpy and safetensors.",
            reasons.join("\n  ")
        ))
    })?;
    let (executable, version) = about(&python)?;
    let staged = Staged {
        all: &root.join("target/readback"),
        name: "packages",
    };
    let stamp = format!("{}\n{executable} {version}\n", REQUIREMENTS.join("\n"));
    let folder = staged.ensure(&[stamp], |partial| install(&python, &executable, partial))?;
    Ok(cargo.with(INTERPRETER, executable).with(PACKAGES, folder))
}

/// Where an interpreter lies, and its version: packages of one do not work in the next.
fn about(python: &Path) -> Result<(String, String)> {
    const PRINT: &str = "import sys; print(sys.executable); print(sys.version.split()[0])";
    let output = Command::new(python)
        .args(["-c", PRINT])
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .map_err(Error::io(format!("run {}", python.display())))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match said.trim().split_once('\n') {
        Some((executable, version)) => Ok((executable.to_owned(), version.to_owned())),
        None => Err(Error::Failed(format!(
            "{} does not say where it lies",
            python.display()
        ))),
    }
}

fn install(python: &Path, executable: &str, partial: &Partial) -> Result<()> {
    let options = ["--only-binary=:all:", "--no-deps"].into_iter();
    let request = Request {
        python,
        target: &partial.fresh,
        args: options.chain(REQUIREMENTS).map(OsString::from).collect(),
        what: "Python's numpy and safetensors",
        size: "75 MB",
    };
    request.run(partial)?;
    // For tests that cargo runs without us.
    let path: PathBuf = partial.fresh.join("python");
    fs::write(&path, executable).map_err(Error::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_says_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        let script = "#!/bin/sh\necho /somewhere/python3\necho 3.11.7\n";
        fs::write(&python, script).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&python, permissions).unwrap();
        let expected = ("/somewhere/python3".to_owned(), "3.11.7".to_owned());
        assert_eq!(about(&python).unwrap(), expected);
        assert!(about(Path::new("no/such/python")).is_err());
    }

    #[test]
    fn every_package_is_pinned_for_every_python() {
        for package in ["numpy", "safetensors"] {
            let of = REQUIREMENTS.iter().filter(|line| line.starts_with(package));
            let (mut below, mut above) = (false, false);
            for line in of {
                assert!(line.contains("=="), "{line}");
                below |= line.contains("< '3.10'");
                above |= line.contains("> '3.10'") || line.contains(">= '3.10'");
            }
            assert!(below && above, "{package}");
        }
    }
}
