//! Keeps the directory within its limit: whole segments are removed, least recently read first. With
//! [`Eviction::Never`], stored segments are removed only when the directory is opened or the limit is
//! lowered, not to make room for new rows.
//!
//! The directory is listed once for each batch that is written: before it where rows may be refused,
//! and after it otherwise. In between, the segments that the catalog knows are counted.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Engine;
use crate::catalog::live_segment::LiveSegment;
use crate::catalog::{Catalog, Scan};
use crate::clock;
use crate::config::Eviction;
use crate::fault::Fault;
use crate::fs::Directory;
use crate::progress;
use crate::segment::{POLL_INTERVAL, SETTLE_TIMEOUT, is_settled};
use crate::size::sum;

/// Whether the known segments exceed the limit.
pub(crate) fn exceeds(catalog: &Catalog, max_bytes: u64) -> bool {
    excess(catalog, &mut catalog.scan(), max_bytes) > 0
}

/// The bytes above a limit. While another process compacts, rows are in the sources, which count, and in the result.
fn excess(catalog: &Catalog, scan: &mut Scan, limit: u64) -> u64 {
    let all = catalog.live_segments();
    if total(scan, sum(all.iter().map(|segment| segment.bytes))) <= limit {
        return 0;
    }
    catalog.refresh_locks(scan);
    total(scan, live(catalog)).saturating_sub(limit)
}

/// The bytes that count against the limit: all segment files but those of a newer version, which has
/// a limit of its own, and those that other users may have written.
fn total(scan: &Scan, live: u64) -> u64 {
    let skipped = scan.skipped.values().filter(|file| !file.is_left_alone());
    sum(skipped.map(|file| file.bytes).chain([live]))
}

/// The bytes of the segments that the store reads from, without locked ones: their sources may still exist.
pub(crate) fn live(catalog: &Catalog) -> u64 {
    let segments = catalog.live_segments();
    let counted = segments.iter().filter(|segment| !segment.is_locked());
    sum(counted.map(|segment| segment.bytes))
}

/// The bytes of files that other users keep this one from removing.
fn denied(catalog: &Catalog, scan: &Scan) -> u64 {
    let is_denied = |name: &str| scan.unremovable.get(name) == Some(&ErrorKind::PermissionDenied);
    let live = catalog.live_segments();
    let live = live.iter().map(|segment| (segment.name(), segment.bytes));
    let skipped = scan
        .skipped
        .iter()
        .filter(|(_, file)| !file.is_left_alone());
    let files = live.chain(skipped.map(|(name, file)| (name.as_str(), file.bytes)));
    sum(files
        .filter(|(name, _)| is_denied(name))
        .map(|(_, bytes)| bytes))
}

/// How many bytes a batch may write. Without eviction, skipped files are removed for them, and a
/// directory counts as full once less than a hundredth is left: that is too little for most batches,
/// but each would try.
pub(crate) fn room(engine: &Engine) -> u64 {
    let (catalog, config) = (&engine.catalog, engine.config());
    if config.eviction != Eviction::Never {
        let scan = catalog.scan();
        return match scan.unremovable.is_empty() {
            true => u64::MAX,
            false => config.max_bytes.saturating_sub(denied(catalog, &scan)),
        };
    }
    catalog.refresh_size(); // other processes fill the directory as well
    let mut scan = catalog.scan();
    catalog.refresh_locks(&mut scan);
    let skipped = scan.skipped.values();
    let kept = skipped
        .filter(|file| !file.is_left_alone() && (file.is_unopened() || file.is_recent()))
        .map(|file| file.bytes);
    let kept = sum(kept.chain([live(catalog)]));
    let room = config.max_bytes.saturating_sub(kept);
    match room < config.max_bytes / 100 {
        true => 0,
        false => room,
    }
}

/// Makes room for a segment of this size among those that are known. Returns whether it may be
/// published.
pub(crate) fn admit(engine: &Engine, bytes: u64) -> bool {
    let config = engine.config();
    let may_evict = config.eviction != Eviction::Never;
    bytes <= config.max_bytes && make_room(engine, bytes, may_evict)
}

/// Lists the directory, and removes segments until it is within its limit.
pub(crate) fn enforce_limit(engine: &Engine) {
    engine.catalog.refresh_size(); // other processes fill the directory as well
    make_room(engine, 0, true);
}

/// The same without eviction: what is stored stays, so this waits while another process may be compacting.
pub(crate) fn enforce_kept_limit(engine: &Engine) {
    let (catalog, since) = (&engine.catalog, Instant::now());
    loop {
        catalog.refresh_size();
        if !exceeds(catalog, engine.config().max_bytes) {
            return;
        }
        if catalog.dir_time().is_none_or(is_settled) || since.elapsed() > SETTLE_TIMEOUT {
            break;
        }
        progress::note();
        std::thread::sleep(POLL_INTERVAL);
    }
    make_room(engine, 0, true);
}

