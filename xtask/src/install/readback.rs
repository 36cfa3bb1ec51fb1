//! The Python packages that tests read exported files with: below `target/readback/packages/`, for
//! the interpreter that is named in there.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Error, Result, anyhow};
use xshell::Shell;

use crate::install::pip::PipInstall;
use crate::install::python;
use crate::install::staged::{Partial, Staged};

/// Names the interpreter to the tests.
const INTERPRETER: &str = "TORCHCACHE_READBACK_PYTHON";

/// Names the folder to the tests: a copy of the sources has none.
const PACKAGES: &str = "TORCHCACHE_READBACK";

/// The newest for each Python: each release of numpy supports a few of them.
const REQUIREMENTS: [&str; 5] = [
    "numpy==2.0.2; python_version < '3.10'",
    "numpy==2.2.6; python_version == '3.10'",
    "numpy==2.4.6; python_version > '3.10'",
    "safetensors==0.7.0; python_version < '3.10'",
    "safetensors==0.8.0; python_version >= '3.10'",
];

/// Sets the variables by which tests find the packages, which are installed if they are missing.
pub(crate) fn prepare(root: &Path, sh: &Shell) -> Result<()> {
    if let Some(named) = super::named(INTERPRETER) {
        sh.set_var(INTERPRETER, named);
        return Ok(());
    }
    let python = python::with_pip().with_context(|| {
        format!("install pip, or set {INTERPRETER} to a Python that has numpy and safetensors")
    })?;
    let (executable, version) = identify(&python)?;
    let staged = Staged {
        parent: &root.join("target/readback"),
        name: "packages",
    };
    let stamp = format!("{}\n{executable} {version}\n", REQUIREMENTS.join("\n"));
    let folder = staged.ensure(&[stamp], |partial| install(&python, &executable, partial))?;
    sh.set_var(INTERPRETER, executable);
    sh.set_var(PACKAGES, folder);
    Ok(())
}

/// Path and version of an interpreter: packages of one version do not work in the next.
fn identify(python: &Path) -> Result<(String, String)> {
    const PRINT: &str = "import sys; print(sys.executable); print(sys.version.split()[0])";
    let output = python::output(Command::new(python).args(["-c", PRINT])).map_err(Error::msg)?;
    let (executable, version) = output
        .split_once('\n')
        .ok_or_else(|| anyhow!("{} does not print its own path", python.display()))?;
    Ok((executable.to_owned(), version.to_owned()))
}

fn install(python: &Path, executable: &str, partial: &Partial) -> Result<()> {
    let options = ["--only-binary=:all:", "--no-deps"].into_iter();
    let request = PipInstall {
        python,
        target: &partial.content,
        args: options.chain(REQUIREMENTS).map(OsString::from).collect(),
        what: "Python's numpy and safetensors",
        size: "75 MB",
    };
    request.run(partial)?;
    // For tests that plain cargo runs.
    let path = partial.content.join("python");
    fs::write(&path, executable).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_prints_its_path_and_version() {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        python::write_fake(&python, "/somewhere/python3\n3.11.7");
        let expected = ("/somewhere/python3".to_owned(), "3.11.7".to_owned());
        assert_eq!(identify(&python).unwrap(), expected);
        assert!(identify(Path::new("no/such/python")).is_err());
    }

    #[test]
    fn every_package_is_pinned_for_every_python() {
        for package in ["numpy", "safetensors"] {
            let lines = REQUIREMENTS.iter().filter(|line| line.starts_with(package));
            let (mut below, mut above) = (false, false);
            for line in lines {
                assert!(line.contains("=="), "{line}");
                below |= line.contains("< '3.10'");
                above |= line.contains("> '3.10'") || line.contains(">= '3.10'");
            }
            assert!(below && above, "{package}");
        }
    }
}
