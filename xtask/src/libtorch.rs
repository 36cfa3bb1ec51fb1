//! Which libtorch is used: the one that the environment names, if its version fits, else the
//! one below `target/`, which is installed when it is missing. It follows torch-sys' own order,
//! so that cargo run by hand and cargo run from here see the same folder.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::install;
use crate::python;
use crate::release::{self, RELEASES, Release};

/// A libtorch that is there and fits, as the variables with which a build uses it.
pub(crate) struct Libtorch {
    variables: Vec<(&'static str, OsString)>,
}

impl Libtorch {
    pub(crate) fn cargo(&self, root: &Path) -> Cargo {
        Cargo {
            toolchain: None,
            root: root.to_owned(),
            variables: self.variables.clone(),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Source {
    /// `LIBTORCH_USE_PYTORCH` is set.
    Python,
    /// `LIBTORCH` is set, and not by our own `.cargo/config.toml`.
    Folder(PathBuf),
    Managed,
}

/// Finds, checks or installs the libtorch of `release` and says which one it is.
pub(crate) fn prepare(root: &Path, release: &'static Release) -> Result<Libtorch> {
    let variable = env::var_os("LIBTORCH").map(PathBuf::from);
    let source = choose(
        env::var_os("LIBTORCH_USE_PYTORCH").is_some(),
        variable,
        root,
    );
    let unchecked = env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some();
    let mut variables = Vec::new();
    let folder = match source {
        Source::Python => {
            let (version, folder) = python_torch()?;
            check(
                "Python's torch (LIBTORCH_USE_PYTORCH is set)",
                &version,
                release,
                unchecked,
            )?;
            folder
        }
        Source::Folder(folder) => {
            let version = folder_version(&folder)?;
            let owner = format!("LIBTORCH={}", folder.display());
            check(&owner, &version, release, unchecked)?;
            folder
        }
        Source::Managed => {
            let folder = install::ensure(root, release, gpu_present())?;
            // For the default release `.cargo/config.toml` says it already, in the very same
            // words, so that cargo has nothing to build again when it is run by hand.
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
    Ok(Libtorch { variables })
}

/// The folder below `target/` that holds `include/` and `lib/` of a release.
pub(crate) fn managed_folder(root: &Path, release: &Release) -> PathBuf {
    root.join("target/libtorch")
        .join(release.torch)
        .join("torch")
}

fn choose(use_pytorch: bool, variable: Option<PathBuf>, root: &Path) -> Source {
    match variable {
        _ if use_pytorch => Source::Python,
        // `cargo xtask` hands the `[env]` entry to us like a variable that someone set.
        Some(folder) if folder != managed_folder(root, release::DEFAULT) => Source::Folder(folder),
        _ => Source::Managed,
    }
}

fn check(owner: &str, found: &str, release: &Release, unchecked: bool) -> Result<()> {
    match unchecked || release.fits(found) {
        true => Ok(()),
        false => Err(Error::Failed(mismatch(owner, found, release))),
    }
}

/// One line: what was found, what was expected, what to do.
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
    let failed = |text| {
        Err(Error::Failed(format!(
            "LIBTORCH={} {text}: name the absolute path of a folder with include/ and lib/, or \
             unset it to have libtorch installed below target/",
            folder.display()
        )))
    };
    if folder.is_relative() {
        return failed("is a relative path, which every crate would read from its own folder");
    }
    if !folder.join("include").is_dir() || !folder.join("lib").is_dir() {
        return failed("holds no libtorch");
    }
    // The first comes with the archive of libtorch, the second with the wheel of torch.
    if let Ok(text) = fs::read_to_string(folder.join("build-version")) {
        return Ok(text.trim().to_owned());
    }
    let text = fs::read_to_string(folder.join("version.py")).unwrap_or_default();
    match version_in_python(&text) {
        Some(version) => Ok(version.to_owned()),
        None => failed("does not say its version, in neither build-version nor version.py"),
    }
}

/// The version in torch's `version.py`: `__version__ = '2.13.0+cu130'`.
fn version_in_python(text: &str) -> Option<&str> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = "))?;
    line.trim()
        .strip_prefix(['\'', '"'])?
        .strip_suffix(['\'', '"'])
}

/// Version and folder of Python's torch, asked for in the way of torch-sys: it imports
/// `cpp_extension`, which fails without setuptools, and does not show why.
fn python_torch() -> Result<(String, PathBuf)> {
    const PRINT: &str = "import os, torch\n\
                         from torch.utils import cpp_extension\n\
                         print(torch.__version__)\n\
                         print(os.path.dirname(torch.__file__))";
    let python = python::of_torch_sys();
    let output = Command::new(python)
        .args(["-c", PRINT])
        .output()
        .map_err(Error::io(format!(
            "run {python}, although LIBTORCH_USE_PYTORCH is set"
        )))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().collect::<Vec<_>>()[..] {
        [version, folder] if output.status.success() => Ok((version.into(), folder.into())),
        _ => {
            let reason = String::from_utf8_lossy(&output.stderr);
            Err(Error::Failed(format!(
                "LIBTORCH_USE_PYTORCH is set, but {python} cannot use its torch ({}): activate \
                 the environment that holds it, or unset the variable to have libtorch installed \
                 below target/",
                reason
                    .trim()
                    .lines()
                    .last()
                    .unwrap_or("it printed something else")
            )))
        }
    }
}

/// Whether binaries are to load libtorch_cuda. Without a GPU it is of no use and slow to load.
fn links_cuda(folder: &Path) -> bool {
    env::var_os("TORCHCACHE_LINK_CUDA").is_none()
        && gpu_present()
        && folder.join("lib/libtorch_cuda.so").exists()
}

fn gpu_present() -> bool {
    Path::new("/dev/nvidia0").exists()
        || Command::new("nvidia-smi")
            .arg("-L")
            .output()
            .is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"GPU "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Failed(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_environment_wins_and_python_wins_over_a_folder_as_in_torch_sys() {
        let root = Path::new("/somewhere");
        let folder = || Some(PathBuf::from("/opt/libtorch"));
        assert_eq!(choose(true, folder(), root), Source::Python);
        assert_eq!(
            choose(false, folder(), root),
            Source::Folder("/opt/libtorch".into())
        );
        assert_eq!(choose(false, None, root), Source::Managed);
    }

    #[test]
    fn the_entry_of_the_cargo_configuration_is_not_taken_for_a_users_choice() {
        let root = Path::new("/somewhere");
        let entry = managed_folder(root, release::DEFAULT);
        assert_eq!(choose(false, Some(entry), root), Source::Managed);
    }

    #[test]
    fn a_version_that_does_not_fit_is_one_line_with_the_mend() {
        let text = message(check("LIBTORCH=/x", "2.11.0+cpu", release::DEFAULT, false));
        assert_eq!(text.lines().count(), 1);
        for part in ["LIBTORCH=/x", "2.11.0+cpu", "2.13.0", "unset", "--tch 0.24"] {
            assert!(text.contains(part), "no {part} in: {text}");
        }
        let text = message(check("LIBTORCH=/x", "1.13.1", release::DEFAULT, false));
        assert!(!text.contains("--tch"), "no release fits 1.13.1: {text}");
    }

    #[test]
    fn a_version_that_fits_or_is_not_to_be_checked_passes() {
        assert!(check("", "2.13.0+cu130", release::DEFAULT, false).is_ok());
        assert!(check("", "1.0", release::DEFAULT, true).is_ok());
    }

    #[test]
    fn the_version_of_a_folder_is_read_from_an_archive_and_from_a_wheel() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(message(folder_version(folder)).contains("holds no libtorch"));
        fs::create_dir(folder.join("include")).unwrap();
        fs::create_dir(folder.join("lib")).unwrap();
        assert!(message(folder_version(folder)).contains("does not say its version"));
        let python = "from typing import Optional\n__version__ = '2.13.0+cu130'\ndebug = False\n";
        fs::write(folder.join("version.py"), python).unwrap();
        assert_eq!(folder_version(folder).unwrap(), "2.13.0+cu130");
        fs::write(folder.join("build-version"), "2.11.0+cpu\n").unwrap();
        assert_eq!(folder_version(folder).unwrap(), "2.11.0+cpu");
    }

    #[test]
    fn a_relative_folder_is_refused_before_every_crate_reads_it_differently() {
        assert!(message(folder_version(Path::new("libtorch"))).contains("absolute path"));
    }
}
