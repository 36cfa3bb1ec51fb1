//! Opening a directory, and whether it can hold a cache at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::fs::permissions;
use crate::fs::{Directory, FileSystem};
use crate::segment::{SegmentWriter, segment_names};

/// Opens a directory that may hold a cache, if its permissions allow that.
pub(crate) fn open(
    fs: &dyn FileSystem,
    path: &Path,
    create: bool,
) -> io::Result<Arc<dyn Directory>> {
    checked(fs.open_dir(path, create)?)
}

/// A directory that was opened, if its permissions allow that it holds a cache.
pub(crate) fn checked(dir: Arc<dyn Directory>) -> io::Result<Arc<dyn Directory>> {
    permissions::check_directory(&*dir)?;
    Ok(dir)
}

/// Makes a directory if need be, and checks whether it can be written to. Returns the error of
/// writing if the directory holds segments that can be read all the same, or the error may pass.
pub(crate) fn probe(fs: &dyn FileSystem, path: &Path) -> Result<Option<io::Error>, StoreError> {
    let probe = || {
        let dir = open(fs, path, true)?;
        let error = match SegmentWriter::try_in(dir.clone()) {
            Ok(file) => {
                permissions::check_new_file(&file, &dir.metadata()?)?;
                return Ok(None);
            }
            Err(error) => error,
        };
        let is_read_only = matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        );
        if is_read_only && segment_names(&*dir)?.is_empty() {
            return Err(error);
        }
        Ok(Some(error))
    };
    probe().map_err(|source| directory_error(path, source))
}

/// The path with the symbolic links on the way to it resolved, but not one in its own place.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => {
            Path::new(".").canonicalize().map(|here| here.join(name))
        }
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)),
        // "..", say, or "/".
        _ => path.canonicalize(),
    };
    resolved.map_err(|source| directory_error(path, source))
}

fn directory_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    StoreError::Directory { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_but_not_in_the_place_itself() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = root.path().canonicalize().expect("it exists");
        let (target, link) = (root.join("target"), root.join("link"));
        std::fs::create_dir(&target).expect("it can be made");
        std::os::unix::fs::symlink(&target, &link).expect("it can be made");
        let resolve = |path: &Path| resolve(path).expect("the parent exists");
        assert_eq!(resolve(&link.join("in")), target.join("in"));
        assert_eq!(resolve(&link), link);
        assert_eq!(resolve(&link.join("..")), root);
        let here = std::env::current_dir().and_then(|here| here.canonicalize());
        assert_eq!(
            resolve(Path::new("in")),
            here.expect("it exists").join("in")
        );
    }
}