/// Removes skipped files, and segments if `may_evict`, until `incoming` more bytes fit. Returns
/// whether they do. Called by the flusher only.
fn make_room(engine: &Engine, incoming: u64, may_evict: bool) -> bool {
    let catalog = &engine.catalog;
    let limit = engine.config().max_bytes.saturating_sub(incoming);
    let mut scan = catalog.scan();
    let mut excess = excess(catalog, &mut scan, limit);
    if excess == 0 {
        return true;
    }
    match catalog.open_dir() {
        Ok(dir) => {
            remove_skipped(catalog, &*dir, &mut scan, &mut excess);
            if excess > 0 && may_evict {
                evict(catalog, &*dir, &mut scan, &mut excess);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return true, // nothing takes room
        Err(error) => {
            let reason = format_args!("cannot remove segments: {error}");
            catalog.faults.note(Fault::Write, &catalog.dir, reason);
        }
    }
    excess == 0
}

/// A file that may be removed for others.
struct Candidate {
    last_read: u64,
    name: String,
    bytes: u64,
    /// `None` if it failed to open.
    segment: Option<Arc<LiveSegment>>,
}

/// Removes the segments that were read least recently, by any process. Where one cannot be removed, the next
/// one is.
fn evict(catalog: &Catalog, dir: &dyn Directory, scan: &mut Scan, excess: &mut u64) {
    let mut candidates = candidates(catalog, dir, scan, excess);
    candidates.sort_by(|a, b| (a.last_read, &a.name).cmp(&(b.last_read, &b.name)));
    let mut evicted = Vec::new();
    for Candidate {
        name,
        bytes,
        segment,
        ..
    } in candidates
    {
        if *excess == 0 {
            break;
        }
        let unremovable = &mut scan.unremovable;
        let is_gone = match &segment {
            Some(segment) => catalog.remove_segment(dir, unremovable, segment),
            None => catalog.remove(dir, unremovable, &name),
        };
        if is_gone {
            *excess = excess.saturating_sub(bytes);
            scan.skipped.remove(&name);
        }
        // After an error of the disk it is unknown whether the file is there.
        if is_gone || !stays(scan.unremovable.get(&name)) {
            evicted.extend(segment);
        }
    }
    detach_evicted(catalog, scan, &evicted);
}

/// Whether this error of removing a file says that it is still there.
fn stays(error: Option<&ErrorKind>) -> bool {
    use ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    let stays = [PermissionDenied, ReadOnlyFilesystem, ResourceBusy];
    error.is_some_and(|error| stays.contains(error))
}

/// The files that may be removed. Subtracts those that another process removed from the excess.
fn candidates(
    catalog: &Catalog,
    dir: &dyn Directory,
    scan: &Scan,
    excess: &mut u64,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut segments = catalog.live_segments();
    // Without one of these, the rows of its sources would be gone too.
    segments.retain(|segment| !segment.is_locked());
    for segment in segments {
        progress::note();
        match dir.stat(segment.name().as_ref()) {
            Ok(file) => segment.note_read_elsewhere(file.modified),
            // It takes no room.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                *excess = excess.saturating_sub(segment.bytes);
                continue;
            }
            // Its last known time counts.
            Err(error) => catalog.faults.note(Fault::Read, &segment.path, error),
        }
        candidates.push(Candidate {
            last_read: segment.last_read(),
            name: segment.name().to_owned(),
            bytes: segment.bytes,
            segment: Some(segment),
        });
    }
    let unopened = scan.skipped.iter();
    let unopened = unopened.filter(|(_, file)| file.is_unopened() && !file.is_left_alone());
    // Nothing is known of the age of one that cannot be looked at.
    candidates.extend(unopened.filter_map(|(name, file)| {
        let modified = dir.stat(name.as_ref()).ok()?.modified;
        Some(Candidate {
            last_read: clock::past_or_now(modified),
            name: name.clone(),
            bytes: file.bytes,
            segment: None,
        })
    }));
    candidates
}

/// Removes segments of these names, also those that cannot be read. Returns the bytes of those that are gone.
pub(crate) fn evict_named(catalog: &Catalog, names: &HashSet<&str>) -> u64 {
    catalog.refresh_size(); // other processes may have written some
    let mut scan = catalog.scan();
    let Ok(dir) = catalog.open_dir() else {
        return 0;
    };
    let scan = &mut *scan;
    let mut segments = catalog.live_segments();
    segments.retain(|segment| {
        names.contains(segment.name())
            && catalog.remove_segment(&*dir, &mut scan.unremovable, segment)
    });
    detach_evicted(catalog, scan, &segments);
    let skipped = scan.skipped.extract_if(|name, file| {
        names.contains(name.as_str())
            && !file.is_left_alone()
            && !file.is_recent()
            && catalog.remove(&*dir, &mut scan.unremovable, name)
    });
    let live = segments.iter().map(|segment| segment.bytes);
    sum(live.chain(skipped.map(|(_, file)| file.bytes)))
}

/// Takes segments out whose files were removed, and counts their rows.
fn detach_evicted(catalog: &Catalog, scan: &mut Scan, segments: &[Arc<LiveSegment>]) {
    // Still under the lock of their removal, or a refresh would do it.
    catalog.detach(scan, &segments.iter().map(|segment| segment.id).collect());
    let rows = segments.iter().map(|segment| segment.rows).sum();
    catalog.evicted_rows.fetch_add(rows, Ordering::Relaxed);
}

/// Skipped files are removed first, since they serve no row.
fn remove_skipped(catalog: &Catalog, dir: &dyn Directory, scan: &mut Scan, excess: &mut u64) {
    scan.skipped.retain(|name, file| {
        progress::note();
        // One that changed may be sound by now, and a copy under way will be.
        let is_removed = *excess > 0
            && !file.is_left_alone()
            && !file.is_recent()
            && file.is_unchanged(dir, name)
            && catalog.remove(dir, &mut scan.unremovable, name);
        if is_removed {
            *excess = excess.saturating_sub(file.bytes);
        }
        !is_removed
    });
}
