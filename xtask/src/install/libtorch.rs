//! The libtorch of a release: the one that the environment names, if its version fits, else the one
//! below `target/`, installed if it is missing. The order is that of torch-sys, so that cargo run by
//! hand and cargo run by a command use the same folder.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use xshell::Shell;

use crate::install::{python, torch_wheel};
use crate::release::{self, RELEASES, Release};

/// The environment of builds with a libtorch that exists and fits.
pub(crate) struct Libtorch {
    /// It has `include/` and `lib/`.
    pub(crate) folder: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Libtorch {
    /// A shell in `root` whose cargo uses this libtorch.
    pub(crate) fn shell(&self, root: &Path) -> Result<Shell> {
        let sh = Shell::new()?;
        sh.change_dir(root);
        for (name, value) in &self.variables {
            sh.set_var(name, value);
        }
        Ok(sh)
    }
}

#[derive(Debug, PartialEq)]
enum LibtorchSource {
    /// `LIBTORCH_USE_PYTORCH` is set.
    Python,
    /// `LIBTORCH` is set, and not by `.cargo/config.toml`.
    Folder(PathBuf),
    Managed,
}

/// Finds, checks or installs the libtorch of `release`, and prints its folder.
pub(crate) fn prepare(root: &Path, release: &'static Release) -> Result<Libtorch> {
    let variable = env::var_os("LIBTORCH").map(PathBuf::from);
    let use_python = env::var_os("LIBTORCH_USE_PYTORCH").is_some();
    let mut variables = Vec::new();
    let folder = match choose(use_python, variable, root) {
        LibtorchSource::Python => {
            let (version, folder) = python_torch()?;
            check(
                "Python's torch (LIBTORCH_USE_PYTORCH is set)",
                &version,
                release,
            )?;
            folder
        }
        LibtorchSource::Folder(folder) => {
            let variable = format!("LIBTORCH={}", folder.display());
            let version = folder_version(&folder).context(variable.clone())?;
            check(&variable, &version, release)?;
            folder
        }
        LibtorchSource::Managed => {
            let folder = torch_wheel::ensure(root, release, has_gpu())?;
            // For the default release `.cargo/config.toml` has the same value in the same words, so
            // that cargo run by hand has nothing to build again.
            if !release.is_default() {
                variables.push(("LIBTORCH", folder.clone().into()));
            }
            folder
        }
    };
    if links_cuda(&folder) {
        variables.push(("TORCHCACHE_LINK_CUDA", "1".into()));
    }
    eprintln!("libtorch for tch {}: {}", release.tch, folder.display());
    Ok(Libtorch { folder, variables })
}

fn choose(use_python: bool, variable: Option<PathBuf>, root: &Path) -> LibtorchSource {
    // `cargo xtask` passes the entry of `.cargo/config.toml` on like a variable of the user.
    let entry = torch_wheel::folder(root, release::DEFAULT);
    match variable {
        _ if use_python => LibtorchSource::Python,
        Some(folder) if folder != entry => LibtorchSource::Folder(folder),
        _ => LibtorchSource::Managed,
    }
}

fn check(owner: &str, found: &str, release: &Release) -> Result<()> {
    if env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some() {
        return Ok(());
    }
    ensure!(release.fits(found), mismatch(owner, found, release));
    Ok(())
}

fn mismatch(owner: &str, found: &str, release: &Release) -> String {
    let Release { tch, torch, .. } = release;
    let other = match RELEASES.iter().find(|other| other.fits(found)) {
        Some(other) => format!(", or test with `cargo xtask test --tch {}`", other.tch),
        None => String::new(),
    };
    format!(
        "{owner} is version {found}, but tch {tch} expects torch {torch}: unset the variable to \
         have {torch} installed below target/{other}, or set LIBTORCH_BYPASS_VERSION_CHECK=1 to \
         try this one"
    )
}

fn folder_version(folder: &Path) -> Result<String> {
    ensure!(
        folder.is_absolute(),
        "a relative path, which every crate would read from its own folder; expected an absolute path"
    );
    ensure!(
        folder.join("include").is_dir() && folder.join("lib").is_dir(),
        "no libtorch in it; expected a folder with include/ and lib/, or an unset variable to have \
         libtorch installed below target/"
    );
    // The archive of libtorch has the first file, the wheel of torch the second.
    if let Ok(text) = fs::read_to_string(folder.join("build-version")) {
        return Ok(text.trim().to_owned());
    }
    let text = fs::read_to_string(folder.join("version.py")).unwrap_or_default();
    let version = version_in_python(&text).map(str::to_owned);
    version.ok_or_else(|| anyhow!("no version in it: neither build-version nor version.py has one"))
}

/// The version in torch's `version.py`: `__version__ = '2.13.0+cu130'`.
fn version_in_python(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("__version__ = "))?;
    let quotes = ['\'', '"'];
    value.trim().strip_prefix(quotes)?.strip_suffix(quotes)
}

