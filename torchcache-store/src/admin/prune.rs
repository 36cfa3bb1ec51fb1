//! Frees space: removes whole segments, least recently read first, or whole caches. A segment that was
//! read since it was listed stays, and so do those of newer versions and those whose permissions are
//! rejected. The segments are sorted once. Those that permissions keep from being removed are left out before, so that a
//! dry run reports what is removed then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::clear::{holds_nothing_else, remove_empty};
use super::discover::{Cache, Root};
use super::inventory::{CacheEntry, Inventory, SegmentEntry};
use crate::clock;
use crate::fs::temp_file::is_replacement;
use crate::fs::{Directory, file_names, remove_if_present};
use crate::segment::segment_names;
use crate::size::sum;

/// How often pruning starts again, at most, after segments vanished.
const MAX_ROUNDS: usize = 8;

/// What [`prune`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The most recently read segments, up to this many bytes in all caches together.
    MaxBytes(u64),
    /// The segments that were read within this time.
    ReadWithin(Duration),
    /// Of each module, this many most recently read caches. A cache whose manifest cannot be read belongs
    /// to no module, and stays.
    LatestPerModule(usize),
}

/// What [`prune`] removed, or would remove.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// The caches that segments were removed from, by name.
    pub caches: Vec<PrunedCache>,
    /// The bytes of the remaining segments, without the skipped ones.
    pub remaining_bytes: u64,
    /// Directories and segments that were skipped, with the reason: a newer version, rejected permissions,
    /// or a failed read.
    pub skipped: Vec<(PathBuf, String)>,
    /// Files and directories that could not be removed, with the error of each. A dry run has those that permissions
    /// keep from being removed.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// What was removed of a cache.
#[derive(Debug)]
pub struct PrunedCache {
    /// The cache.
    pub cache: Cache,
    /// The module, or why the manifest cannot be read: [`ErrorKind::NotFound`] if there is none.
    pub module: Result<String, ErrorKind>,
    /// The segments, in the order of their removal.
    pub segments: Vec<PrunedSegment>,
    /// Whether the directory was removed too, since nothing remains in it.
    pub directory_removed: bool,
}

/// A segment that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunedSegment {
    /// The file name.
    pub name: String,
    /// The size of the file.
    pub bytes: u64,
    /// The number of rows; `None` if the segment cannot be read.
    pub rows: Option<u64>,
    /// When it was last read.
    pub last_read: SystemTime,
}

impl PruneReport {
    /// The bytes of the removed segments.
    pub fn removed_bytes(&self) -> u64 {
        let segments = self.caches.iter().flat_map(|cache| &cache.segments);
        sum(segments.map(|segment| segment.bytes))
    }
}

/// Removes what `keep` does not keep. With `dry_run`, only reports what would be removed.
///
/// # Errors
/// As [`PrunePlan::new`].
pub fn prune(root: &Root, keep: Keep, dry_run: bool) -> io::Result<PruneReport> {
    let plan = PrunePlan::new(root, keep)?;
    match dry_run {
        true => Ok(plan.report()),
        false => plan.carry_out_repeatedly(),
    }
}

/// What is to be removed of a root, by one listing.
pub struct PrunePlan<'r> {
    root: &'r Root,
    keep: Keep,
    /// What remains.
    inventory: Inventory,
    selection: Selection,
    skipped: Vec<(PathBuf, String)>,
}

