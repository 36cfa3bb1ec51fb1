//! Joins small segments, so that rows that trickle in do not become thousands of files.
//!
//! Eight or more segments of about one size (within a factor of eight) are joined at a time, so each
//! row is copied once per such step and not for every new row. Records are copied as they are stored
//! and checked. The sources are removed only after the new segment has its name, so every row is in
//! some file at all times.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use crate::catalog::live_segment::LiveSegment;
use crate::clock;
use crate::fault::Fault;
use crate::fs::Directory;
use crate::key::Key;
use crate::progress;
use crate::segment::{
    CopyError, MOST_ROWS, RowEntry, RowGroup, SegmentError, SegmentWriter, copy_records,
};

/// So many segments of about one size are joined.
const GROUP_LEN: usize = 8;

/// A segment of at least this fraction of the target size, or of the most rows, is not joined.
const LARGE_FRACTION: u64 = 4;

/// Joins segments until there is no group to be joined. What failed is tried again at a later turn. Returns whether
/// any were joined.
pub(crate) fn compact(engine: &Engine) -> bool {
    let before = engine.counters.compacted_segments.load(Ordering::Relaxed);
    join_groups(engine);
    engine.counters.compacted_segments.load(Ordering::Relaxed) > before
}

fn join_groups(engine: &Engine) {
    for segment in engine.catalog.live_segments() {
        segment.compaction.next_turn();
    }
    let compacted = &engine.counters.compacted_segments;
    match engine.catalog.finish_replacement() {
        Ok(joined) => drop(compacted.fetch_add(joined, Ordering::Relaxed)),
        Err(error) => return engine.note(Fault::from_write_error(&error), error),
    }
    while let Some(group) = next_group(engine) {
        match join(engine, &group) {
            Ok(true) => {
                compacted.fetch_add(group.len() as u64, Ordering::Relaxed);
                continue;
            }
            // Another process joined or cleared them. The next compaction sees its result.
            Ok(false) => return,
            Err(CopyError::Read(error)) if error.is_not_found() => return engine.catalog.refresh(),
            Err(CopyError::Write(error)) if error.kind() == io::ErrorKind::NotFound => {
                return engine.catalog.refresh();
            }
            // The others are joined without it.
            Err(CopyError::Read(error)) => engine.note(error.fault(), error),
            Err(CopyError::Write(error)) => {
                // A process that looks at the new file has its lock for a moment, or one that removed other segments
                // removed it.
                if error.kind() != io::ErrorKind::WouldBlock {
                    engine.note(Fault::from_write_error(&error), error);
                }
                group.iter().for_each(|segment| segment.compaction.pause());
            }
        }
    }
}

/// Segments of about one size that together fit into one segment.
fn next_group(engine: &Engine) -> Option<Vec<Arc<LiveSegment>>> {
    let target = engine.config().target_segment_bytes();
    let mut small = engine.catalog.live_segments();
    let scan = engine.catalog.scan();
    if scan.unsynced_result.is_some() {
        return None;
    }
    small.retain(|segment| {
        !scan.unremovable.contains_key(segment.name())
            && segment.bytes < target / LARGE_FRACTION
            && segment.rows < MOST_ROWS as u64 / LARGE_FRACTION
            && segment.compaction.is_due()
    });
    drop(scan);
    small.sort_by_key(|segment| (size_class(segment), segment.path.clone()));
    let classes = small.chunk_by(|a, b| size_class(a) == size_class(b));
    let mut classes = classes.filter(|class| class.len() >= GROUP_LEN).peekable();
    classes.peek()?;
    let dir = engine.catalog.open_dir();
    let dir = dir.map_err(|error| engine.note(Fault::Read, error)).ok()?;
    classes.find_map(|class| {
        let mut group = class.to_vec();
        // In a result of this process, the rows of one that is locked would count next to those of its sources.
        group.retain(|segment| !segment.look_at_lock(&*dir));
        if group.len() < GROUP_LEN {
            return None;
        }
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
    })
}

/// Each size class spans a factor of eight.
fn size_class(segment: &LiveSegment) -> u32 {
    segment.bytes.max(1).ilog2() / 3
}

/// Joins a group into one segment. Returns whether its result is in use.
fn join(engine: &Engine, group: &[Arc<LiveSegment>]) -> Result<bool, CopyError> {
    let mut copied = HashSet::new();
    replace(engine, group, |key| copied.insert(*key))
}

/// Replaces segments by one with those of their sound records whose keys are accepted. Returns whether that is in use.
pub(super) fn replace(
    engine: &Engine,
    sources: &[Arc<LiveSegment>],
    mut accept: impl FnMut(&Key) -> bool,
) -> Result<bool, CopyError> {
    let clears = engine.queue.clears();
    let dir = engine.catalog.open_dir()?;
    let mut writer = SegmentWriter::create_replacement(dir.clone())?;
    for source in sources {
        copy(engine, &*dir, source, &mut writer, &mut accept).inspect_err(|error| match error {
            CopyError::Read(SegmentError::Io(_)) => source.compaction.pause(),
            CopyError::Read(_) => source.compaction.give_up(),
            CopyError::Write(_) => {}
        })?;
    }
    let finished = writer.finish()?;
    // Copying is not reading: the result was last read when the newest of its sources was.
    if let Some(read) = sources.iter().map(|segment| segment.last_read()).max() {
        finished.file().set_modified(clock::as_system(read))?;
    }
    let is_wanted = || engine.queue.clears() == clears;
    Ok(engine.catalog.publish(finished, sources, is_wanted)?)
}

/// Copies the sound records of a segment whose keys are accepted.
fn copy(
    engine: &Engine,
    dir: &dyn Directory,
    source: &LiveSegment,
    writer: &mut SegmentWriter,
    accept: &mut impl FnMut(&Key) -> bool,
) -> Result<(), CopyError> {
    let reader = engine.catalog.open_segment(dir, source.name())?;
    let accept = |row: &RowEntry, _: &RowGroup, _: &[u8]| {
        progress::note();
        Ok(accept(&row.key))
    };
    copy_records(&reader, writer, accept, |error| {
        progress::note();
        let faults = &engine.catalog.faults;
        faults.note(error.fault(), &source.path, error);
    })
}
