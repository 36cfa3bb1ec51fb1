//! Merging small segments, so that a trickle of rows does not become a heap of files.
//!
//! Segments are merged eight at a time with others of about their size (within a factor of
//! eight), so that each row is copied once for each such step and not for every new row.
//! Records are copied as they are stored, each one checked. A source's file goes only after
//! the merged segment has its name, so that a row is at every moment in some file.

use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Inner;
use crate::catalog::live_segment::Tracked;
use crate::clock;
use crate::fault::Fault;
use crate::fs::Directory;
use crate::segment::{
    CopyError, MOST_ROWS, Row, RowGroup, SegmentError, SegmentWriter, copy_records,
};

/// How many segments of about one size are too many.
const TOO_MANY: usize = 8;

/// A segment of this share of the target, or of the most rows, is large enough.
const LARGE_ENOUGH: u64 = 4;

/// Merges until there is nothing to merge.
pub(crate) fn merge_small(inner: &Inner) {
    while let Some(group) = next_group(inner) {
        match merge(inner, &group) {
            Ok(Some(())) => {
                let merged = group.len() as u64;
                inner
                    .counters
                    .merged_segments
                    .fetch_add(merged, Ordering::Relaxed);
                continue;
            }
            // Somebody else merged or cleared them; what is there now, the next merge sees.
            Ok(None) => return,
            Err(CopyError::Read(SegmentError::Io(error))) if is_gone(&error) => {
                return inner.catalog.refresh();
            }
            Err(CopyError::Write(error)) if is_gone(&error) => return inner.catalog.refresh(),
            Err(CopyError::Read(error)) => note(inner, error.fault(), error),
            Err(CopyError::Write(error)) => note(inner, Fault::of_write(&error), error),
        }
        for segment in &group {
            segment.unmergeable.store(true, Ordering::Relaxed);
        }
    }
}

/// Somebody else merged or removed them.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn note(inner: &Inner, fault: Fault, error: impl Display) {
    inner.catalog.faults.note(fault, &inner.catalog.dir, error);
}

/// Segments of about one size that together are no larger than a segment should be.
fn next_group(inner: &Inner) -> Option<Vec<Arc<Tracked>>> {
    let target = inner.config().segment_target();
    let mut small = inner.catalog.tracked();
    small.retain(|segment| {
        segment.bytes < target / LARGE_ENOUGH
            && segment.rows < MOST_ROWS as u64 / LARGE_ENOUGH
            && !segment.unmergeable.load(Ordering::Relaxed)
    });
    small.sort_by_key(|segment| (size_class(segment), segment.path.clone()));
    let class = small.chunk_by(|a, b| size_class(a) == size_class(b));
    let mut group = class
        .into_iter()
        .find(|class| class.len() >= TOO_MANY)?
        .to_vec();
    let (mut bytes, mut rows) = (target, MOST_ROWS as u64);
    group.retain(|segment| {
        let fits = segment.bytes <= bytes && segment.rows <= rows;
        if fits {
            bytes -= segment.bytes;
            rows -= segment.rows;
        }
        fits
    });
    Some(group)
}

/// Numbers sizes so that each class reaches eight times as far as the one before.
fn size_class(segment: &Tracked) -> u32 {
    segment.bytes.max(1).ilog2() / 3
}

/// Merges a group into one segment; `None` if it was no longer wanted.
fn merge(inner: &Inner, group: &[Arc<Tracked>]) -> Result<Option<()>, CopyError> {
    let epoch = inner.queue.epoch();
    let dir = inner.catalog.open_dir()?;
    let mut writer = SegmentWriter::create_in(dir.clone())?;
    let mut seen = HashSet::new();
    for source in group {
        copy(inner, &*dir, source, &mut writer, &mut seen)?;
    }
    let finished = writer.finish()?;
    // Merging is not reading: the result is as old as the newest of its parts.
    if let Some(read) = group.iter().map(|segment| segment.last_read()).max() {
        finished.file().set_modified(clock::as_system(read))?;
    }
    let current = || inner.queue.epoch() == epoch;
    Ok(inner.catalog.publish(finished, group, current)?.map(|_| ()))
}

/// Copies the sound records of a segment whose keys were not copied before.
fn copy(
    inner: &Inner,
    dir: &dyn Directory,
    source: &Tracked,
    writer: &mut SegmentWriter,
    seen: &mut HashSet<[u8; 32]>,
) -> Result<(), CopyError> {
    let reader = inner.catalog.open_segment(dir, source.name())?;
    let accept = |row: &Row, _: &RowGroup, _: &[u8]| {
        inner.queue.gets_on();
        Ok(seen.insert(row.key))
    };
    copy_records(&reader, writer, accept, |error| {
        inner.queue.gets_on();
        let faults = &inner.catalog.faults;
        faults.note(error.fault(), &source.path, error);
    })
}