impl<'r> PrunePlan<'r> {
    /// Lists the caches, and chooses what `keep` does not keep.
    ///
    /// # Errors
    /// If the root itself cannot be listed, or there are too few file descriptors to list a cache. All other
    /// errors are in the report.
    pub fn new(root: &'r Root, keep: Keep) -> io::Result<PrunePlan<'r>> {
        let mut skipped = Vec::new();
        let (mut inventory, excess) = match keep {
            Keep::MaxBytes(limit) => Inventory::list_settled(root, limit, &mut skipped)?,
            _ => (Inventory::list(root, &mut skipped)?, 0),
        };
        let selection = inventory.choose(keep, excess);
        Ok(PrunePlan {
            root,
            keep,
            inventory,
            selection,
            skipped,
        })
    }

    /// What would be removed.
    pub fn report(&self) -> PruneReport {
        let mut report = PruneReport {
            remaining_bytes: self.inventory.bytes(),
            skipped: self.skipped.clone(),
            failed: self.selection.failures(),
            ..PruneReport::default()
        };
        let mut pruned = BTreeMap::new();
        for segment in &self.selection.segments {
            let entry = &self.inventory.caches[segment.cache];
            pruned_cache(&mut pruned, entry)
                .segments
                .push(segment.into());
        }
        for &index in &self.selection.emptied {
            let entry = &self.inventory.caches[index];
            match entry.cache.open().and_then(|dir| holds_nothing_else(&*dir)) {
                Ok(is_removed) => set_removed(&mut pruned, entry, is_removed),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => report.failed.push((entry.cache.path().to_owned(), error)),
            }
        }
        report.caches = pruned.into_values().collect();
        report
    }

    /// Removes what is planned. A segment that was read or replaced since it was listed stays.
    pub fn carry_out(self) -> PruneReport {
        let (mut report, mut pruned) = (PruneReport::default(), BTreeMap::new());
        self.remove(&mut pruned, &mut report);
        report.caches = pruned.into_values().collect();
        report
    }

    /// Removes what is planned. If a segment vanished, was read or came to a cache that lost some since it was listed,
    /// lists the caches again and removes what `keep` does not keep then: the rows may be in another segment.
    ///
    /// # Errors
    /// As [`PrunePlan::new`].
    pub fn carry_out_repeatedly(self) -> io::Result<PruneReport> {
        let (root, keep) = (self.root, self.keep);
        let (mut report, mut pruned) = (PruneReport::default(), BTreeMap::new());
        let mut changed = self.remove(&mut pruned, &mut report);
        for _ in 1..MAX_ROUNDS {
            if !changed {
                break;
            }
            changed = PrunePlan::new(root, keep)?.remove(&mut pruned, &mut report);
        }
        report.caches = pruned.into_values().collect();
        Ok(report)
    }

    /// Returns whether the caches have to be listed again: see [`carry_out_repeatedly`](Self::carry_out_repeatedly).
    fn remove(
        mut self,
        pruned: &mut BTreeMap<PathBuf, PrunedCache>,
        report: &mut PruneReport,
    ) -> bool {
        report.failed = self.selection.failures();
        report.skipped = self.skipped;
        let changed = self.inventory.remove(self.selection, pruned, report);
        report.remaining_bytes = self.inventory.bytes();
        changed
    }
}

impl Inventory {
    /// Takes out what is to be removed. `excess` is the number of bytes above the limit.
    fn choose(&mut self, keep: Keep, mut excess: u64) -> Selection {
        let key = |segment: &SegmentEntry| (segment.last_read, segment.name.clone());
        self.segments.sort_by_cached_key(key);
        let oldest = oldest_kept(keep);
        let whole = match keep {
            Keep::LatestPerModule(count) => self.all_but_latest(count),
            _ => HashSet::new(),
        };
        let (caches, mut denied) = (&self.caches, Vec::new());
        let is_removed = |segment: &mut SegmentEntry| {
            let is_chosen = match keep {
                Keep::MaxBytes(_) => excess > 0,
                Keep::ReadWithin(_) => segment.last_read < oldest,
                Keep::LatestPerModule(_) => whole.contains(&segment.cache),
            };
            match segment.denied {
                Some(kind) if is_chosen => {
                    let path = caches[segment.cache].cache.path();
                    denied.push((path.join(&segment.name), kind));
                    false
                }
                _ => {
                    if is_chosen {
                        excess = excess.saturating_sub(segment.bytes);
                    }
                    is_chosen
                }
            }
        };
        let segments: Vec<_> = self.segments.extract_if(.., is_removed).collect();
        let empty = self.caches.iter().enumerate().filter(|(index, entry)| {
            entry.is_empty && (whole.contains(index) || entry.last_used < oldest)
        });
        let mut emptied: HashSet<usize> = empty.map(|(index, _)| index).collect();
        emptied.extend(segments.iter().map(|segment| segment.cache));
        self.retain_emptied(&mut emptied);
        Selection {
            segments,
            emptied,
            denied,
            is_bounded: matches!(keep, Keep::MaxBytes(_)),
        }
    }

    /// Keeps those of the caches that have nothing left.
    fn retain_emptied(&self, caches: &mut HashSet<usize>) {
        for segment in &self.segments {
            caches.remove(&segment.cache);
        }
        caches.retain(|index| !self.caches[*index].has_skipped);
    }

    /// Of each module, all caches but the `count` most recently read.
    fn all_but_latest(&self, count: usize) -> HashSet<usize> {
        let mut modules: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, entry) in self.caches.iter().enumerate() {
            if let Ok(module) = &entry.module {
                modules.entry(module).or_default().push(index);
            }
        }
        let others = modules.into_values().flat_map(|mut indices| {
            indices.sort_by_key(|&index| Reverse(self.caches[index].last_used));
            indices.into_iter().skip(count)
        });
        others.collect()
    }

