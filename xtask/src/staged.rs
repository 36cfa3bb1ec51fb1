//! A folder below `target/` that has its name only when it is complete: it is filled under another
//! one, stamped and renamed. So a run that is interrupted leaves nothing that looks finished.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Written last, inside the folder: what it was filled with.
const STAMP: &str = "torchcache-installed";

/// The folder `name`, in `all` beside others of its sort.
pub(crate) struct Staged<'a> {
    pub(crate) all: &'a Path,
    pub(crate) name: &'a str,
}

/// Where it is filled.
pub(crate) struct Partial {
    /// Becomes the folder.
    pub(crate) fresh: PathBuf,
    /// For temporary files, on the same file system; gone afterwards.
    pub(crate) scratch: PathBuf,
    /// For the output of what fills it; stays.
    pub(crate) log: PathBuf,
}

impl Partial {
    /// Holds both, so its size tells the progress.
    pub(crate) fn whole(&self) -> &Path {
        self.fresh.parent().expect("it lies in the partial folder")
    }
}

impl Staged<'_> {
    pub(crate) fn path(&self) -> PathBuf {
        self.all.join(self.name)
    }

    /// Whether it is there with one of these stamps.
    pub(crate) fn is_complete(&self, accepted: &[String]) -> bool {
        fs::read_to_string(self.path().join(STAMP)).is_ok_and(|stamp| accepted.contains(&stamp))
    }

    /// The folder, filled with `fill` and stamped with the first of `accepted` unless it is there
    /// with any of them.
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

    /// The folder, filled anew though it looks complete.
    pub(crate) fn renew(
        &self,
        stamp: &str,
        fill: impl FnOnce(&Partial) -> Result<()>,
    ) -> Result<PathBuf> {
        let _lock = self.lock()?;
        self.replace(stamp, fill)?;
        Ok(self.path())
    }

    /// Of two commands that find it missing at the same time, one fills it and one waits. The lock
    /// goes with the process that holds it, however it ends.
    fn lock(&self) -> Result<File> {
        let all = self.all;
        fs::create_dir_all(all).map_err(Error::io(format!("make {}", all.display())))?;
        let path = all.join("lock");
        let file = File::create(&path).map_err(Error::io(format!("make {}", path.display())))?;
        if file.try_lock().is_err() {
            eprintln!(
                "waiting for another `cargo xtask` that fills {}",
                all.display()
            );
            file.lock()
                .map_err(Error::io(format!("lock {}", path.display())))?;
        }
        Ok(file)
    }

    fn replace(&self, stamp: &str, fill: impl FnOnce(&Partial) -> Result<()>) -> Result<()> {
        // What an interrupted run left. Its pip may still write for a moment, but only there.
        let prefix = format!("{}.partial-", self.name);
        self.remove_partial(&prefix)?;
        let whole = self.all.join(format!("{prefix}{}", std::process::id()));
        let partial = Partial {
            fresh: whole.join("site"),
            scratch: whole.join("tmp"),
            log: self.all.join(format!("{}.log", self.name)),
        };
        for folder in [&partial.fresh, &partial.scratch] {
            fs::create_dir_all(folder).map_err(Error::io(format!("make {}", folder.display())))?;
        }
        fill(&partial)?;
        let path = self.path();
        fs::write(partial.fresh.join(STAMP), stamp)
            .and_then(|()| remove(&path))
            .and_then(|()| fs::rename(&partial.fresh, &path))
            .and_then(|()| remove(&whole))
            .map_err(Error::io(format!("complete {}", path.display())))
    }

    fn remove_partial(&self, prefix: &str) -> Result<()> {
        let all = self.all;
        let entries = fs::read_dir(all).map_err(Error::io(format!("read {}", all.display())))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let path = entry.path();
                remove(&path).map_err(Error::io(format!("remove {}", path.display())))?;
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(all: &Path) -> Staged<'_> {
        Staged {
            all,
            name: "2.13.0",
        }
    }

    fn stamps(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_folder_is_filled_once_and_has_its_name_only_when_it_is_whole() {
        let all = tempfile::tempdir().unwrap();
        let staged = staged(all.path());
        let fill = |partial: &Partial| {
            assert!(!staged.path().exists());
            fs::write(partial.fresh.join("file"), "whole").unwrap();
            Ok(())
        };
        let path = staged.ensure(&stamps(&["a"]), fill).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "whole");
        let again = |_: &Partial| -> Result<()> { panic!("it is there") };
        assert_eq!(staged.ensure(&stamps(&["b", "a"]), again).unwrap(), path);
    }

    #[test]
    fn a_folder_with_another_stamp_or_none_is_filled_anew() {
        let all = tempfile::tempdir().unwrap();
        let staged = staged(all.path());
        fs::create_dir(staged.path()).unwrap();
        fs::write(staged.path().join("old"), "").unwrap();
        assert!(!staged.is_complete(&stamps(&["a"])));
        for stamp in ["a", "b"] {
            staged.ensure(&stamps(&[stamp]), |_| Ok(())).unwrap();
            assert!(staged.is_complete(&stamps(&[stamp])));
        }
        assert!(!staged.is_complete(&stamps(&["a"])));
        assert!(!staged.path().join("old").exists());
    }

    #[test]
    fn a_folder_that_is_renewed_is_filled_though_it_is_complete() {
        let all = tempfile::tempdir().unwrap();
        let staged = staged(all.path());
        for content in ["first", "second"] {
            let fill = |partial: &Partial| {
                fs::write(partial.fresh.join("file"), content).unwrap();
                Ok(())
            };
            let path = staged.renew("a", fill).unwrap();
            assert_eq!(fs::read_to_string(path.join("file")).unwrap(), content);
            assert!(staged.is_complete(&stamps(&["a"])));
        }
    }

    #[test]
    fn when_filling_fails_what_was_there_stays_and_is_not_complete() {
        let all = tempfile::tempdir().unwrap();
        let staged = staged(all.path());
        let fail = |_: &Partial| Err(Error::Reported);
        assert!(staged.ensure(&stamps(&["a"]), fail).is_err());
        assert!(!staged.path().exists());
    }

    #[test]
    fn what_an_interrupted_run_left_is_removed_and_nothing_else() {
        let all = tempfile::tempdir().unwrap();
        for name in [
            "2.13.0",
            "2.13.0.partial-1",
            "2.13.0.partial-2",
            "2.11.0.partial-3",
        ] {
            fs::create_dir_all(all.path().join(name).join("site")).unwrap();
        }
        staged(all.path())
            .remove_partial("2.13.0.partial-")
            .unwrap();
        let mut left: Vec<_> = fs::read_dir(all.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["2.11.0.partial-3", "2.13.0"]);
    }
}
