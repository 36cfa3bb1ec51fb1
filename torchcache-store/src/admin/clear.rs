//! Removing a cache whole. What a running process adds meanwhile stays its own: a directory goes only
//! once it is empty, and then it is made anew by whoever writes to it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::discover::{Cache, is_foreign, temp_names};
use crate::fs::temp_file::is_stale;
use crate::fs::{Directory, Entry};
use crate::manifest::{self, Manifest};
use crate::segment::segment_names;

/// What was removed.
#[derive(Debug, Default)]
pub struct Cleared {
    /// Segments, also those of a newer version.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the directory is gone too. It is not if somebody is writing to it or keeps other files
    /// there, or if the one above it may not be changed.
    pub is_directory_gone: bool,
    /// What could not be removed, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Removes every row of a cache, and then its directory.
///
/// # Errors
/// What the system says of the directory, and that it is not to be trusted: then nothing was removed.
pub fn clear(cache: &Cache) -> io::Result<Cleared> {
    let mut cleared = Cleared::default();
    let dir = match cache.open() {
        // Somebody else was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(cleared),
        dir => dir?,
    };
    let mut tried = HashSet::new();
    // Until no new one comes: a merge in another process may have given its result a name meanwhile,
    // and looks for its sources afterwards.
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
            let bytes = dir.stat(&name).map_or(0, |file| file.len);
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
    // A power cut would bring rows back that somebody wanted gone, but for the sync.
    match dir.sync().and_then(|()| remove_empty(cache, &dir)) {
        Ok(gone) => cleared.is_directory_gone = gone,
        Err(error) => cleared.failed.push((cache.path().to_owned(), error)),
    }
    Ok(cleared)
}

/// Removes a file. `false` if it was gone already.
pub(super) fn remove(dir: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    match dir.remove(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what dead writers left half written. Returns the names.
pub(super) fn remove_stale(dir: &dyn Directory) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in temp_names(dir)? {
        // One that cannot be looked at is somebody else's.
        if is_stale(dir, &name).unwrap_or(false) && remove(dir, &name)? {
            removed.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(removed)
}

/// Removes the directory of a cache that has no segments, unless somebody is writing to it or it holds
/// files of others. Returns whether it is gone.
pub(super) fn remove_empty(cache: &Cache, dir: &Arc<dyn Directory>) -> io::Result<bool> {
    remove_stale(&**dir)?;
    let entries = match dir.list() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    if !entries.iter().all(is_manifest) {
        return Ok(false);
    }
    // Where the directory above may not be changed, the system says so before it looks what is in this
    // one: then the manifest is to stay as well.
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
    let manifest = match Removed::read(&**dir) {
        // Somebody else was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(is_gone(&cache.remove_dir()));
        }
        // A file of that name may be somebody else's.
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(false),
        read => read?,
    };
    remove(&**dir, manifest::FILE.as_ref())?;
    let gone = is_gone(&cache.remove_dir());
    if !gone {
        // A writer came in between.
        manifest::put(dir, &manifest.bytes, Some(manifest.written))?;
    }
    Ok(gone)
}

fn is_gone(removed: &io::Result<()>) -> bool {
    match removed {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Whether an entry is the manifest, and not something else of its name.
pub(super) fn is_manifest(entry: &Entry) -> bool {
    entry.is_file && entry.name == manifest::FILE
}

/// A manifest that is to be removed.
struct Removed {
    bytes: Vec<u8>,
    written: SystemTime,
}

impl Removed {
    /// Reads it, so that it can be put back.
    fn read(dir: &dyn Directory) -> io::Result<Removed> {
        let file = dir.open(manifest::FILE.as_ref())?;
        let written = file.metadata()?.modified;
        let bytes = Manifest::bytes(&*file)?;
        Manifest::parse(&bytes)?;
        Ok(Removed { bytes, written })
    }
}
