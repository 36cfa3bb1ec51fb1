//! Puts the torch of a release below `target/libtorch/` with pip, for a checkout that is told of
//! no other. The folder appears under its name only when it is complete.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::libtorch::managed_folder;
use crate::progress;
use crate::python;
use crate::release::Release;

/// Written last, inside the installation: what was asked of pip, a line each.
const STAMP: &str = "torchcache-installed";

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
    let all = site.parent().expect("the versions lie beside each other");
    fs::create_dir_all(all).map_err(Error::io(format!("make {}", all.display())))?;
    let _lock = lock(all)?;
    if !is_complete(site, &accepted) {
        install(all, site, release, &wanted)?;
    }
    Ok(torch)
}

/// Of two commands that find libtorch missing at the same time, one installs and one waits.
/// The lock goes with the process that holds it, however it ends.
fn lock(all: &Path) -> Result<File> {
    let path = all.join("lock");
    let file = File::create(&path).map_err(Error::io(format!("make {}", path.display())))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another `cargo xtask` that installs libtorch");
        file.lock()
            .map_err(Error::io(format!("lock {}", path.display())))?;
    }
    Ok(file)
}

fn is_complete(site: &Path, accepted: &[String]) -> bool {
    fs::read_to_string(site.join(STAMP)).is_ok_and(|stamp| accepted.contains(&stamp))
}

fn install(all: &Path, site: &Path, release: &Release, wanted: &Wanted) -> Result<()> {
    // What an interrupted run left. Its pip may still write for a moment, but only there.
    let prefix = format!("{}.partial-", release.torch);
    remove_partial(all, &prefix)?;
    let partial = all.join(format!("{prefix}{}", std::process::id()));
    let (fresh, scratch) = (partial.join("site"), partial.join("tmp"));
    fs::create_dir_all(&scratch).map_err(Error::io(format!("make {}", scratch.display())))?;

    pip(
        release,
        wanted,
        &fresh,
        &scratch,
        &all.join(format!("{}.log", release.torch)),
    )?;
    // torch-sys looks for this file to check the version; the wheel has none.
    fs::write(fresh.join("torch/build-version"), release.torch)
        .and_then(|()| fs::write(fresh.join(STAMP), wanted.stamp()))
        .and_then(|()| remove(site))
        .and_then(|()| fs::rename(&fresh, site))
        .and_then(|()| remove(&partial))
        .map_err(Error::io(format!("put libtorch to {}", site.display())))
}

fn pip(release: &Release, wanted: &Wanted, to: &Path, scratch: &Path, log: &Path) -> Result<()> {
    let python = python::with_pip()
        .map_err(|reasons| Error::Failed(no_pip(release, &reasons.join("\n  "))))?;
    let output = File::create(log).map_err(Error::io(format!("make {}", log.display())))?;
    let errors = output
        .try_clone()
        .map_err(Error::io(format!("open {}", log.display())))?;
    let mut command = Command::new(&python);
    command.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--no-compile",
        "--progress-bar",
        "off",
    ]);
    // Any of torch's Pythons will do, since only the C++ half is used; so the one that runs pip
    // may be older or newer than torch supports.
    command.args(["--only-binary=:all:", "--python-version", "3.12"]);
    if !wanted.dependencies {
        command.arg("--no-deps");
    }
    command.arg("--target").arg(to).args(&wanted.requirements);
    // pip unpacks in its temporary folder: /tmp may be small, and a move within one file system
    // is a rename. The settings of someone's pip.conf do not go together with --target.
    command
        .env("TMPDIR", scratch)
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0");
    command.stdin(Stdio::null()).stdout(output).stderr(errors);

    let size = if wanted.dependencies {
        "5 GB"
    } else {
        "1.2 GB"
    };
    let what = format!("torch {}", release.torch);
    eprintln!("installing {what} below target/, about {size}");
    let mut child = command
        .spawn()
        .map_err(Error::io(format!("run {}", python.display())))?;
    let status = progress::watch(&mut child, &what, to.parent().unwrap_or(to))
        .map_err(Error::io("wait for pip"))?;
    let library = if cfg!(target_os = "macos") {
        "libtorch_cpu.dylib"
    } else {
        "libtorch_cpu.so"
    };
    match status.success() && to.join("torch/lib").join(library).exists() {
        true => Ok(()),
        false => Err(Error::Failed(pip_failed(release, log))),
    }
}