/// Version and folder of Python's torch. Imports `cpp_extension` as torch-sys does, which fails
/// without setuptools and does not say why.
fn python_torch() -> Result<(String, PathBuf)> {
    const PRINT: &str = "import os, torch\n\
                         from torch.utils import cpp_extension\n\
                         print(torch.__version__)\n\
                         print(os.path.dirname(torch.__file__))";
    let python = python::of_torch_sys();
    match python::output(Command::new(python).args(["-c", PRINT])) {
        Ok(text) => match text.split_once('\n') {
            Some((version, folder)) => Ok((version.to_owned(), folder.into())),
            None => bail!("{python} printed {text:?}; expected torch's version and folder"),
        },
        Err(reason) => bail!(
            "LIBTORCH_USE_PYTORCH is set, but {python} has no usable torch ({reason}): activate the \
             environment that has it, or unset the variable to have libtorch installed below target/"
        ),
    }
}

/// Whether programs load libtorch_cuda. Without a GPU it is useless and slow to load.
fn links_cuda(folder: &Path) -> bool {
    env::var_os("TORCHCACHE_LINK_CUDA").is_none()
        && has_gpu()
        && folder.join("lib/libtorch_cuda.so").exists()
}

fn has_gpu() -> bool {
    Path::new("/dev/nvidia0").exists()
        || Command::new("nvidia-smi")
            .arg("-L")
            .output()
            .is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"GPU "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_and_python_over_a_folder() {
        let root = Path::new("/somewhere");
        let folder = || PathBuf::from("/opt/libtorch");
        assert_eq!(choose(true, Some(folder()), root), LibtorchSource::Python);
        assert_eq!(
            choose(false, Some(folder()), root),
            LibtorchSource::Folder(folder())
        );
        assert_eq!(choose(false, None, root), LibtorchSource::Managed);
        let entry = torch_wheel::folder(root, release::DEFAULT);
        assert_eq!(choose(false, Some(entry), root), LibtorchSource::Managed);
    }

    #[test]
    fn a_version_mismatch_names_the_fix() {
        let error = check("LIBTORCH=/x", "2.11.0+cpu", release::DEFAULT).unwrap_err();
        let text = error.to_string();
        for part in ["LIBTORCH=/x", "2.11.0+cpu", "2.13.0", "unset", "--tch 0.24"] {
            assert!(text.contains(part), "no {part} in: {text}");
        }
        let text = mismatch("LIBTORCH=/x", "1.13.1", release::DEFAULT);
        assert!(!text.contains("--tch"), "no release fits 1.13.1: {text}");
        assert!(check("", "2.13.0+cu130", release::DEFAULT).is_ok());
    }

    #[test]
    fn the_version_of_an_archive_and_of_a_wheel_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let error = || folder_version(folder).unwrap_err().to_string();
        assert!(error().contains("no libtorch in it"));
        fs::create_dir(folder.join("include")).unwrap();
        fs::create_dir(folder.join("lib")).unwrap();
        assert!(error().contains("no version in it"));
        let python = "from typing import Optional\n__version__ = '2.13.0+cu130'\ndebug = False\n";
        fs::write(folder.join("version.py"), python).unwrap();
        assert_eq!(folder_version(folder).unwrap(), "2.13.0+cu130");
        fs::write(folder.join("build-version"), "2.11.0+cpu\n").unwrap();
        assert_eq!(folder_version(folder).unwrap(), "2.11.0+cpu");
        let relative = folder_version(Path::new("libtorch")).unwrap_err();
        assert!(relative.to_string().contains("absolute path"));
    }
}
