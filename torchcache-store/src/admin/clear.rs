//! Removes whole caches. Rows that a running process adds meanwhile stay: a directory is removed only
//! when it is empty, and the next writer creates it again.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::discover::{Cache, is_replaced};
use crate::fs::temp_file::{is_replacement, remove_stale, stale_names};
use crate::fs::{DirEntry, Directory, remove_if_present};
use crate::manifest::{self, Manifest};
use crate::remote::local_dir::{self, is_local_dir};
use crate::segment::{is_foreign, is_segment, visit_with_replacements};

/// What [`clear`] removed, or would remove.
#[derive(Debug, Default)]
pub struct ClearReport {
    /// The number of segments, of newer versions too.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the directory is gone too. It stays while a process writes to it or uploads rows, if it holds other
    /// files, or if its parent directory is not writable.
    pub directory_removed: bool,
    /// Files that could not be removed, with the error of each.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Removes every row of a cache, and then its directory. With `dry_run`, only reports what would be removed, without
/// regard to permissions: of this directory, its parent and its manifest.
///
/// # Errors
/// If the directory cannot be opened or listed, its permissions are rejected, or another one took its place since it
/// was listed. Nothing was removed then.
pub fn clear(cache: &Cache, dry_run: bool) -> io::Result<ClearReport> {
    let mut cleared = ClearReport::default();
    let dir = match cache.open() {
        // Another process removed it.
        Err(error) if error.kind() == ErrorKind::NotFound && !is_replaced(&error) => {
            return Ok(cleared);
        }
        dir => dir?,
    };
    let mut is_listed = false;
    let listed = visit_with_replacements(&*dir, |names| {
        is_listed = true;
        for name in names {
            match remove_segment(&*dir, &name, dry_run) {
                Ok(Some(_)) if is_replacement(&name) => {} // copies of rows
                Ok(Some(bytes)) => {
                    cleared.segments += 1;
                    cleared.bytes = cleared.bytes.saturating_add(bytes);
                }
                Ok(None) => {}
                Err(error) => cleared.failed.push((cache.path().join(name), error)),
            }
        }
    });
    match listed {
        Err(error) if !is_listed => return Err(error),
        Err(error) => cleared.failed.push((cache.path().to_owned(), error)),
        Ok(_) => {}
    }
    let remove = || match dry_run {
        true => holds_nothing_else(&*dir),
        // Without the sync, a power loss could bring the rows back.
        false => dir.sync().and_then(|()| remove_empty(cache, &dir)),
    };
    match remove() {
        Ok(gone) => cleared.directory_removed = gone,
        Err(error) => cleared.failed.push((cache.path().to_owned(), error)),
    }
    Ok(cleared)
}

/// Removes a segment, and returns the size of the file; `None` if it is gone or of another program.
fn remove_segment(dir: &dyn Directory, name: &str, dry_run: bool) -> io::Result<Option<u64>> {
    match is_foreign(dir, name) {
        Ok(false) => {}
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => return Ok(None),
    }
    let file = dir.stat(name.as_ref());
    let is_removed = match dry_run {
        true => file.is_ok(),
        false => remove_if_present(dir, name)?,
    };
    Ok(is_removed.then_some(file.map_or(0, |file| file.len)))
}

/// Whether a directory holds nothing but segments, files that are about to replace some, a manifest, temporary files of
/// crashed writers and local directories of remote tiers, so that [`remove_empty`] removes it when these are gone.
pub(super) fn holds_nothing_else(dir: &dyn Directory) -> io::Result<bool> {
    let stale = stale_names(dir, |_, error| Err(error))?;
    let stale: HashSet<String> = stale.into_iter().collect();
    for entry in dir.list()? {
        let is_ours = match entry.name.to_str() {
            _ if is_manifest(&entry) => {
                let read = RemovedManifest::read(dir);
                read.err()
                    .is_none_or(|it| it.kind() != ErrorKind::InvalidData)
            }
            Some(name) if entry.is_file && is_segment(name) => match is_foreign(dir, name) {
                Err(error) if error.kind() == ErrorKind::NotFound => true,
                is_foreign => !is_foreign?,
            },
            _ if is_local_dir(&entry) => local_dir::holds_nothing_else(dir, &entry.name)?,
            Some(name) => is_replacement(name) || stale.contains(name),
            None => false,
        };
        if !is_ours {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the directory of a cache without segments, unless a process writes to it or it holds other
/// files. Returns whether it is gone.
pub(super) fn remove_empty(cache: &Cache, dir: &Arc<dyn Directory>) -> io::Result<bool> {
    remove_stale(&**dir, |_, error| Err(error))?;
    let entries = match dir.list() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    let (local_dirs, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_local_dir);
    if !others.iter().all(is_manifest) {
        return Ok(false);
    }
    for entry in local_dirs {
        if !local_dir::remove(&**dir, &entry.name)? {
            return Ok(false);
        }
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
    remove_if_present(&**dir, manifest::FILE)?;
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
