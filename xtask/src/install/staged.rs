//! A folder below `target/` that exists under its name only when it is complete: it is filled under
//! another name, stamped and renamed. An interrupted run leaves nothing that looks complete.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file, written last, that says what a folder was filled with.
const STAMP: &str = "torchcache-installed";

/// The folder `name` in `parent`.
pub(crate) struct Staged<'a> {
    pub(crate) parent: &'a Path,
    pub(crate) name: &'a str,
}

/// Where a folder is filled.
pub(crate) struct Partial {
    /// Becomes the folder.
    pub(crate) content: PathBuf,
    /// For temporary files, on the same file system; removed afterwards.
    pub(crate) scratch: PathBuf,
}

impl Staged<'_> {
    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(self.name)
    }

    /// Whether the folder exists with one of these stamps.
    pub(crate) fn is_complete(&self, accepted: &[String]) -> bool {
        fs::read_to_string(self.path().join(STAMP)).is_ok_and(|stamp| accepted.contains(&stamp))
    }

    /// Returns the folder. Unless it exists with one of the stamps `accepted`, it is filled with
    /// `fill` and gets the first of them.
    pub(crate) fn ensure(
        &self,
        accepted: &[String],
        fill: impl FnOnce(&Partial) -> Result<()>,
    ) -> Result<PathBuf> {
        let _lock = self.lock()?;
        if !self.is_complete(accepted) {
            self.replace(&accepted[0], fill)?;
        }
        Ok(self.path())
    }

    /// Fills the folder again, even if it looks complete.
    pub(crate) fn renew(
        &self,
        stamp: &str,
        fill: impl FnOnce(&Partial) -> Result<()>,
    ) -> Result<PathBuf> {
        let _lock = self.lock()?;
        self.replace(stamp, fill)?;
        Ok(self.path())
    }

    /// Of two commands that find the folder missing, one fills it and one waits. The lock is released
    /// when its process ends, however it ends.
    fn lock(&self) -> Result<File> {
        let parent = self.parent.display();
        let lock = || {
            fs::create_dir_all(self.parent)?;
            let file = File::create(self.parent.join("lock"))?;
            if file.try_lock().is_err() {
                eprintln!("waiting for another `cargo xtask` that fills {parent}");
                file.lock()?;
            }
            io::Result::Ok(file)
        };
        lock().with_context(|| format!("cannot lock {parent}"))
    }

    fn replace(&self, stamp: &str, fill: impl FnOnce(&Partial) -> Result<()>) -> Result<()> {
        let prefix = format!("{}.partial-", self.name);
        let folder = self.parent.join(format!("{prefix}{}", std::process::id()));
        let partial = Partial {
            content: folder.join("site"),
            scratch: folder.join("tmp"),
        };
        let make = || {
            // The pip of an interrupted run may still write for a moment, but only there.
            self.remove_partial(&prefix)?;
            fs::create_dir_all(&partial.content)?;
            fs::create_dir_all(&partial.scratch)
        };
        make().with_context(|| format!("cannot create {}", folder.display()))?;
        fill(&partial)?;
        let path = self.path();
        fs::write(partial.content.join(STAMP), stamp)
            .and_then(|()| remove(&path))
            .and_then(|()| fs::rename(&partial.content, &path))
            .and_then(|()| remove(&folder))
            .with_context(|| format!("cannot complete {}", path.display()))
    }

    /// Removes what interrupted runs left.
    fn remove_partial(&self, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.parent)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn staged(parent: &Path) -> Staged<'_> {
        Staged {
            parent,
            name: "2.13.0",
        }
    }

    fn stamps<const N: usize>(names: [&str; N]) -> [String; N] {
        names.map(str::to_owned)
    }

    #[test]
    fn a_folder_gets_its_name_once_it_is_filled() {
        let parent = tempfile::tempdir().unwrap();
        let staged = staged(parent.path());
        let fill = |partial: &Partial| {
            assert!(!staged.path().exists());
            fs::write(partial.content.join("file"), "complete").unwrap();
            Ok(())
        };
        let path = staged.ensure(&stamps(["a"]), fill).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "complete");
        let again = |_: &Partial| -> Result<()> { panic!("filled twice") };
        assert_eq!(staged.ensure(&stamps(["b", "a"]), again).unwrap(), path);
    }

    #[test]
    fn a_folder_with_another_stamp_is_filled_again() {
        let parent = tempfile::tempdir().unwrap();
        let staged = staged(parent.path());
        fs::create_dir(staged.path()).unwrap();
        fs::write(staged.path().join("old"), "").unwrap();
        assert!(!staged.is_complete(&stamps(["a"])));
        for stamp in ["a", "b"] {
            staged.ensure(&stamps([stamp]), |_| Ok(())).unwrap();
            assert!(staged.is_complete(&stamps([stamp])));
        }
        assert!(!staged.is_complete(&stamps(["a"])));
        assert!(!staged.path().join("old").exists());
        let write = |partial: &Partial| Ok(fs::write(partial.content.join("file"), "")?);
        assert!(staged.renew("b", write).unwrap().join("file").exists());
    }

    #[test]
    fn a_failed_fill_leaves_nothing_under_the_name() {
        let parent = tempfile::tempdir().unwrap();
        let staged = staged(parent.path());
        let fail = |_: &Partial| bail!("failed");
        assert!(staged.ensure(&stamps(["a"]), fail).is_err());
        assert!(!staged.path().exists());
    }

    #[test]
    fn leftovers_of_interrupted_runs_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let names = [
            "2.13.0",
            "2.13.0.partial-1",
            "2.13.0.partial-2",
            "2.11.0.partial-3",
        ];
        for name in names {
            fs::create_dir_all(parent.path().join(name).join("site")).unwrap();
        }
        staged(parent.path())
            .remove_partial("2.13.0.partial-")
            .unwrap();
        let entries = fs::read_dir(parent.path()).unwrap();
        let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["2.11.0.partial-3", "2.13.0"]);
    }
}
