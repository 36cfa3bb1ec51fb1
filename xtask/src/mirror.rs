//! A copy of the sources below `target/tch-<version>/`, in which another tch release is locked.
//! It has its own build folder, so that testing one release never rebuilds the other, and the
//! lock file of the checkout stays as it is.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::cargo::Cargo;
use crate::error::{Error, Result};
use crate::libtorch::Libtorch;
use crate::release::Release;

/// Folders that are results, not sources, where git is not there to say so.
const RESULTS: [&str; 3] = ["target", ".git", "cuda-bundle"];

/// The lock file of the copy is its own: cargo rewrites it there.
const LOCK: &str = "Cargo.lock";

/// Brings the copy for `release` up to date and gives the cargo that builds it.
pub(crate) fn prepare(root: &Path, release: &Release, libtorch: &Libtorch) -> Result<Cargo> {
    let base = root.join(format!("target/tch-{}", release.tch));
    let copy = base.join("src");
    let files = sources(root)?;
    sync(root, &copy, &files)
        .map_err(Error::io(format!("copy the sources to {}", copy.display())))?;

    let mut cargo = libtorch.cargo(&copy);
    cargo
        .variables
        .push(("CARGO_TARGET_DIR", base.join("build").into()));
    lock(root, &base, release, &cargo)?;
    Ok(cargo)
}

/// Locks `release` in the copy, unless that was done from the lock file the checkout has now.
fn lock(root: &Path, base: &Path, release: &Release, cargo: &Cargo) -> Result<()> {
    let failed = || format!("take over {LOCK} into {}", base.display());
    let wanted = fs::read(root.join(LOCK)).map_err(Error::io(failed()))?;
    let stamp = base.join("Cargo.lock.checkout");
    if fs::read(&stamp).is_ok_and(|done| done == wanted) && cargo.root.join(LOCK).exists() {
        return Ok(());
    }
    fs::write(cargo.root.join(LOCK), &wanted).map_err(Error::io(failed()))?;
    for package in ["tch", "torch-sys"] {
        cargo.run([
            "update",
            "--package",
            package,
            "--precise",
            release.tch_exact,
        ])?;
    }
    fs::write(stamp, wanted).map_err(Error::io(failed()))
}

/// Every source file of the checkout, relative to it: what git tracks or would track.
pub(crate) fn sources(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let listed = Command::new("git")
        .current_dir(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output();
    let mut files = BTreeSet::new();
    match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            files.extend(text.split_terminator('\0').map(PathBuf::from));
        }
        // An unpacked archive, or a machine without git.
        _ => walk(root, Path::new(""), &mut files)
            .map_err(Error::io(format!("list the files in {}", root.display())))?,
    }
    // A file that was deleted but not yet committed is still listed.
    files.retain(|file| root.join(file).is_file());
    files.remove(Path::new(LOCK));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let result =
            folder.as_os_str().is_empty() && RESULTS.iter().any(|name| entry.file_name() == *name);
        if result {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => walk(root, &path, files)?,
            false => _ = files.insert(path),
        }
    }
    Ok(())
}

/// Makes `copy` hold exactly `files`. Files that did not change keep their time, by which cargo
/// tells what to build again.
fn sync(root: &Path, copy: &Path, files: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for file in files {
        let (from, to) = (root.join(file), copy.join(file));
        let (length, time) = state(&from)?;
        match state(&to) {
            Ok(there) if there == (length, time) => continue,
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
        fs::copy(&from, &to)?;
        File::options().append(true).open(&to)?.set_modified(time)?;
    }
    let mut there = BTreeSet::new();
    walk(copy, Path::new(""), &mut there)?;
    there.remove(Path::new(LOCK));
    there
        .difference(files)
        .try_for_each(|gone| fs::remove_file(copy.join(gone)))
}

fn state(file: &Path) -> std::io::Result<(u64, SystemTime)> {
    let data = fs::metadata(file)?;
    Ok((data.len(), data.modified()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn checkout(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
    }

    fn listed(root: &Path) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        walk(root, Path::new(""), &mut files).unwrap();
        files
    }

    #[test]
    fn results_are_no_sources_but_folders_of_the_same_name_deeper_down_are() {
        let root = checkout(&[
            "a.rs",
            "target/x",
            ".git/x",
            "cuda-bundle/x",
            "src/target/b.rs",
        ]);
        let files: Vec<_> = listed(root.path()).into_iter().collect();
        assert_eq!(files, [Path::new("a.rs"), Path::new("src/target/b.rs")]);
    }

    #[test]
    fn git_leaves_out_what_it_ignores_and_takes_what_is_not_yet_committed() {
        let root = checkout(&["a.rs", "ignored/x", ".gitignore", "Cargo.lock"]);
        fs::write(root.path().join(".gitignore"), "/ignored\n").unwrap();
        let git = Command::new("git")
            .current_dir(root.path())
            .args(["init", "-q"])
            .status();
        if !git.is_ok_and(|status| status.success()) {
            return; // Without git the walk is used, which has its own test.
        }
        let files: Vec<_> = sources(root.path()).unwrap().into_iter().collect();
        assert_eq!(files, [Path::new(".gitignore"), Path::new("a.rs")]);
    }

    #[test]
    fn a_copy_holds_the_files_with_their_times_and_its_own_lock_file() {
        let root = checkout(&["a.rs", "src/b.rs", "gone.rs"]);
        let copy = tempfile::tempdir().unwrap();
        sync(root.path(), copy.path(), &listed(root.path())).unwrap();
        fs::write(copy.path().join(LOCK), "its own").unwrap();
        assert_eq!(
            state(&root.path().join("a.rs")).unwrap(),
            state(&copy.path().join("a.rs")).unwrap()
        );

        fs::remove_file(root.path().join("gone.rs")).unwrap();
        fs::write(root.path().join("src/b.rs"), "changed").unwrap();
        sync(root.path(), copy.path(), &listed(root.path())).unwrap();
        assert!(!copy.path().join("gone.rs").exists());
        assert_eq!(
            fs::read_to_string(copy.path().join("src/b.rs")).unwrap(),
            "changed"
        );
        assert_eq!(
            fs::read_to_string(copy.path().join(LOCK)).unwrap(),
            "its own"
        );
    }

    #[test]
    fn a_file_that_did_not_change_is_not_written_again() {
        let root = checkout(&["a.rs"]);
        let copy = tempfile::tempdir().unwrap();
        let files = listed(root.path());
        sync(root.path(), copy.path(), &files).unwrap();
        let (from, to) = (root.path().join("a.rs"), copy.path().join("a.rs"));
        // Same length and time, other bytes: only a second copy would change them back.
        let (_, time) = state(&from).unwrap();
        fs::write(&to, "b.rs").unwrap();
        File::options()
            .append(true)
            .open(&to)
            .unwrap()
            .set_modified(time)
            .unwrap();
        sync(root.path(), copy.path(), &files).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "b.rs");

        let later = time + Duration::from_secs(1);
        File::options()
            .append(true)
            .open(&from)
            .unwrap()
            .set_modified(later)
            .unwrap();
        sync(root.path(), copy.path(), &files).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "a.rs");
    }
}
