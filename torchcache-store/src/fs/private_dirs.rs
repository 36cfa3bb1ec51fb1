//! The private directories of this process. No call makes one again after it was removed, by another program too:
//! nothing would remove it then, and other users could look into it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static DIRS: RwLock<PrivateDirs> = RwLock::new(PrivateDirs {
    living: Vec::new(),
    removed: Vec::new(),
});

struct PrivateDirs {
    /// To be removed at the end of the process.
    living: Vec<PathBuf>,
    /// Nothing is made in these.
    removed: Vec<PathBuf>,
}

fn read() -> RwLockReadGuard<'static, PrivateDirs> {
    DIRS.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, PrivateDirs> {
    DIRS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a directory that was made.
pub(crate) fn add(dir: PathBuf) {
    write().living.push(dir);
}

/// Those that the end of the process has to remove.
pub(crate) fn living() -> Vec<PathBuf> {
    read().living.clone()
}

/// Has directories stay removed, with all that is in them.
pub(crate) fn forbid(dirs: &[PathBuf]) {
    write().removed.extend_from_slice(dirs);
}

/// The directory is gone, and need not be removed.
pub(crate) fn forget(dir: &Path) {
    write().living.retain(|living| living != dir);
}

/// The removed one that a path is in.
pub(crate) fn around(path: &Path) -> Option<PathBuf> {
    let dirs = read();
    let around = dirs.removed.iter().find(|dir| path.starts_with(dir));
    around.cloned()
}

/// Checks that a path may be made: it is none of them, and in none that was removed.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) with the reason.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    let is_living = read().living.iter().any(|dir| dir == path);
    match is_living || around(path).is_some() {
        true => Err(error()),
        false => Ok(()),
    }
}

/// Why nothing is made there.
pub(crate) fn error() -> io::Error {
    let why = "it is in a temporary directory of this process, which was removed; make another one";
    io::Error::new(io::ErrorKind::NotFound, why)
}