fn remove_partial(all: &Path, prefix: &str) -> Result<()> {
    let entries = fs::read_dir(all).map_err(Error::io(format!("read {}", all.display())))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let path = entry.path();
            remove(&path).map_err(Error::io(format!("remove {}", path.display())))?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn no_pip(release: &Release, reasons: &str) -> String {
    format!(
        "no Python with pip was found to install libtorch:\n  {reasons}\n{}",
        ways_out(release)
    )
}

fn pip_failed(release: &Release, log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(8)..].join("\n  ");
    format!(
        "pip failed:\n  {end}\n(all of it: {})\n{}",
        log.display(),
        ways_out(release)
    )
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

    fn ready(wanted: &Wanted) -> tempfile::TempDir {
        let site = tempfile::tempdir().unwrap();
        fs::write(site.path().join(STAMP), wanted.stamp()).unwrap();
        site
    }

    #[test]
    fn only_the_wheels_that_are_linked_are_wanted_without_a_gpu() {
        let wanted = Wanted::new(DEFAULT, false);
        assert_eq!(wanted.requirements[0], "torch==2.13.0");
        assert_eq!(
            wanted.requirements.len(),
            if cfg!(target_os = "linux") { 3 } else { 1 }
        );
        assert!(!wanted.dependencies);
        assert_eq!(
            Wanted::new(DEFAULT, true),
            Wanted {
                requirements: vec!["torch==2.13.0".into()],
                dependencies: true
            }
        );
    }

    #[test]
    fn an_installation_is_complete_when_its_stamp_says_what_is_wanted_now() {
        let [new, old] = RELEASES
            .each_ref()
            .map(|release| Wanted::new(release, false));
        let site = ready(&new);
        assert!(is_complete(site.path(), &[new.stamp()]));
        assert!(!is_complete(site.path(), &[old.stamp()]));
        fs::remove_file(site.path().join(STAMP)).unwrap();
        assert!(!is_complete(site.path(), &[new.stamp()]));
    }

    #[test]
    fn a_full_installation_is_reused_and_nothing_is_run() {
        let root = tempfile::tempdir().unwrap();
        let torch = managed_folder(root.path(), DEFAULT);
        fs::create_dir_all(&torch).unwrap();
        let stamp = Wanted::new(DEFAULT, true).stamp();
        fs::write(torch.parent().unwrap().join(STAMP), stamp).unwrap();
        assert_eq!(ensure(root.path(), DEFAULT, true).unwrap(), torch);
        assert_eq!(ensure(root.path(), DEFAULT, false).unwrap(), torch);
    }

    #[test]
    fn what_an_interrupted_installation_left_is_removed_and_nothing_else() {
        let all = tempfile::tempdir().unwrap();
        for name in [
            "2.13.0",
            "2.13.0.partial-1",
            "2.13.0.partial-2",
            "2.11.0.partial-3",
        ] {
            fs::create_dir_all(all.path().join(name).join("site")).unwrap();
        }
        remove_partial(all.path(), "2.13.0.partial-").unwrap();
        let mut left: Vec<_> = fs::read_dir(all.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["2.11.0.partial-3", "2.13.0"]);
    }

    #[test]
    fn without_pip_the_message_lists_what_to_do_instead() {
        let text = no_pip(DEFAULT, "python3: No module named pip");
        for part in [
            "No module named pip",
            "2.13.0",
            "python3-pip",
            "LIBTORCH_USE_PYTORCH=1",
        ] {
            assert!(text.contains(part), "no {part} in: {text}");
        }
    }

    #[test]
    fn when_pip_fails_the_message_shows_the_end_of_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lines: Vec<_> = (0..50).map(|number| format!("line {number};")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        let text = pip_failed(DEFAULT, &log);
        assert!(
            text.contains("line 49;") && !text.contains("line 10;"),
            "{text}"
        );
        assert!(text.contains(&log.display().to_string()), "{text}");
    }
}
