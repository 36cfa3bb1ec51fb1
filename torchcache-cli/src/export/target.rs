//! The file that rows go to: written beside its place under another name, and renamed when it is
//! complete. On an error nothing is left of it.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::error::Error;

/// A file in the making.
pub(super) struct Target {
    path: PathBuf,
    force: bool,
    temp: NamedTempFile,
}

impl Target {
    /// Begins a file. Only with `force` may there be one of that name.
    pub(super) fn create(path: &Path, force: bool) -> Result<Target, Error> {
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
        let temp = Builder::new()
            .prefix(".torchcache-export-")
            // As any file that a program makes: the umask takes away what others may not.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(Error::io("write to the directory", folder))?;
        Ok(Target {
            path: path.to_owned(),
            force,
            temp,
        })
    }

    /// Fills it and gives it its name.
    pub(super) fn fill(self, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        write(self.temp.as_file())?;
        // Or a power cut could leave the name without the bytes.
        self.temp.as_file().sync_all()?;
        let named = match self.force {
            true => self.temp.persist(&self.path),
            false => self.temp.persist_noclobber(&self.path),
        };
        named.map(drop).map_err(|error| error.error)
    }
}
