//! The exported file: written under a temporary name in the same directory, and renamed when it is
//! complete. On an error it is removed.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::{Builder, NamedTempFile, PersistError};

use crate::error::Error;
use crate::text::path_text;

/// The prefix of temporary names.
const PREFIX: &str = ".torchcache-export-";

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
        let temp = Builder::new()
            .prefix(PREFIX)
            // With the usual permissions, and without the temporary name in errors.
            .make_in(folder, |path| File::create_new(path))
            .map_err(Error::io("write to the directory", folder))?;
        // The lock shows other exports that this one is running.
        let _ = temp.as_file().try_lock();
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
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let is_ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
        if is_ours && is_stale(&entry.path()).unwrap_or(false) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether no export writes to a file any more. False on file systems without locks.
fn is_stale(path: &Path) -> io::Result<bool> {
    use rustix::fs::OFlags;
    // Do not follow a link or wait for the writer of a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    Ok(metadata.is_file() && age > STALE_AFTER && file.try_lock().is_ok())
}
