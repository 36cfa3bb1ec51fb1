//! The exported file: written under a temporary name in the same directory, and renamed when it is
//! complete. On an error it is removed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::{Builder, NamedTempFile, PersistError};
use torchcache_store::fs::{Directory, FileSystem, Os, try_lock};

use crate::error::Error;
use crate::text::path_text;

/// The prefix of temporary names.
const PREFIX: &str = ".torchcache-export-";

/// The same for a file that could not be locked. No other export removes it.
const UNLOCKED_PREFIX: &str = ".torchcache-unlocked-export-";

/// A newer file without a lock may be about to get one.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// A file that is not complete yet.
pub(crate) struct OutputFile {
    path: PathBuf,
    force: bool,
    temp: NamedTempFile,
}

impl OutputFile {
    /// Creates the file. Without `force`, fails if `path` exists.
    pub(crate) fn create(path: &Path, force: bool) -> Result<OutputFile, Error> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::failed(format!(
                "{} exists already; --force replaces it",
                path_text(path)
            )));
        }
        if path.is_dir() {
            return Err(Error::failed(format!(
                "{} is a directory; name a file in it",
                path_text(path)
            )));
        }
        let folder = folder(path);
        remove_stale(folder);
        let make = |prefix| {
            Builder::new()
                .prefix(prefix)
                // With the usual permissions, and without the temporary name in errors.
                .make_in(folder, |path| File::create_new(path))
                .map_err(Error::io("write to the directory", folder))
        };
        let mut temp = make(PREFIX)?;
        // The lock shows other exports that this one is running.
        if !matches!(try_lock(temp.as_file()), Ok(true)) {
            temp = make(UNLOCKED_PREFIX)?;
        }
        Ok(OutputFile {
            path: path.to_owned(),
            force,
            temp,
        })
    }

    /// The directory that the file is in.
    pub(crate) fn folder(&self) -> &Path {
        folder(&self.path)
    }

    /// Writes the contents, and renames the file.
    pub(crate) fn fill<E: From<io::Error>>(
        self,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        write(self.temp.as_file())?;
        // Without the sync, a power loss could leave the name without the bytes.
        self.temp.as_file().sync_all()?;
        let named = match self.force {
            true => self.temp.persist(&self.path).map(drop),
            false => persist_new(self.temp, &self.path),
        };
        named.map_err(|error| error.error.into())
    }
}

/// The directory of a file: "rows.npy" is in ".".
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Renames a file unless `path` exists. Where the system can do that neither by renaming nor by a second link, an
/// empty file takes the name first, and is then replaced.
fn persist_new(temp: NamedTempFile, path: &Path) -> Result<(), PersistError> {
    let unnamed = match temp.persist_noclobber(path) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => error.file,
        named => return named.map(drop),
    };
    if let Err(error) = File::create_new(path) {
        return Err(PersistError {
            error,
            file: unnamed,
        });
    }
    unnamed.persist(path).map(drop).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

/// Removes files of killed exports, as far as possible.
fn remove_stale(folder: &Path) {
    let opened = folder.canonicalize().and_then(|it| Os.open_dir(&it, false));
    let Ok(dir) = opened else {
        return;
    };
    for entry in dir.list().unwrap_or_default() {
        let is_ours = entry.name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if is_ours && is_stale(&*dir, &entry.name).unwrap_or(false) {
            let _ = dir.remove(&entry.name);
        }
    }
}

/// Whether no export writes to a file any more. An error where that cannot be known, as without locks.
fn is_stale(dir: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    let file = dir.open(name)?;
    let age = file.metadata()?.modified.elapsed().unwrap_or_default();
    Ok(age > STALE_AFTER && !file.is_locked()?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

    use super::*;

    /// An export whose lock is refused.
    fn create_without_lock(path: &Path) -> OutputFile {
        let rules = BTreeMap::from([(libc::SYS_flock, Vec::new())]);
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let refused = SeccompAction::Errno(libc::ENOLCK as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch);
        let program: BpfProgram = filter.and_then(TryInto::try_into).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                seccompiler::apply_filter(&program).unwrap();
                OutputFile::create(path, false)
            });
            thread.join().unwrap().unwrap()
        })
    }

    #[test]
    fn the_file_of_an_export_that_runs_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for create in [
            |path: &Path| OutputFile::create(path, false).unwrap(),
            create_without_lock,
        ] {
            let running = create(&path);
            let before = SystemTime::now() - Duration::from_secs(3600);
            let aged = running.temp.as_file().set_modified(before);
            aged.unwrap();
            drop(OutputFile::create(&path, false).unwrap());
            assert!(running.temp.path().exists());
        }
        let left = folder.path().join(".torchcache-export-left");
        let made = File::create(&left).unwrap();
        made.set_modified(SystemTime::now() - Duration::from_secs(3600))
            .unwrap();
        drop(OutputFile::create(&path, false).unwrap());
        assert!(!left.exists(), "no export has it locked");
    }
}
