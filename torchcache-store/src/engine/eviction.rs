//! Keeping the directory within its limit: whole segments go, least recently read first. Where what
//! is there is to stay, they go only when the limit is set, not for what is written.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::atomic::Ordering;

use super::Inner;
use crate::catalog::{Catalog, Scan, Skipped};
use crate::size::sum;

/// Whether the segments that are known exceed the limit.
pub(crate) fn is_over(catalog: &Catalog, max_bytes: u64) -> bool {
    total(catalog, &catalog.scan()) > max_bytes
}

/// The bytes that count against the limit: every segment file, but for those of a newer
/// torchcache, which keeps its own account, and of strangers.
fn total(catalog: &Catalog, scan: &Scan) -> u64 {
    let skipped = scan.skipped.values().filter(|file| !file.is_left_alone());
    sum(skipped.map(|file| file.bytes).chain([readable(catalog)]))
}

fn readable(catalog: &Catalog) -> u64 {
    sum(catalog.tracked().iter().map(|segment| segment.bytes))
}

/// How many bytes may be written; what cannot be read makes way for them. A directory that keeps
/// what it has counts as full from the last hundredth on: what is left then is too little for most
/// batches, but would be tried for each.
pub(crate) fn room(inner: &Inner) -> u64 {
    let config = inner.config();
    if config.evict {
        return u64::MAX;
    }
    inner.catalog.refresh(); // others fill the directory as well
    let room = config.max_bytes.saturating_sub(readable(&inner.catalog));
    if room < config.max_bytes / 100 {
        0
    } else {
        room
    }
}

/// Whether a segment of this size may be published. Where others may go for it, they do.
pub(crate) fn admits(inner: &Inner, bytes: u64) -> bool {
    let config = inner.config();
    bytes <= config.max_bytes && make_room(inner, bytes, config.evict)
}

/// Drops segments until the directory is within its limit, whether it keeps what it has or not.
pub(crate) fn enforce_limit(inner: &Inner) {
    make_room(inner, 0, true);
}

/// Drops what cannot be read, and with `evict` segments, until `incoming` more bytes fit. Returns
/// whether they do. Runs on the writer thread.
fn make_room(inner: &Inner, incoming: u64, evict: bool) -> bool {
    let catalog = &inner.catalog;
    catalog.refresh(); // others fill the directory as well
    let limit = inner.config().max_bytes.saturating_sub(incoming);
    let mut scan = catalog.scan();
    let mut over = total(catalog, &scan).saturating_sub(limit);
    drop_unreadable(catalog, &mut scan, &mut over);
    if over > 0 && evict {
        drop_least_recently_read(inner, &mut scan, &mut over);
    }
    over == 0
}

fn drop_least_recently_read(inner: &Inner, scan: &mut Scan, over: &mut u64) {
    let catalog = &inner.catalog;
    let mut segments = catalog.tracked();
    if let Ok(dir) = catalog.open_dir() {
        for segment in &segments {
            if let Ok(file) = dir.stat(segment.name()) {
                segment.read_elsewhere(file.modified);
            }
        }
    }
    segments.sort_by_cached_key(|segment| (segment.last_read(), segment.path.clone()));
    segments.retain(|segment| {
        let goes = *over > 0;
        *over = over.saturating_sub(segment.bytes);
        goes
    });
    let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
    inner
        .counters
        .evicted_rows
        .fetch_add(rows, Ordering::Relaxed);
    let ids: HashSet<u32> = segments.iter().map(|segment| segment.id).collect();
    catalog.leave(scan, &ids);
    // Still under the lock, or a refresh would take them in again.
    catalog.retire(&segments);
}

/// What cannot be read is of use to nobody, so it goes first.
fn drop_unreadable(catalog: &Catalog, scan: &mut Scan, over: &mut u64) {
    let goes = |_: &OsString, file: &mut Skipped| {
        let goes = *over > 0 && !file.is_left_alone();
        if goes {
            *over = over.saturating_sub(file.bytes);
        }
        goes
    };
    let gone: Vec<_> = scan.skipped.extract_if(goes).collect();
    catalog.remove(gone.iter().map(|(name, _)| name.as_os_str()));
}
