//! Reads located rows: in the order of each file, on several threads if there is enough to read, and
//! each row checked. A row that cannot be read is counted and removed from the index, so that it is a
//! miss from then on, unless another segment has it as well.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::catalog::live_segment::LiveSegment;
use crate::catalog::located::{Located, RowLocation, row_group};
use crate::catalog::{Catalog, file_cache};
use crate::events::Deferred;
use crate::fault::Fault;
use crate::key::Key;
use crate::segment::{self, SegmentError, SegmentFile};
use crate::{descriptors, threads};

/// How often rows are followed to another segment: more than once if compactions race.
const MAX_RETRIES: usize = 4;

/// A call keeps at most one of so many files open at a time that may stay open between calls.
const OPEN_FILES_SHARE: usize = 4;

/// Below this cost (about 0.1 ms) a call wakes no other threads: it is done about when they are awake,
/// and earlier on a busy machine.
const MIN_PARALLEL_COST: usize = 1 << 20;

/// The least cost of a piece of work for one thread.
const MIN_PIECE_COST: usize = 128 << 10;

/// The cost of a system call, in bytes that could be copied meanwhile.
const SYSTEM_CALL_COST: usize = 6 << 10;

/// How many bytes can be copied while one is decompressed.
const DECOMPRESSION_COST: usize = 8;

/// A row to be read from disk. Its tag is the slot of the caller, and its segment.
type DiskRequest<'a> = segment::RowRequest<'a, (usize, &'a Arc<LiveSegment>)>;

/// Reads rows into buffers of their lengths, and returns for each whether it was read. Rows that have
/// moved are looked up again by `relocate`.
pub(crate) fn read(
    catalog: &Catalog,
    relocate: impl Fn(&Located) -> Option<Located>,
    rows: &[Located],
    out: &mut [&mut [u8]],
    mmap: bool,
) -> Vec<bool> {
    // A row that a subscriber reads again is a miss by then.
    let _deferred = Deferred::new();
    let mut ok = vec![false; rows.len()];
    let mut failed = read_once(catalog, rows.iter().map(Some), out, &mut ok, mmap);
    for _ in 0..MAX_RETRIES {
        if failed.is_empty() {
            return ok;
        }
        if failed.iter().any(|failed| failed.is_vanished) {
            // Another process removed the segment. If it was compacted, the rows are in a new one.
            catalog.refresh();
        }
        let mut moved = vec![None; rows.len()];
        for UnreadRow { slot, is_vanished } in failed {
            let old = &rows[slot];
            let is_same = |new: &Located| new.len == old.len && new.schema() == old.schema();
            moved[slot] = relocate(old).filter(is_same);
            if is_vanished && moved[slot].is_none() {
                note_vanished(catalog, old);
            }
        }
        failed = read_once(
            catalog,
            moved.iter().map(Option::as_ref),
            out,
            &mut ok,
            mmap,
        );
    }
    for failed in failed.iter().filter(|failed| failed.is_vanished) {
        note_vanished(catalog, &rows[failed.slot]);
    }
    ok
}

/// A row that another segment may have.
struct UnreadRow {
    slot: usize,
    /// Its segment is gone. Otherwise its record is corrupt, which was counted.
    is_vanished: bool,
}

fn note_vanished(catalog: &Catalog, row: &Located) {
    if let RowLocation::Disk(segment, _) = &row.location
        && !segment.is_deleted.load(Ordering::Relaxed)
    {
        let reason = "another program removed it, and no other segment has its rows";
        catalog.faults.note(Fault::Vanished, &segment.path, reason);
    }
}

/// Reads the rows of those slots that have one. Returns those that were not where they had been
/// located.
fn read_once<'a>(
    catalog: &Catalog,
    rows: impl Iterator<Item = Option<&'a Located>>,
    out: &'a mut [&mut [u8]],
    ok: &mut [bool],
    mmap: bool,
) -> Vec<UnreadRow> {
    let mut requests: Vec<DiskRequest<'a>> = Vec::with_capacity(ok.len());
    for (slot, (row, out)) in rows.zip(out).enumerate() {
        match row.map(|row| &row.location) {
            None => {}
            Some(RowLocation::Queue(batch, row)) => {
                out.copy_from_slice(batch.value(*row));
                ok[slot] = true;
            }
            Some(RowLocation::Disk(segment, row)) => requests.push(DiskRequest {
                tag: (slot, segment),
                row,
                group: row_group(segment, row),
                out,
                outcome: None,
            }),
        }
    }
    let position = |request: &DiskRequest<'_>| (request.tag.1.id, request.row.offset);
    if !requests.is_sorted_by_key(position) {
        requests.sort_unstable_by_key(position);
    }
    let mut failed = fetch(catalog, &mut requests, mmap);
    let mut corrupt: HashMap<u32, (&LiveSegment, HashSet<Key>)> = HashMap::new();
    for request in requests {
        let (slot, segment) = request.tag;
        match request.outcome {
            None => {}
            Some(Ok(())) => ok[slot] = true,
            Some(Err(SegmentError::Io(error))) if is_stale_handle(&error) => {
                drop(file_cache::close(segment.id));
                let is_vanished = true;
                failed.push(UnreadRow { slot, is_vanished });
            }
            Some(Err(error)) => {
                catalog.faults.note(error.fault(), &segment.path, error);
                catalog.invalidate(segment, &request.row.key);
                let entry = corrupt.entry(segment.id);
                let (_, keys) = entry.or_insert_with(|| (segment, HashSet::new()));
                keys.insert(request.row.key);
                let is_vanished = false;
                failed.push(UnreadRow { slot, is_vanished });
            }
        }
    }
    for (segment, keys) in corrupt.values() {
        catalog.unshadow_rows(segment, keys);
    }
    failed
}

