//! Private cache directories, which are removed with their process. A lock on a file inside shows that
//! the process lives, so that the next one removes the directories of those that were killed.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::shutdown::{self, LOCK_FILE, end_private, remove};
use crate::fs::try_lock;
use crate::{descriptors, fork};

const PREFIX: &str = "torchcache-";

/// How many directories are made, at most, until one has a lock that no other process takes.
const MAX_ATTEMPTS: usize = 16;

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
    /// Locked while the process lives.
    _lock: File,
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
        for _ in 0..MAX_ATTEMPTS {
            let dir = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&parent)?;
            let path = dir.path().join(LOCK_FILE);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let lock = descriptors::retry(|| options.open(&path))?;
            // A process that removes stale directories may have taken the lock first. Then the
            // directory is about to be removed, and another one is needed. Without locks, none are removed.
            let is_taken = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
            if !is_taken && same_file(&lock, &path) {
                let path = dir.keep();
                shutdown::remove_at_exit(path.clone());
                remove_stale(&parent, lock.metadata()?.uid());
                return Ok(TempCache { path, _lock: lock });
            }
        }
        Err(io::Error::other(format!(
            "other processes took the lock of {MAX_ATTEMPTS} new directories in {}, one after the other; \
             set another directory, for example by TMPDIR",
            parent.display()
        )))
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempCache {
    fn drop(&mut self) {
        if !fork::is_forked() {
            shutdown::cancel_removal(&self.path);
            end_private(std::slice::from_ref(&self.path), Instant::now());
        }
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Removes the private directories of this user whose processes are dead.
fn remove_stale(parent: &Path, uid: u32) {
    let Ok(entries) = std::fs::read_dir(parent) else {
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
    let lock = options
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join(LOCK_FILE))
        .ok()?;
    matches!(try_lock(&lock), Ok(true)).then_some(lock)
}
