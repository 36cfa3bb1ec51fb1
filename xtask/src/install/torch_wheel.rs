//! Installs the torch of a release below `target/libtorch/` with pip.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install::pip::PipInstall;
use crate::install::python;
use crate::install::staged::{Partial, Staged};
use crate::release::Release;

/// Arguments of pip.
#[derive(Debug, PartialEq)]
struct Wanted {
    requirements: Vec<String>,
    dependencies: bool,
}

impl Wanted {
    /// The wheel for Linux is built for CUDA: with its dependencies it takes 5 GB, of which a machine
    /// without a GPU needs the two runtime libraries that everything is linked to.
    fn new(release: &Release, gpu: bool) -> Self {
        let mut requirements = vec![format!("torch=={}", release.torch)];
        if cfg!(target_os = "linux") && !gpu {
            requirements.extend(release.cuda_runtime.iter().map(|wheel| wheel.to_string()));
        }
        Self {
            requirements,
            dependencies: gpu,
        }
    }

    fn stamp(&self) -> String {
        let suffix = match self.dependencies {
            true => "with what it depends on\n",
            false => "",
        };
        self.requirements.join("\n") + "\n" + suffix
    }

    fn args(&self) -> Vec<OsString> {
        // Only the C++ half is used, so the wheel of any Python will do: the one that runs pip may be
        // older or newer than torch supports.
        let mut args = vec!["--only-binary=:all:", "--python-version", "3.12"];
        if !self.dependencies {
            args.push("--no-deps");
        }
        args.extend(self.requirements.iter().map(String::as_str));
        args.into_iter().map(OsString::from).collect()
    }
}

/// The folder that `ensure` fills: it holds `include/` and `lib/` of a release.
pub(crate) fn folder(root: &Path, release: &Release) -> PathBuf {
    root.join("target/libtorch")
        .join(release.torch)
        .join("torch")
}

/// The folder with `include/` and `lib/` of `release`, installed if it is missing.
pub(crate) fn ensure(root: &Path, release: &Release, gpu: bool) -> Result<PathBuf> {
    let wanted = Wanted::new(release, gpu);
    // The full set works without a GPU as well.
    let accepted = [wanted.stamp(), Wanted::new(release, true).stamp()];
    let staged = Staged {
        parent: &root.join("target/libtorch"),
        name: release.torch,
    };
    staged
        .ensure(&accepted, |partial| install(release, &wanted, partial))
        .with_context(|| alternatives(release))?;
    Ok(folder(root, release))
}

fn install(release: &Release, wanted: &Wanted, partial: &Partial) -> Result<()> {
    let request = PipInstall {
        python: &python::with_pip()?,
        target: &partial.content,
        args: wanted.args(),
        what: &format!("torch {}", release.torch),
        size: if wanted.dependencies {
            "5 GB"
        } else {
            "1.2 GB"
        },
    };
    request.run(partial)?;
    let library = match cfg!(target_os = "macos") {
        true => "libtorch_cpu.dylib",
        false => "libtorch_cpu.so",
    };
    let folder = partial.content.join("torch");
    ensure!(
        folder.join("lib").join(library).exists(),
        "the wheel of torch has no {library}"
    );
    // torch-sys reads the version from this file; the wheel has none.
    let version = folder.join("build-version");
    fs::write(&version, release.torch)
        .with_context(|| format!("cannot write {}", version.display()))
}

fn alternatives(release: &Release) -> String {
    let torch = release.torch;
    format!(
        "libtorch {torch} could not be installed. Do one of these and run the command again:
  - install pip: `apt install python3-pip`, `dnf install python3-pip`, or
    `python3 -m ensurepip --upgrade`
  - activate a virtual environment that has pip
  - unpack libtorch {torch} from pytorch.org and set LIBTORCH to the absolute path of the folder
    with include/ and lib/
  - set LIBTORCH_USE_PYTORCH=1 in an environment where `import torch` gives version {torch}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::{DEFAULT, RELEASES};
    use std::collections::BTreeSet;

    #[test]
    fn without_a_gpu_only_linked_wheels_are_installed() {
        let wanted = Wanted::new(DEFAULT, false);
        assert_eq!(wanted.requirements[0], "torch==2.13.0");
        let count = if cfg!(target_os = "linux") { 3 } else { 1 };
        assert_eq!(wanted.requirements.len(), count);
        assert!(wanted.args().contains(&"--no-deps".into()));
        let full = Wanted::new(DEFAULT, true);
        assert_eq!(full.requirements, ["torch==2.13.0"]);
        assert!(!full.args().contains(&"--no-deps".into()));
    }

    #[test]
    fn each_release_and_extent_has_its_own_stamp() {
        let stamp = |release| [false, true].map(|gpu| Wanted::new(release, gpu).stamp());
        let stamps: BTreeSet<_> = RELEASES.iter().flat_map(stamp).collect();
        assert_eq!(stamps.len(), 4);
    }

    #[test]
    fn a_full_installation_is_used_without_a_gpu_too() {
        let root = tempfile::tempdir().unwrap();
        let torch = folder(root.path(), DEFAULT);
        fs::create_dir_all(&torch).unwrap();
        let stamp = Wanted::new(DEFAULT, true).stamp();
        fs::write(torch.parent().unwrap().join("torchcache-installed"), stamp).unwrap();
        assert_eq!(ensure(root.path(), DEFAULT, true).unwrap(), torch);
        assert_eq!(ensure(root.path(), DEFAULT, false).unwrap(), torch);
    }
}