    /// Removes what was selected. Under a bound, other segments are removed in place of those that cannot be, in the same
    /// order. Returns whether a segment vanished, was read, or came to a cache that lost some.
    fn remove(
        &mut self,
        selection: Selection,
        pruned: &mut BTreeMap<PathBuf, PrunedCache>,
        report: &mut PruneReport,
    ) -> bool {
        let (mut changed, mut missing_bytes) = (false, 0);
        let mut touched = selection.emptied;
        let selected = selection.segments.len();
        let others = std::mem::take(&mut self.segments);
        let segments = selection.segments.into_iter().chain(others);
        for (number, segment) in segments.enumerate() {
            let is_other = number >= selected;
            if is_other && (missing_bytes == 0 || segment.denied.is_some()) {
                self.segments.push(segment);
                continue;
            }
            let entry = &self.caches[segment.cache];
            // Opened again, since there may be more caches than descriptors.
            let removed = entry.cache.open().and_then(|dir| {
                let file = dir.stat(segment.name.as_ref())?;
                match (file.modified, file.len) == (segment.modified, segment.bytes) {
                    true => remove_if_present(&*dir, &segment.name).map(Some),
                    false => Ok(None),
                }
            });
            let is_gone = match &removed {
                Ok(removed) => removed.is_some(),
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            match (is_gone, is_other) {
                (false, false) if selection.is_bounded && removed.is_err() => {
                    missing_bytes += segment.bytes;
                }
                (true, true) => missing_bytes = missing_bytes.saturating_sub(segment.bytes),
                _ => {}
            }
            match removed {
                Ok(Some(true)) => {
                    touched.insert(segment.cache);
                    pruned_cache(pruned, entry).segments.push((&segment).into());
                }
                Ok(Some(false)) => changed = true,
                // Read since it was listed.
                Ok(None) => {
                    changed = true;
                    self.segments.push(segment);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => changed = true,
                Err(error) => {
                    let path = entry.cache.path().join(&segment.name);
                    report.failed.push((path, error));
                    self.segments.push(segment);
                }
            }
        }
        let mut emptied = touched.clone();
        self.retain_emptied(&mut emptied);
        for index in touched {
            let entry = &self.caches[index];
            let is_empty = emptied.contains(&index);
            // Without the sync, a power loss could bring the rows back.
            let remove = |dir: Arc<dyn Directory>| {
                dir.sync()?;
                match remove_replacements(&*dir).and_then(|()| has_new(&*dir, &entry.names)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    has_new => changed |= has_new?,
                }
                match is_empty {
                    true => remove_empty(&entry.cache, &dir),
                    false => Ok(false),
                }
            };
            let removed = match entry.cache.open() {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(is_empty),
                dir => dir.and_then(remove),
            };
            match removed {
                Ok(removed) => set_removed(pruned, entry, removed),
                Err(error) => report.failed.push((entry.cache.path().to_owned(), error)),
            }
        }
        changed
    }
}

/// Removes the files that are about to replace segments: they may have rows of removed ones.
fn remove_replacements(dir: &dyn Directory) -> io::Result<()> {
    for name in file_names(dir, is_replacement)? {
        remove_if_present(dir, &name)?;
    }
    Ok(())
}

/// Whether a directory has segments that a listing did not have: results of compactions, with rows of sources that were
/// removed. Those without a name have to be removed before.
fn has_new(dir: &dyn Directory, listed: &HashSet<String>) -> io::Result<bool> {
    let names = segment_names(dir)?;
    Ok(names.iter().any(|name| !listed.contains(name)))
}

/// What is to be removed of an inventory.
struct Selection {
    /// In this order.
    segments: Vec<SegmentEntry>,
    /// The indices of the caches that have no segments then.
    emptied: HashSet<usize>,
    /// Segments that would have been selected and cannot be removed.
    denied: Vec<(PathBuf, ErrorKind)>,
    /// Whether other segments are removed in place of those that turn out to stay.
    is_bounded: bool,
}

impl Selection {
    fn failures(&self) -> Vec<(PathBuf, io::Error)> {
        let denied = self.denied.iter();
        denied
            .map(|(path, kind)| (path.clone(), (*kind).into()))
            .collect()
    }
}

/// The time in nanoseconds since 1970 before which everything is removed.
fn oldest_kept(keep: Keep) -> u64 {
    match keep {
        Keep::ReadWithin(age) => {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            clock::now().saturating_sub(age)
        }
        _ => 0,
    }
}

impl From<&SegmentEntry> for PrunedSegment {
    fn from(segment: &SegmentEntry) -> PrunedSegment {
        PrunedSegment {
            name: segment.name.clone(),
            bytes: segment.bytes,
            rows: segment.rows,
            last_read: clock::as_system(segment.last_read),
        }
    }
}

/// Notes whether the directory of a cache was removed.
fn set_removed(pruned: &mut BTreeMap<PathBuf, PrunedCache>, entry: &CacheEntry, is_removed: bool) {
    if is_removed || pruned.contains_key(entry.cache.path()) {
        pruned_cache(pruned, entry).directory_removed |= is_removed;
    }
}

fn pruned_cache<'a>(
    pruned: &'a mut BTreeMap<PathBuf, PrunedCache>,
    entry: &CacheEntry,
) -> &'a mut PrunedCache {
    pruned
        .entry(entry.cache.path().to_owned())
        .or_insert_with(|| PrunedCache {
            cache: entry.cache.clone(),
            module: entry.module.clone(),
            segments: Vec::new(),
            directory_removed: false,
        })
}
