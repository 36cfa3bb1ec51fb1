//! Private cache directories, which are removed with their process. A lock on a file inside shows that
//! the process lives, so that the next one removes the directories of those that were killed.
//!
//! A process may be killed between making the directory and the lock file, or between removing these. So an empty
//! directory that did not change for a minute is removed as well. If its process was only paused, it makes another one.

use std::fs::{
    File, OpenOptions, Permissions, metadata, remove_dir, remove_file, rename, symlink_metadata,
};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use super::shutdown::{self, LOCK_FILE, end_private, remove};
use super::uploads;
use crate::fs::temp_file::is_recent;
use crate::fs::{private_dirs, try_lock};
use crate::{descriptors, fork};

const PREFIX: &str = "torchcache-";

/// So many random characters follow, so that no other program gives such a name.
const RANDOM_CHARS: usize = 16;

/// The permissions of a private directory.
const MODE: u32 = 0o700;

/// The lock file before it is locked.
const NEW_LOCK_FILE: &str = ".torchcache-private.lock.new";

/// Its name where no lock can be had: without a file, other processes would remove the directory.
const UNLOCKED_FILE: &str = ".torchcache-private.unlocked";

/// So many directories are made at most, if other processes remove them.
const MAX_ATTEMPTS: usize = 4;

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
        let (dir, lock) = make(&parent, lock)?;
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
            let (dirs, now) = (std::slice::from_ref(&self.path), Instant::now());
            uploads::finish(Some(dirs), now);
            end_private(dirs, Instant::now());
        }
    }
}

/// Makes a directory, and its lock file by `lock`. Where another process removed it in between, makes another one.
fn make(
    parent: &Path,
    lock: impl Fn(&Path) -> io::Result<Option<File>>,
) -> io::Result<(TempDir, Option<File>)> {
    let mut attempts = 0..MAX_ATTEMPTS;
    loop {
        attempts.next();
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .rand_bytes(RANDOM_CHARS)
            .permissions(Permissions::from_mode(MODE))
            .tempdir_in(parent)?;
        match lock(dir.path()) {
            Ok(lock) => return Ok((dir, lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !attempts.is_empty() => {}
            Err(error) => {
                // It is empty, and dropping it would need a descriptor.
                let _ = remove_dir(dir.path());
                return Err(error);
            }
        }
    }
}

/// Makes the lock file. It gets its name once it is locked: other processes remove a directory whose lock file is not.
/// Where no lock can be had, for whichever reason, it has none, and stays if the process is killed.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let unlocked = dir.join(NEW_LOCK_FILE);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = descriptors::retry(|| options.open(&unlocked))?;
    match try_lock(&file) {
        Ok(true) => rename(unlocked, dir.join(LOCK_FILE)).map(|()| Some(file)),
        _ => rename(unlocked, dir.join(UNLOCKED_FILE)).map(|()| None),
    }
}

/// Removes the private directories of this user whose processes are dead.
fn remove_stale(parent: &Path, uid: u32) {
    let Ok(entries) = descriptors::retry(|| std::fs::read_dir(parent)) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let Some(random) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Ok(dir) = symlink_metadata(&path) else {
            continue;
        };
        if !dir.is_dir() || dir.uid() != uid {
            continue;
        }
        if let Ok(_lock) = stale_lock(&path.join(LOCK_FILE)) {
            remove(&path);
        } else if random.len() == RANDOM_CHARS
            && dir.mode() & 0o777 == MODE
            && dir.modified().is_ok_and(|modified| !is_recent(modified))
        {
            remove_unlocked(&path);
        }
    }
}

/// The lock of a file that no living process holds.
fn stale_lock(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW);
    let lock = descriptors::retry(|| options.open(file))?;
    match try_lock(&lock)? {
        true => Ok(lock),
        false => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Removes a directory that has nothing but a lock file without its final name, which no living process holds. One that
/// gets any other file meanwhile stays.
fn remove_unlocked(dir: &Path) {
    let unlocked = dir.join(NEW_LOCK_FILE);
    let _lock = match stale_lock(&unlocked) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => return,
        // Until the directory is gone, its process gets no lock.
        Ok(lock) => {
            let _ = remove_file(unlocked);
            Some(lock)
        }
    };
    let _ = remove_dir(dir);
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// It was paused for so long that another process took its directory for that of a dead one.
    #[test]
    fn a_directory_that_another_process_removed_before_its_lock_is_made_again() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let attempts = Cell::new(0);
        let made = make(parent.path(), |dir| {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 {
                remove_unlocked(dir);
                assert!(!dir.exists(), "it is empty");
            }
            lock(dir)
        });
        let (dir, lock) = made.expect("it is made");
        assert_eq!(attempts.get(), 3);
        assert!(lock.is_some() && dir.path().join(LOCK_FILE).exists());
        remove_unlocked(dir.path());
        assert!(dir.path().exists(), "it has a lock file");
        let removed = make(parent.path(), |dir| {
            remove_dir(dir)?;
            super::lock(dir)
        });
        let error = removed.expect_err("each is removed");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let left = std::fs::read_dir(parent.path()).expect("it exists").count();
        assert_eq!(left, 1);
    }

    #[test]
    fn a_lock_file_whose_process_lives_keeps_its_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("private");
        let new = path.join(NEW_LOCK_FILE);
        std::fs::create_dir(&path).expect("it is made");
        let held = File::create(&new).expect("it is made");
        assert!(try_lock(&held).expect("there are locks"));
        remove_unlocked(&path);
        assert!(new.exists(), "it is locked");
        drop(held);
        std::fs::write(path.join("other"), "rows").expect("it is written");
        remove_unlocked(&path);
        assert!(path.join("other").exists(), "it is not empty");
        std::fs::remove_file(path.join("other")).expect("it exists");
        std::fs::write(&new, "").expect("it is made");
        remove_unlocked(&path);
        assert!(!path.exists(), "its process is dead");
    }
}
