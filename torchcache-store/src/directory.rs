//! Whether a directory can be used for a cache at all.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::fault::StoreError;
use crate::fs::{Directory, FileSystem};
use crate::scan::segment_names;
use crate::segment::SegmentWriter;
use crate::trust;

/// Opens a directory that may hold a cache.
pub(crate) fn trusted(
    fs: &dyn FileSystem,
    path: &Path,
    create: bool,
) -> io::Result<Arc<dyn Directory>> {
    let dir = fs.open_dir(path, create)?;
    trust::directory(&dir.metadata()?)?;
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

/// What is said of a directory that cannot be used.
pub(crate) fn refused(path: &Path, reason: io::Error) -> StoreError {
    let path = path.to_owned();
    StoreError::Directory { path, reason }
}
