//! Private cache directories, which are removed with their process. A lock on a file inside shows that
//! the process lives, so that the next one removes the directories of those that were killed.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions, metadata, remove_dir, remove_file, rename};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::shutdown::{self, LOCK_FILE, end_private, remove};
use crate::fs::{private_dirs, try_lock};
use crate::{descriptors, fork};

const PREFIX: &str = "torchcache-";

/// A temporary cache directory that only this user may enter, below the temporary directory of the
/// system. It is removed when dropped and at the end of the process. If a signal ends the process, the
/// next one that makes such a directory removes it; see
/// [`flush_on_signals`](crate::flush_on_signals).
///
/// From then on, stores inside write no rows.
///
/// ```
/// use torchcache_store::TempCache;
/// let cache = TempCache::new()?;
/// let path = cache.path().to_owned();
/// assert!(path.is_dir());
/// drop(cache);
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TempCache {
    path: PathBuf,
    /// Locked while the process lives. `None` where no lock can be had.
    _lock: Option<File>,
}

impl TempCache {
    /// Makes a directory, and removes those of dead processes.
    ///
    /// # Errors
    /// If the temporary directory of the system cannot be written to.
    pub fn new() -> io::Result<TempCache> {
        TempCache::new_in(&std::env::temp_dir())
    }

    /// Makes a directory below `parent`, and removes those of dead processes there.
    ///
    /// # Errors
    /// If `parent` cannot be written to.
    pub fn new_in(parent: &Path) -> io::Result<TempCache> {
        shutdown::register_exit_hook();
        let parent = parent.canonicalize()?;
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent)?;
        let lock = lock(dir.path()).inspect_err(|_| {
            // It is empty, and dropping it would need a descriptor.
            let _ = remove_dir(dir.path());
        })?;
        let owner = metadata(dir.path())?.uid();
        let path = dir.keep();
        private_dirs::add(path.clone());
        remove_stale(&parent, owner);
        Ok(TempCache { path, _lock: lock })
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempCache {
    fn drop(&mut self) {
        if !fork::is_forked() {
            end_private(std::slice::from_ref(&self.path), Instant::now());
        }
    }
}

/// Makes the lock file. It gets its name once it is locked: other processes remove a directory whose lock file is not.
/// Where no lock can be had, for whichever reason, it has none, and stays if the process is killed.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let unlocked = dir.join(format!("{LOCK_FILE}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = descriptors::retry(|| options.open(&unlocked))?;
    match try_lock(&file) {
        Ok(true) => rename(unlocked, dir.join(LOCK_FILE)).map(|()| Some(file)),
        _ => remove_file(unlocked).map(|()| None),
    }
}

/// Removes the private directories of this user whose processes are dead.
fn remove_stale(parent: &Path, uid: u32) {
    let Ok(entries) = descriptors::retry(|| std::fs::read_dir(parent)) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_own = |path| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
        };
        if is_private_name(&entry.file_name())
            && is_own(&path)
            && let Some(_lock) = stale_lock(&path)
        {
            remove(&path);
        }
    }
}

fn is_private_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX))
}

/// The lock of a directory, if it has one that no living process holds.
fn stale_lock(dir: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW);
    let lock = descriptors::retry(|| options.open(dir.join(LOCK_FILE))).ok()?;
    matches!(try_lock(&lock), Ok(true)).then_some(lock)
}
