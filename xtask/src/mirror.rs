//! A copy of the sources below `target/tch-<version>/`, in which another tch release is locked. It
//! has its own build folder and lock file: testing one release never rebuilds another.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::install::libtorch::Libtorch;
use crate::release::Release;
use crate::shell;

/// Folders of the root without sources, for a checkout without git.
const RESULTS: [&str; 3] = ["target", ".git", "cuda-bundle"];

/// The copy has its own: cargo changes it there.
const LOCK: &str = "Cargo.lock";

/// Updates the copy for `release` and returns a shell in it.
pub(crate) fn prepare(root: &Path, release: &Release, libtorch: &Libtorch) -> Result<Shell> {
    let base = root.join(format!("target/tch-{}", release.tch));
    let copy = base.join("src");
    let files = sources(root)?;
    sync(root, &copy, &files)
        .with_context(|| format!("cannot copy the sources to {}", copy.display()))?;
    let sh = libtorch.shell(&copy)?;
    sh.set_var("CARGO_TARGET_DIR", base.join("build"));
    lock(root, &base, release, &sh)?;
    Ok(sh)
}

/// Locks `release` in the copy, unless that was done from the present lock file of the checkout.
fn lock(root: &Path, base: &Path, release: &Release, sh: &Shell) -> Result<()> {
    let wanted = sh.read_binary_file(root.join(LOCK))?;
    let stamp = base.join("Cargo.lock.checkout");
    if fs::read(&stamp).is_ok_and(|done| done == wanted) && sh.path_exists(LOCK) {
        return Ok(());
    }
    sh.write_file(LOCK, &wanted)?;
    let version = release.tch_exact;
    for package in ["tch", "torch-sys"] {
        shell::run(cmd!(
            sh,
            "cargo update --package {package} --precise {version}"
        ))?;
    }
    Ok(sh.write_file(stamp, wanted)?)
}

/// Every source file of the checkout, relative to it: what git tracks or would track.
pub(crate) fn sources(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let sh = Shell::new()?;
    sh.change_dir(root);
    let listed = cmd!(sh, "git ls-files -z --cached --others --exclude-standard");
    let mut files = BTreeSet::new();
    match listed.quiet().ignore_stderr().read() {
        Ok(text) => files.extend(text.split_terminator('\0').map(PathBuf::from)),
        // An unpacked archive, or a machine without git.
        Err(_) => walk(root, Path::new(""), &mut files)
            .with_context(|| format!("cannot list the files in {}", root.display()))?,
    }
    // git lists deleted files until they are committed.
    files.retain(|file| root.join(file).is_file());
    files.remove(Path::new(LOCK));
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let is_root = folder.as_os_str().is_empty();
        if is_root && RESULTS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => walk(root, &path, files)?,
            false => _ = files.insert(path),
        }
    }
    Ok(())
}

/// Makes `copy` contain exactly `files`. Unchanged files keep their time, by which cargo decides what
/// to build again.
fn sync(root: &Path, copy: &Path, files: &BTreeSet<PathBuf>) -> io::Result<()> {
    for file in files {
        let (from, to) = (root.join(file), copy.join(file));
        let (length, time) = state(&from)?;
        match state(&to) {
            Ok(copied) if copied == (length, time) => continue,
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(to.parent().expect("a file is in a folder"))?;
        fs::copy(&from, &to)?;
        File::options().append(true).open(&to)?.set_modified(time)?;
    }
    let mut copied = BTreeSet::new();
    walk(copy, Path::new(""), &mut copied)?;
    copied.remove(Path::new(LOCK));
    copied
        .difference(files)
        .try_for_each(|deleted| fs::remove_file(copy.join(deleted)))
}

fn state(file: &Path) -> io::Result<(u64, SystemTime)> {
    let data = fs::metadata(file)?;
    Ok((data.len(), data.modified()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
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
    fn only_the_result_folders_of_the_root_are_left_out() {
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
    fn files_are_those_that_git_tracks_or_would_track() {
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
    fn a_copy_has_files_with_their_times_and_its_own_lock() {
        let root = checkout(&["a.rs", "src/b.rs", "gone.rs"]);
        let copy = tempfile::tempdir().unwrap();
        sync(root.path(), copy.path(), &listed(root.path())).unwrap();
        fs::write(copy.path().join(LOCK), "own").unwrap();
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
        assert_eq!(fs::read_to_string(copy.path().join(LOCK)).unwrap(), "own");
    }

    #[test]
    fn an_unchanged_file_is_not_written_again() {
        let root = checkout(&["a.rs"]);
        let copy = tempfile::tempdir().unwrap();
        let files = listed(root.path());
        sync(root.path(), copy.path(), &files).unwrap();
        let (from, to) = (root.path().join("a.rs"), copy.path().join("a.rs"));
        // Same length and time, other bytes: only another copy would restore them.
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
