//! Removes rows from the disk: each segment that has any of them is replaced by a copy without them, as by a
//! compaction. Its row table says whether it has, since the index lacks rows of shadowed segments, and those that could
//! not be read at some time.
//!
//! Other processes may copy these rows meanwhile: a compaction whose sources had them. So the directory is listed again
//! after the last segment was replaced, and the files of compactions under way are removed, as by a process that clears
//! the directory.

use std::collections::HashSet;
use std::io;
use std::slice::from_ref;
use std::sync::Arc;

use super::Engine;
use super::compaction::replace;
use crate::catalog::live_segment::LiveSegment;
use crate::fs::permissions;
use crate::key::Key;
use crate::progress;
use crate::segment::{CopyError, MAX_LISTINGS, POLL_INTERVAL};
use crate::sync::thread;

/// Removes the rows of these keys from every segment that has its name. They do not come back after a crash or a power
/// loss.
pub(crate) fn remove(engine: &Engine, keys: &HashSet<Key>) -> io::Result<()> {
    let catalog = &engine.catalog;
    // The segments without these rows, and the names of those that were replaced.
    let (mut clean, mut replaced) = (HashSet::new(), HashSet::new());
    let mut last_cause = None;
    for _ in 0..MAX_LISTINGS {
        catalog.finish_replacement()?;
        catalog.refresh_fully()?;
        let mut segments = catalog.live_segments();
        segments.retain(|segment| !clean.contains(&segment.id));
        let mut are_clean = true;
        for segment in segments {
            are_clean &= match remove_from(engine, &segment, keys, &mut replaced) {
                Ok(false) => clean.insert(segment.id),
                Ok(true) => false,
                Err(error) if is_of_another_process(&error) => {
                    last_cause = Some(error.in_segment(segment.name()));
                    thread::sleep(POLL_INTERVAL);
                    false
                }
                Err(error) => return Err(error.in_segment(segment.name())),
            };
        }
        if are_clean && catalog.remove_replacements(&clean)? {
            return Ok(());
        }
    }
    let what = "other processes keep replacing its segments; try again later";
    Err(io::Error::other(match last_cause {
        Some(cause) => format!("{what}: {cause}"),
        None => what.to_owned(),
    }))
}

/// Whether another process removed or replaced the segment, or removed the file that was to replace it.
fn is_of_another_process(error: &CopyError) -> bool {
    use io::ErrorKind::{NotFound, WouldBlock};
    match error {
        CopyError::Read(error) => error.is_not_found(),
        CopyError::Write(error) => matches!(error.kind(), NotFound | WouldBlock),
    }
}

/// Replaces a segment by one without these rows. Returns whether it had any. Of a segment whose file could not be
/// removed, only those of the other rows are copied that no later segment has: an earlier attempt copied them.
fn remove_from(
    engine: &Engine,
    segment: &Arc<LiveSegment>,
    keys: &HashSet<Key>,
    replaced: &mut HashSet<String>,
) -> Result<bool, CopyError> {
    progress::note();
    let catalog = &engine.catalog;
    let dir = catalog.open_dir()?;
    let reader = catalog.open_segment(&*dir, segment.name())?;
    let mut rows = reader.rows();
    if !rows.try_fold(false, |has, row| {
        row.map(|row| has || keys.contains(&row.key))
    })? {
        return Ok(false);
    }
    let name = segment.name().to_owned();
    let failure = catalog.scan().unremovable.get(&name).copied();
    // Another copy would not help.
    if replaced.contains(&name) || !permissions::may_remove(reader.metadata(), &dir.metadata()?) {
        let error = io::Error::from(failure.unwrap_or(io::ErrorKind::PermissionDenied));
        let what = format!("it has such rows and cannot be removed: {error}");
        return Err(CopyError::Write(io::Error::new(error.kind(), what)));
    }
    let copied = match failure {
        Some(_) => {
            let others = reader.rows().filter_map(|row| Some(row.ok()?.key));
            let others: Vec<Key> = others.filter(|key| !keys.contains(key)).collect();
            catalog.in_later_segments(segment, &others)?
        }
        None => HashSet::new(),
    };
    let is_kept = |key: &Key| !keys.contains(key) && !copied.contains(key);
    if replace(engine, from_ref(segment), is_kept)? {
        replaced.insert(name);
    }
    Ok(true)
}
