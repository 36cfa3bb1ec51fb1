//! Puts the torch of a release below `target/libtorch/` with pip, for a checkout that is told of
//! no other.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::libtorch::managed_folder;
use crate::pip::Request;
use crate::python;
use crate::release::Release;
use crate::staged::{Partial, Staged};

/// What to ask pip for.
#[derive(Debug, PartialEq)]
struct Wanted {
    requirements: Vec<String>,
    dependencies: bool,
}

impl Wanted {
    /// The wheel of torch for Linux is built for CUDA: with what it depends on it fills 5 GB, of
    /// which a machine without a GPU needs the two runtime libraries that everything is linked to.
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
        let suffix = if self.dependencies {
            "with what it depends on\n"
        } else {
            ""
        };
        self.requirements.join("\n") + "\n" + suffix
    }

    /// The options and requirements of pip.
    fn args(&self) -> Vec<OsString> {
        // Any of torch's Pythons will do, since only the C++ half is used; so the one that runs
        // pip may be older or newer than torch supports.
        let mut args = vec!["--only-binary=:all:", "--python-version", "3.12"];
        if !self.dependencies {
            args.push("--no-deps");
        }
        let requirements = self.requirements.iter().map(String::as_str);
        args.into_iter()
            .chain(requirements)
            .map(OsString::from)
            .collect()
    }
}

/// The folder with `include/` and `lib/` of `release`, installed if it is not there.
pub(crate) fn ensure(root: &Path, release: &Release, gpu: bool) -> Result<PathBuf> {
    let torch = managed_folder(root, release);
    let wanted = Wanted::new(release, gpu);
    // The full set serves without a GPU as well.
    let accepted = [wanted.stamp(), Wanted::new(release, true).stamp()];
    let site = torch
        .parent()
        .expect("the folder lies in one named after the version");
    let staged = Staged {
        all: site.parent().expect("the versions lie beside each other"),
        name: release.torch,
    };
    staged.ensure(&accepted, |partial| install(release, &wanted, partial))?;
    Ok(torch)
}

fn install(release: &Release, wanted: &Wanted, partial: &Partial) -> Result<()> {
    let python = python::with_pip()
        .map_err(|reasons| Error::Failed(no_pip(release, &reasons.join("\n  "))))?;
    let size = if wanted.dependencies {
        "5 GB"
    } else {
        "1.2 GB"
    };
    let request = Request {
        python: &python,
        target: &partial.fresh,
        args: wanted.args(),
        what: &format!("torch {}", release.torch),
        size,
    };
    request
        .run(partial)
        .map_err(|error| with_ways_out(error, release))?;
    let library = if cfg!(target_os = "macos") {
        "libtorch_cpu.dylib"
    } else {
        "libtorch_cpu.so"
    };
    let folder = partial.fresh.join("torch");
    if !folder.join("lib").join(library).exists() {
        let missing = Error::Failed(format!("the wheel of torch holds no {library}"));
        return Err(with_ways_out(missing, release));
    }
    // torch-sys looks for this file to check the version; the wheel has none.
    let version = folder.join("build-version");
    fs::write(&version, release.torch).map_err(Error::io(format!("write {}", version.display())))
}

fn no_pip(release: &Release, reasons: &str) -> String {
    format!(
        "no Python with pip was found to install libtorch:\n  {reasons}\n{}",
        ways_out(release)
    )
}

fn with_ways_out(error: Error, release: &Release) -> Error {
    match error {
        Error::Failed(text) => Error::Failed(format!("{text}\n{}", ways_out(release))),
        other => other,
    }
}

fn ways_out(release: &Release) -> String {
    let torch = release.torch;
    format!(
        "Do one of these and run the command again:
  - install pip: `apt install python3-pip`, `dnf install python3-pip`, or
    `python3 -m ensurepip --upgrade`
  - activate a virtual environment that has pip
  - unpack libtorch {torch} from pytorch.org and set LIBTORCH to the absolute path of the folder
    that holds include/ and lib/
  - set LIBTORCH_USE_PYTORCH=1 in an environment where `import torch` gives version {torch}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::{DEFAULT, RELEASES};

    #[test]
    fn only_the_wheels_that_are_linked_are_wanted_without_a_gpu() {
        let wanted = Wanted::new(DEFAULT, false);
        assert_eq!(wanted.requirements[0], "torch==2.13.0");
        assert_eq!(
            wanted.requirements.len(),
            if cfg!(target_os = "linux") { 3 } else { 1 }
        );
        assert!(wanted.args().contains(&"--no-deps".into()));
        let full = Wanted::new(DEFAULT, true);
        assert_eq!(full.requirements, ["torch==2.13.0"]);
        assert!(!full.args().contains(&"--no-deps".into()));
    }

    #[test]
    fn each_release_and_each_extent_has_a_stamp_of_its_own() {
        let stamps: std::collections::BTreeSet<_> = RELEASES
            .iter()
            .flat_map(|release| [false, true].map(|gpu| Wanted::new(release, gpu).stamp()))
            .collect();
        assert_eq!(stamps.len(), 4);
    }

    #[test]
    fn a_full_installation_is_reused_and_nothing_is_run() {
        let root = tempfile::tempdir().unwrap();
        let torch = managed_folder(root.path(), DEFAULT);
        fs::create_dir_all(&torch).unwrap();
        let stamp = Wanted::new(DEFAULT, true).stamp();
        fs::write(torch.parent().unwrap().join("torchcache-installed"), stamp).unwrap();
        assert_eq!(ensure(root.path(), DEFAULT, true).unwrap(), torch);
        assert_eq!(ensure(root.path(), DEFAULT, false).unwrap(), torch);
    }

    #[test]
    fn without_pip_or_when_it_fails_the_message_lists_what_to_do_instead() {
        let failed = with_ways_out(Error::Failed("pip failed".into()), DEFAULT);
        let Error::Failed(failed) = failed else {
            panic!("{failed:?}")
        };
        assert!(failed.starts_with("pip failed"));
        let without = no_pip(DEFAULT, "python3: No module named pip");
        assert!(without.contains("No module named pip"));
        for text in [failed, without] {
            for part in ["2.13.0", "python3-pip", "LIBTORCH_USE_PYTORCH=1"] {
                assert!(text.contains(part), "no {part} in: {text}");
            }
        }
    }
}
