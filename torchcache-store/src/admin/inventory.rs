//! The caches and segments that pruning chooses from. Where there is a bound, they are listed while no compaction is
//! under way.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use super::discover::{Cache, Found, Root, read_manifest, read_segments};
use crate::clock;
use crate::descriptors::are_exhausted;
use crate::fs::temp_file::is_locked;
use crate::fs::{Directory, Metadata, permissions};
use crate::manifest;
use crate::segment::{
    POLL_INTERVAL, SETTLE_TIMEOUT, SegmentError, claimed_rows, is_foreign, is_settled,
};
use crate::size::sum;

/// All caches and segments of a listing.
pub(super) struct Inventory {
    pub(super) caches: Vec<CacheEntry>,
    pub(super) segments: Vec<SegmentEntry>,
}

/// A cache of an [`Inventory`].
pub(super) struct CacheEntry {
    pub(super) cache: Cache,
    /// When the directory had changed last before it was listed.
    changed: SystemTime,
    /// The module, or why the manifest cannot be read.
    pub(super) module: Result<String, ErrorKind>,
    /// When it was last read, in nanoseconds since 1970; without segments, when its manifest was written.
    pub(super) last_used: u64,
    /// Whether it has no segments.
    pub(super) is_empty: bool,
    /// The names of its segments, without those that replace others which count.
    pub(super) names: HashSet<String>,
    /// Whether it has segments that are skipped, or a manifest that may belong to another program.
    pub(super) has_skipped: bool,
}

/// A segment of an [`Inventory`] that may be removed.
pub(super) struct SegmentEntry {
    /// The index of its cache.
    pub(super) cache: usize,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) rows: Option<u64>,
    pub(super) modified: SystemTime,
    /// `modified` in nanoseconds since 1970, but not in the future.
    pub(super) last_read: u64,
    /// Why this process may not remove it, if permissions say so.
    pub(super) denied: Option<ErrorKind>,
}

impl Inventory {
    /// Lists everything, and returns by how many bytes it exceeds `limit`. If it does, this lists again until no
    /// compaction is under way, for [`SETTLE_TIMEOUT`] at most: until no segment is locked and, since there may be no
    /// locks, no directory changes. The smallest total counts. After that time, the sources of a compaction count,
    /// and not its result, which is locked.
    pub(super) fn list_settled(
        root: &Root,
        limit: u64,
        skipped: &mut Vec<(PathBuf, String)>,
    ) -> io::Result<(Inventory, u64)> {
        let since = Instant::now();
        let mut least = u64::MAX;
        loop {
            skipped.clear();
            let mut inventory = Inventory::list(root, skipped)?;
            let is_locked = inventory.bytes() > limit && inventory.skip_locked();
            let is_late = since.elapsed() > SETTLE_TIMEOUT;
            if !is_locked || is_late {
                least = least.min(inventory.bytes());
                let excess = least.saturating_sub(limit);
                if excess == 0 || is_late || inventory.has_settled() {
                    return Ok((inventory, excess));
                }
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Takes out locked segments: their sources may still exist. Returns whether there are any.
    fn skip_locked(&mut self) -> bool {
        let Inventory { caches, segments } = self;
        let listed = segments.len();
        segments.retain(|segment| {
            let entry = &mut caches[segment.cache];
            let dir = entry.cache.open();
            let is_locked = dir.and_then(|dir| is_locked(&*dir, &segment.name));
            let is_locked = is_locked.unwrap_or(false);
            entry.has_skipped |= is_locked;
            if is_locked {
                entry.names.remove(&segment.name);
            }
            !is_locked
        });
        segments.len() < listed
    }

    /// Whether no compaction is under way, and none ended since the listing: then the sources are counted, and its
    /// result is not locked any more.
    fn has_settled(&self) -> bool {
        self.caches.iter().all(|entry| {
            let dir = entry.cache.open().and_then(|dir| dir.metadata());
            dir.is_ok_and(|dir| dir.modified == entry.changed) && is_settled(entry.changed)
        })
    }

    pub(super) fn list(root: &Root, skipped: &mut Vec<(PathBuf, String)>) -> io::Result<Inventory> {
        let listing = root.list()?;
        for (path, error) in listing.unopened {
            skip(skipped, path, error)?;
        }
        let mut inventory = Inventory {
            caches: Vec::new(),
            segments: Vec::new(),
        };
        for cache in listing.caches {
            let path = cache.path().to_owned();
            match inventory.add_cache(cache, skipped) {
                Err(error) if error.kind() != ErrorKind::NotFound => skip(skipped, path, error)?,
                _ => {}
            }
        }
        Ok(inventory)
    }

    fn add_cache(&mut self, cache: Cache, skipped: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
        let dir = cache.open()?;
        let metadata = dir.metadata()?;
        let changed = metadata.modified;
        let denied = permissions::removal_denied(&*dir);
        let file_denied = |file: &Metadata| {
            let may_remove = permissions::may_remove(file, &metadata);
            (!may_remove).then_some(ErrorKind::PermissionDenied)
        };
        // Added only after the whole directory was read: segments refer to the index of their cache.
        let (index, mut segments) = (self.caches.len(), Vec::new());
        let (mut last_used, mut has_skipped) = (None, false);
        let mut names = HashSet::new();
        for (name, found) in read_segments(&*dir, |_| {}, |name, _| rows(&*dir, name))? {
            // Without the time of a segment, nothing of its cache is removed.
            let Found { file, contents } = found?;
            names.insert(name.clone());
            let last_read = clock::past_or_now(file.modified);
            last_used = last_used.max(Some(last_read));
            let rows = match contents {
                Ok(rows) => Some(rows),
                // A corrupt segment is removed in its turn.
                Err(error) if error.is_corruption() => None,
                Err(error) => {
                    skipped.push((cache.path().join(&name), error.to_string()));
                    has_skipped = true;
                    continue;
                }
            };
            segments.push(SegmentEntry {
                cache: index,
                name,
                bytes: file.len,
                rows,
                modified: file.modified,
                last_read,
                denied: denied.or_else(|| file_denied(&file)),
            });
        }
        let written = dir.stat(manifest::FILE.as_ref()).ok();
        let created = || written.map_or(0, |file| clock::past_or_now(file.modified));
        let manifest = read_manifest(&*dir)?.map_err(|error| error.kind());
        let module = manifest.map(|manifest| manifest.module);
        has_skipped |= module
            .as_ref()
            .is_err_and(|kind| *kind != ErrorKind::NotFound);
        self.segments.append(&mut segments);
        self.caches.push(CacheEntry {
            cache,
            changed,
            module,
            last_used: last_used.unwrap_or_else(created),
            is_empty: last_used.is_none(),
            names,
            has_skipped,
        });
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        sum(self.segments.iter().map(|segment| segment.bytes))
    }
}

/// How many rows a segment claims to have.
fn rows(dir: &dyn Directory, name: &str) -> Result<u64, SegmentError> {
    let rows = claimed_rows(dir, name)?;
    match is_foreign(dir, name)? {
        true => Err(SegmentError::Foreign),
        false => Ok(rows),
    }
}

/// Skips a directory that cannot be read, unless no descriptor is left: that says nothing about it.
fn skip(skipped: &mut Vec<(PathBuf, String)>, path: PathBuf, error: io::Error) -> io::Result<()> {
    if are_exhausted(&error) {
        return Err(error);
    }
    skipped.push((path, error.to_string()));
    Ok(())
}
