//! The file that rows go to: written beside its place under another name, and renamed when it is
//! complete. On an error nothing is left of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::{Builder, NamedTempFile};

use crate::error::Error;

/// Begins the name of a file in the making.
const PREFIX: &str = ".torchcache-export-";

/// One that nobody locks may be so new that it is not locked yet.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// A file in the making.
pub(crate) struct OutputFile {
    path: PathBuf,
    force: bool,
    temp: NamedTempFile,
}

impl OutputFile {
    /// Begins a file. Only with `force` may there be one of that name.
    pub(crate) fn create(path: &Path, force: bool) -> Result<OutputFile, Error> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::not_done(format!(
                "{} is there already; --force replaces it",
                path.display()
            )));
        }
        if path.is_dir() {
            return Err(Error::not_done(format!(
                "{} is a directory; name a file in it",
                path.display()
            )));
        }
        // "rows.npy" is in ".".
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        remove_left(folder);
        let temp = Builder::new()
            .prefix(PREFIX)
            // As any file that a program makes: the umask takes away what others may not. Made here,
            // since tempfile would name it in its errors.
            .make_in(folder, |path| File::create_new(path))
            .map_err(Error::io("write to the directory", folder))?;
        // Whoever finds it locked knows that its export goes on.
        let _ = temp.as_file().try_lock();
        Ok(OutputFile {
            path: path.to_owned(),
            force,
            temp,
        })
    }

    /// Fills it and gives it its name.
    pub(crate) fn fill<E: From<io::Error>>(
        self,
        write: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<(), E> {
        write(self.temp.as_file())?;
        // Or a power cut could leave the name without the bytes.
        self.temp.as_file().sync_all()?;
        let named = match self.force {
            true => self.temp.persist(&self.path),
            false => self.temp.persist_noclobber(&self.path),
        };
        named.map(drop).map_err(|error| error.error.into())
    }
}

/// Removes what exports left here that were killed. It is no matter of this one if it cannot.
fn remove_left(folder: &Path) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && is_left(&entry.path()).unwrap_or(false) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether nobody writes to a file any more. Where there are no locks, that is not known.
fn is_left(path: &Path) -> io::Result<bool> {
    use rustix::fs::OFlags;
    // A link leads elsewhere, and a pipe would wait for somebody who writes.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    Ok(metadata.is_file() && age > STALE_AFTER && file.try_lock().is_ok())
}
