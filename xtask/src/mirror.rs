//! A copy of the sources below `target/tch-<version>/`, in which another tch release is locked. It
//! has its own build folder and lock file: testing one release never rebuilds another.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::install::libtorch::Libtorch;
use crate::release::Release;
use crate::shell;

/// Folders of the root without sources, for a checkout without git.
const RESULTS: [&str; 3] = ["target", ".git", "cuda-bundle"];

/// The copy has its own: cargo changes it there.
pub(crate) const LOCK: &str = "Cargo.lock";

/// Updates the copy for `release` and returns a shell in it.
pub(crate) fn prepare(root: &Path, release: &Release, libtorch: &Libtorch) -> Result<Shell> {
    let base = root.join(format!("target/tch-{}", release.tch));
    let copy = base.join("src");
    let files = sources(root)?;
    sync(root, &copy, &files)?;
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
        Err(_) => {
            files = files_below(root)
                .with_context(|| format!("cannot list the files in {}", root.display()))?;
        }
    }
    // git lists deleted files until they are committed.
    files.retain(|file| root.join(file).is_file());
    files.remove(Path::new(LOCK));
    Ok(files)
}

/// Every file below a folder, relative to it, without folders of results.
pub(crate) fn files_below(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    walk(root, Path::new(""), &mut files)?;
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

/// Makes `copy` contain exactly `files`, and its lock file. Only files whose bytes differ are written:
/// cargo decides by their times what to build again.
pub(crate) fn sync(root: &Path, copy: &Path, files: &BTreeSet<PathBuf>) -> Result<()> {
    let sync = || -> io::Result<()> {
        for file in files {
            let (from, to) = (root.join(file), copy.join(file));
            let bytes = fs::read(&from)?;
            if !fs::read(&to).is_ok_and(|copied| copied == bytes) {
                fs::create_dir_all(to.parent().expect("a file is in a folder"))?;
                fs::copy(from, to)?;
            }
        }
        let mut copied = files_below(copy)?;
        copied.remove(Path::new(LOCK));
        let mut deleted = copied.difference(files);
        deleted.try_for_each(|file| fs::remove_file(copy.join(file)))
    };
    sync().with_context(|| format!("cannot copy the sources to {}", copy.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn checkout(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
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
        let files = files_below(root.path()).unwrap();
        let files: Vec<_> = files.into_iter().collect();
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
    fn a_copy_has_the_same_files_and_its_own_lock() {
        let root = checkout(&["a.rs", "src/b.rs", "gone.rs"]);
        let copy = tempfile::tempdir().unwrap();
        sync(root.path(), copy.path(), &files_below(root.path()).unwrap()).unwrap();
        let path = |file| copy.path().join(file);
        fs::write(path(LOCK), "own").unwrap();
        let time = || fs::metadata(path("a.rs")).unwrap().modified().unwrap();
        let written = time();

        fs::remove_file(root.path().join("gone.rs")).unwrap();
        fs::write(root.path().join("src/b.rs"), "changed").unwrap();
        sync(root.path(), copy.path(), &files_below(root.path()).unwrap()).unwrap();
        assert_eq!(time(), written, "an unchanged file is not written again");
        assert!(!path("gone.rs").exists());
        assert_eq!(fs::read_to_string(path("src/b.rs")).unwrap(), "changed");
        assert_eq!(fs::read_to_string(path(LOCK)).unwrap(), "own");
    }
}
