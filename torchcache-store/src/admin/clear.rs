//! Removes whole caches. Rows that a running process adds meanwhile stay: a directory is removed only
//! when it is empty, and the next writer creates it again.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::discover::{Cache, is_foreign};
use crate::fs::temp_file::stale_names;
use crate::fs::{DirEntry, Directory};
use crate::manifest::{self, Manifest};
use crate::segment::segment_names;

/// What [`clear`] removed.
#[derive(Debug, Default)]
pub struct ClearReport {
    /// The number of segments, of newer versions too.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the directory is gone too. It stays while a process writes to it, if it holds other
    /// files, or if its parent directory is not writable.
    pub directory_removed: bool,
    /// Files that could not be removed, with the error of each.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Removes every row of a cache, and then its directory.
///
/// # Errors
/// If the directory cannot be opened or listed, or its permissions are rejected. Nothing was removed
/// then.
pub fn clear(cache: &Cache) -> io::Result<ClearReport> {
    let mut cleared = ClearReport::default();
    let dir = match cache.open() {
        // Another process removed it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(cleared),
        dir => dir?,
    };
    let mut tried = HashSet::new();
    // Until a listing has no new name: a compaction in another process may publish its result
    // meanwhile, and looks for its sources only afterwards.
    loop {
        let mut names = match segment_names(&*dir) {
            Err(error) if tried.is_empty() => return Err(error),
            Err(error) => {
                cleared.failed.push((cache.path().to_owned(), error));
                break;
            }
            Ok(names) => names,
        };
        names.retain(|name| tried.insert(name.clone()));
        if names.is_empty() {
            break;
        }
        for name in names {
            match is_foreign(&*dir, &name) {
                Ok(false) => {}
                Ok(true) => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    cleared.failed.push((cache.path().join(name), error));
                    continue;
                }
            }
            let bytes = dir.stat(name.as_ref()).map_or(0, |file| file.len);
            match remove(&*dir, &name) {
                Ok(true) => {
                    cleared.segments += 1;
                    cleared.bytes = cleared.bytes.saturating_add(bytes);
                }
                Ok(false) => {}
                Err(error) => cleared.failed.push((cache.path().join(name), error)),
            }
        }
    }
    // Without the sync, a power loss could bring the rows back.
    match dir.sync().and_then(|()| remove_empty(cache, &dir)) {
        Ok(gone) => cleared.directory_removed = gone,
        Err(error) => cleared.failed.push((cache.path().to_owned(), error)),
    }
    Ok(cleared)
}

/// Removes a file. Returns whether it existed.
pub(super) fn remove(dir: &dyn Directory, name: &str) -> io::Result<bool> {
    match dir.remove(name.as_ref()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the temporary files of crashed writers. Returns their names.
pub(super) fn remove_stale(dir: &dyn Directory) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in stale_names(dir)? {
        if remove(dir, &name)? {
            removed.push(name);
        }
    }
    Ok(removed)
}

/// Removes the directory of a cache without segments, unless a process writes to it or it holds other
/// files. Returns whether it is gone.
pub(super) fn remove_empty(cache: &Cache, dir: &Arc<dyn Directory>) -> io::Result<bool> {
    remove_stale(&**dir)?;
    let entries = match dir.list() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    if !entries.iter().all(is_manifest) {
        return Ok(false);
    }
    // If the parent directory is not writable, the system reports that before it looks into this one:
    // then the manifest stays too.
    let gone = cache.remove_dir();
    let is_final = |error: &io::Error| {
        use ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        matches!(
            error.kind(),
            NotFound | PermissionDenied | ReadOnlyFilesystem
        )
    };
    if gone.as_ref().err().is_none_or(is_final) {
        return Ok(is_gone(&gone));
    }
    let manifest = match RemovedManifest::read(&**dir) {
        // Another process removed it.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(is_gone(&cache.remove_dir()));
        }
        // A file of this name that is not a manifest belongs to another program.
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(false),
        read => read?,
    };
    remove(&**dir, manifest::FILE)?;
    let gone = is_gone(&cache.remove_dir());
    if !gone {
        // A writer put a segment there in between.
        manifest::publish(dir, &manifest.bytes, Some(manifest.written))?;
    }
    Ok(gone)
}

fn is_gone(removed: &io::Result<()>) -> bool {
    match removed {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Whether an entry is the manifest, and not a directory of that name.
pub(super) fn is_manifest(entry: &DirEntry) -> bool {
    entry.is_file && entry.name == manifest::FILE
}

/// A manifest that is about to be removed, so that it can be restored.
struct RemovedManifest {
    bytes: Vec<u8>,
    written: SystemTime,
}

impl RemovedManifest {
    fn read(dir: &dyn Directory) -> io::Result<RemovedManifest> {
        let file = dir.open(manifest::FILE.as_ref())?;
        let written = file.metadata()?.modified;
        let bytes = Manifest::bytes(&*file)?;
        Manifest::parse(&bytes)?;
        Ok(RemovedManifest { bytes, written })
    }
}
