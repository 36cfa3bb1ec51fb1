//! Cache directories that belong to one process and go with it. A lock on a file inside
//! tells the living from the dead, so that the next process removes what a killed one left.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::shutdown::{self, LOCK_FILE, remove};

const PREFIX: &str = "torchcache-";

/// A private temporary directory, below the system's one, that only this user may enter.
/// It is removed when dropped and at the end of the process; if the process is killed, by
/// the next one that makes such a directory.
///
/// Drop the stores inside before it: a store that still has rows to write would make the
/// directory anew.
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
    /// A fork of it leaves the directory alone.
    process: u32,
    /// Held while the process lives.
    _lock: File,
}

impl TempCache {
    /// Makes a directory, after removing those of dead processes.
    ///
    /// # Errors
    /// If the system's temporary directory cannot be written to.
    pub fn new() -> io::Result<TempCache> {
        TempCache::new_in(&std::env::temp_dir())
    }

    /// Makes a directory below `parent`, after removing those of dead processes there.
    ///
    /// # Errors
    /// If `parent` cannot be written to.
    pub fn new_in(parent: &Path) -> io::Result<TempCache> {
        shutdown::arm();
        let parent = parent.canonicalize()?;
        loop {
            let dir = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&parent)?;
            let path = dir.path().join(LOCK_FILE);
            let mut options = OpenOptions::new();
            let lock = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            // A process that reaps may have taken the lock before us; then the directory is
            // about to go, and another one is needed.
            if lock.try_lock().is_ok() && same_file(&lock, &path) {
                let path = dir.keep();
                let process = std::process::id();
                shutdown::remove_at_exit(process, path.clone());
                reap(&parent, lock.metadata()?.uid());
                return Ok(TempCache {
                    path,
                    process,
                    _lock: lock,
                });
            }
        }
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempCache {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            shutdown::forget(&self.path);
            remove(&self.path);
        }
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Removes private directories of this user whose processes are dead.
fn reap(parent: &Path, uid: u32) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = |path| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
        };
        if is_private_name(&entry.file_name())
            && ours(&path)
            && let Some(_lock) = lock_of_the_dead(&path)
        {
            remove(&path);
        }
    }
}

fn is_private_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX))
}

/// The lock of a directory, if there is one and no living process holds it.
fn lock_of_the_dead(dir: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    let lock = options
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join(LOCK_FILE))
        .ok()?;
    lock.try_lock().is_ok().then_some(lock)
}
