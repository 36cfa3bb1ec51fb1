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
use crate::config::Eviction;
use crate::fault::Fault;
use crate::segment::{POLL_INTERVAL, SETTLE_TIMEOUT, is_settled};
use crate::size::sum;

/// Whether the known segments exceed the limit.
pub(crate) fn exceeds(catalog: &Catalog, max_bytes: u64) -> bool {
    total(catalog, &catalog.scan()) > max_bytes
}

/// The bytes that count against the limit: all segment files but those of a newer version, which has
/// a limit of its own, and those that other users may have written.
fn total(catalog: &Catalog, scan: &Scan) -> u64 {
    let skipped = scan.skipped.values().filter(|file| !file.is_left_alone());
    sum(skipped.map(|file| file.bytes).chain([live(catalog)]))
}

pub(crate) fn live(catalog: &Catalog) -> u64 {
    sum(catalog.live_segments().iter().map(|segment| segment.bytes))
}

/// How many bytes a batch may write; skipped files are removed for them. Without eviction, a
/// directory counts as full once less than a hundredth is left: that is too little for most batches,
/// but each would try.
pub(crate) fn room(engine: &Engine) -> u64 {
    let config = engine.config();
    if config.eviction != Eviction::Never {
        return u64::MAX;
    }
    engine.catalog.refresh_size(); // other processes fill the directory as well
    let room = config.max_bytes.saturating_sub(live(&engine.catalog));
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
        engine.queue.note_progress();
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
    let mut excess = total(catalog, &scan).saturating_sub(limit);
    remove_skipped(catalog, &mut scan, &mut excess);
    if excess > 0 && may_evict {
        evict(engine, &mut scan, &mut excess);
    }
    excess == 0
}

/// Removes the segments that were read least recently, by any process.
fn evict(engine: &Engine, scan: &mut Scan, excess: &mut u64) {
    let catalog = &engine.catalog;
    let mut segments = catalog.live_segments();
    if let Ok(dir) = catalog.open_dir() {
        segments.retain(|segment| match dir.stat(segment.name().as_ref()) {
            Ok(file) => {
                segment.note_read_elsewhere(file.modified);
                true
            }
            // Another process removed it, so it takes no room.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                *excess = excess.saturating_sub(segment.bytes);
                false
            }
            // Its last known time counts.
            Err(error) => {
                catalog.faults.note(Fault::Read, &segment.path, error);
                true
            }
        });
    }
    segments.sort_by_cached_key(|segment| (segment.last_read(), segment.path.clone()));
    segments.retain(|segment| {
        let is_evicted = *excess > 0;
        *excess = excess.saturating_sub(segment.bytes);
        is_evicted
    });
    evict_all(catalog, scan, &segments);
}

/// Removes segments of these names, also those that cannot be read.
pub(crate) fn evict_named(catalog: &Catalog, names: &HashSet<&str>) {
    catalog.refresh_size(); // other processes may have written some
    let mut scan = catalog.scan();
    let mut segments = catalog.live_segments();
    segments.retain(|segment| names.contains(segment.name()));
    evict_all(catalog, &mut scan, &segments);
    let skipped = scan
        .skipped
        .extract_if(|name, file| names.contains(name.as_str()) && !file.is_left_alone());
    let skipped: Vec<String> = skipped.map(|(name, _)| name).collect();
    catalog.remove(skipped.iter().map(String::as_str));
}

/// Removes segments, and counts their rows.
fn evict_all(catalog: &Catalog, scan: &mut Scan, segments: &[Arc<LiveSegment>]) {
    let ids: HashSet<u32> = segments.iter().map(|segment| segment.id).collect();
    catalog.detach(scan, &ids);
    // Still under the lock, or a refresh would insert them again.
    catalog.delete(segments);
    let rows = segments.iter().map(|segment| segment.rows).sum();
    catalog.evicted_rows.fetch_add(rows, Ordering::Relaxed);
}

/// Skipped files are removed first, since they serve no row.
fn remove_skipped(catalog: &Catalog, scan: &mut Scan, excess: &mut u64) {
    if *excess == 0 {
        return;
    }
    let dir = catalog.open_dir();
    let removed = scan.skipped.extract_if(|name, file| {
        // One that changed may be sound by now.
        let is_unchanged = || {
            dir.as_ref()
                .is_ok_and(|dir| file.is_unchanged(&**dir, name))
        };
        let is_removed = *excess > 0 && !file.is_left_alone() && is_unchanged();
        if is_removed {
            *excess = excess.saturating_sub(file.bytes);
        }
        is_removed
    });
    let removed: Vec<_> = removed.collect();
    catalog.remove(removed.iter().map(|(name, _)| name.as_str()));
}