/// Whether a file server reports that it does not know an open file any more: another machine removed
/// it, or the server restarted. Under its name the file may still exist.
fn is_stale_handle(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StaleNetworkFileHandle
}

/// Reads rows that are sorted by position, and returns those whose files are gone.
fn fetch(catalog: &Catalog, requests: &mut [DiskRequest<'_>], mmap: bool) -> Vec<UnreadRow> {
    let mut vanished = Vec::new();
    let max_open = descriptors::kept_files().div_ceil(OPEN_FILES_SHARE);
    let mut open = Vec::new();
    for group in requests.chunk_by_mut(|a, b| a.tag.1.id == b.tag.1.id) {
        let segment = group[0].tag.1;
        let mut source = catalog.source(segment, mmap);
        // The process may have no descriptor left because this call holds so many.
        if open.len() >= max_open || source.is_err() && !open.is_empty() {
            fetch_files(std::mem::take(&mut open));
            source = catalog.source(segment, mmap);
        }
        match source {
            Ok(source) => {
                segment.note_read(&source);
                open.push((source, group));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                vanished.extend(group.iter().map(|request| UnreadRow {
                    slot: request.tag.0,
                    is_vanished: true,
                }));
            }
            // It may pass (too many open files, say), so the rows stay in the index.
            Err(error) => group
                .iter()
                .for_each(|_| catalog.faults.note(Fault::Read, &segment.path, &error)),
        }
    }
    fetch_files(open);
    vanished
}

/// Reads rows of some files, on several threads if there is enough to do.
fn fetch_files(files: Vec<(Arc<SegmentFile>, &mut [DiskRequest<'_>])>) {
    let total: usize = files.iter().flat_map(|(_, requests)| costs(requests)).sum();
    if total < MIN_PARALLEL_COST || threads::count() < 2 {
        for (source, requests) in files {
            segment::fetch(&source, requests);
        }
        return;
    }
    let share = (total / (2 * threads::count())).max(MIN_PIECE_COST);
    let pieces = files.into_iter().flat_map(|(source, requests)| {
        split(requests, share).map(move |piece| (source.clone(), piece))
    });
    threads::for_each(threads::count(), pieces, |(source, requests)| {
        segment::fetch(&source, requests);
    });
}

/// The cost of each row, in bytes that could be copied meanwhile.
fn costs(requests: &[DiskRequest<'_>]) -> impl Iterator<Item = usize> {
    let cost = |at: usize| {
        let request = &requests[at];
        let is_contiguous = at > 0 && requests[at - 1].is_followed_by(request);
        let per_byte = match request.row.encoding.is_raw() {
            true => 1,
            false => DECOMPRESSION_COST,
        };
        request.out.len() * per_byte + if is_contiguous { 0 } else { SYSTEM_CALL_COST }
    };
    (0..requests.len()).map(cost)
}

/// Splits rows into pieces of about this cost each.
fn split<'w, 'a>(
    mut requests: &'w mut [DiskRequest<'a>],
    share: usize,
) -> impl Iterator<Item = &'w mut [DiskRequest<'a>]> {
    std::iter::from_fn(move || {
        let mut cost = 0;
        let within = |next: &usize| {
            let is_within = cost < share;
            cost += next;
            is_within
        };
        let len = costs(requests).take_while(within).count();
        let (piece, rest) = std::mem::take(&mut requests).split_at_mut(len);
        requests = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
