//! Whether a directory can be used for a cache at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::fs::permissions;
use crate::fs::{Directory, FileSystem};
use crate::segment::{SegmentWriter, segment_names};

/// Opens a directory that may hold a cache.
pub(crate) fn trusted(
    fs: &dyn FileSystem,
    path: &Path,
    create: bool,
) -> io::Result<Arc<dyn Directory>> {
    let dir = fs.open_dir(path, create)?;
    permissions::directory(&dir.metadata()?)?;
    Ok(dir)
}

/// Makes a directory and tries whether it can be written to. Returns why not, if there is
/// something to read all the same, or it may pass.
pub(crate) fn usable(fs: &dyn FileSystem, path: &Path) -> Result<Option<io::Error>, StoreError> {
    let judged = || {
        let dir = trusted(fs, path, true)?;
        let Err(error) = SegmentWriter::try_in(dir.clone()) else {
            return Ok(None);
        };
        let may_not = matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        );
        if may_not && segment_names(&*dir)?.is_empty() {
            return Err(error);
        }
        Ok(Some(error))
    };
    judged().map_err(|reason| refused(path, reason))
}

/// Where a directory lies, with the links on the way to it resolved, but not one that took its place
/// since it was looked at.
pub(crate) fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => {
            Ok(Path::new(".").canonicalize()?.join(name))
        }
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        // "..", say, or "/".
        _ => path.canonicalize(),
    }
}

/// What is said of a directory that cannot be used.
pub(crate) fn refused(path: &Path, reason: io::Error) -> StoreError {
    let path = path.to_owned();
    StoreError::Directory { path, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_on_the_way_and_not_in_its_place() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = root.path().canonicalize().expect("it is there");
        let (there, link) = (root.join("there"), root.join("link"));
        std::fs::create_dir(&there).expect("it can be made");
        std::os::unix::fs::symlink(&there, &link).expect("it can be made");
        let resolved = |path: &Path| resolved(path).expect("it is there");
        assert_eq!(resolved(&link.join("in")), there.join("in"));
        assert_eq!(resolved(&link), link);
        assert_eq!(resolved(&link.join("..")), root);
        let here = std::env::current_dir().and_then(|here| here.canonicalize());
        assert_eq!(
            resolved(Path::new("in")),
            here.expect("it is there").join("in")
        );
    }
}
