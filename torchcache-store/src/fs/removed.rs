//! The private directories that this process removed. No call makes them again: nothing would remove them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

static REMOVED: RwLock<Vec<PathBuf>> = RwLock::new(Vec::new());

/// Has directories stay removed, with all that is in them.
pub(crate) fn forbid(dirs: &[PathBuf]) {
    let mut removed = REMOVED.write().unwrap_or_else(PoisonError::into_inner);
    removed.extend_from_slice(dirs);
}

/// The one of them that a path is in.
pub(crate) fn around(path: &Path) -> Option<PathBuf> {
    let removed = REMOVED.read().unwrap_or_else(PoisonError::into_inner);
    removed.iter().find(|dir| path.starts_with(dir)).cloned()
}

/// Checks that a path is in none of them.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) with the reason.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    around(path).map_or(Ok(()), |_| Err(error()))
}

/// Why nothing is made there.
pub(crate) fn error() -> io::Error {
    let why = "it is in a temporary directory of this process, which was removed; make another one";
    io::Error::new(io::ErrorKind::NotFound, why)
}
