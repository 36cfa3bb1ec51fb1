//! Which files of a cache directory are segments, by their names.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ends::Ends;
use super::error::SegmentError;
use crate::fs::temp_file::{SUFFIX, is_replacement, is_unique};
use crate::fs::{Directory, file_names};

/// How often a directory is listed, at most, while it changes.
pub(crate) const MAX_LISTINGS: usize = 64;

/// No compaction is under way in a directory that did not change for this long: a compaction syncs the
/// directory between publishing its result and removing the sources.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// How long to wait for directories to settle: longer than that takes with times of even seconds.
pub(crate) const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The time between two listings meanwhile.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Whether no compaction is under way in a directory that changed at this time. During one, rows are counted
/// in the result and in the sources. The change may have come a step of the clock later than its time, and so may
/// another one.
pub(crate) fn is_settled(changed: SystemTime) -> bool {
    // Time stands still in a model checker.
    let least = match cfg!(shuttle) {
        true => Duration::ZERO,
        false => SETTLED_AFTER + clock_step(changed),
    };
    changed.elapsed().is_ok_and(|age| age > least)
}

/// Whether a file name is that of a segment: it ends in `.tcs`, does not begin with a dot, and
/// consists of ASCII letters, digits, `-`, `_` and `.`.
pub(crate) fn is_segment(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.ends_with(SUFFIX) && !name.starts_with('.') && name.bytes().all(is_allowed)
}

/// Whether a file that [`visit_with_replacements`] lists belongs to another program: torchcache gives no such name, and
/// the file is no whole segment: its header, its trailer or the checksum of its footer is wrong.
pub(crate) fn is_foreign(dir: &dyn Directory, name: &str) -> io::Result<bool> {
    if is_unique(name) || is_replacement(name) {
        return Ok(false);
    }
    let file = dir.open(name.as_ref())?;
    let ends = Ends::read(&*file, file.metadata()?.len);
    match ends.and_then(|ends| ends.check_in_pieces(&*file)) {
        Ok(()) => Ok(false),
        Err(SegmentError::Io(error)) => Err(error),
        Err(_) => Ok(true),
    }
}

/// The names of all segments in a directory, in no particular order.
pub(crate) fn segment_names(dir: &dyn Directory) -> io::Result<Vec<String>> {
    file_names(dir, is_segment)
}

/// The segments that a directory had at about one moment. Where another process publishes the result of a
/// compaction meanwhile, a listing may lack both the result and a source.
#[derive(Debug, Default)]
pub(crate) struct SegmentListing {
    /// In the order of their age, for the names that torchcache gives.
    pub(crate) names: BTreeSet<String>,
    /// The directory's time, if it did not change during the listing and any later change gives it
    /// another one.
    pub(crate) time: Option<SystemTime>,
}

/// Lists the segments of a directory once.
pub(crate) fn list_segments(dir: &dyn Directory) -> io::Result<SegmentListing> {
    list(dir, is_segment)
}

fn list(dir: &dyn Directory, is_wanted: fn(&str) -> bool) -> io::Result<SegmentListing> {
    let time = dir.metadata()?.modified;
    let is_settled = time.elapsed().is_ok_and(|age| age > clock_step(time));
    let names = file_names(dir, is_wanted)?.into_iter().collect();
    let is_same = is_settled && dir.metadata().is_ok_and(|dir| dir.modified == time);
    Ok(SegmentListing {
        names,
        time: is_same.then_some(time),
    })
}

/// A file's or directory's time is from a coarse clock: a change that comes so soon after another one may
/// carry the same time.
pub(crate) fn clock_step(time: SystemTime) -> Duration {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    match since.subsec_nanos() {
        0 => Duration::from_secs(2), // FAT and others have no fractions of seconds
        _ => Duration::from_millis(50),
    }
}

/// Lists the segments of a directory until two listings are the same. `visit` gets the names that the
/// listing before did not have. Returns the last listing.
pub(crate) fn visit_segments(
    dir: &dyn Directory,
    visit: impl FnMut(Vec<String>),
) -> io::Result<BTreeSet<String>> {
    visit_files(dir, is_segment, visit)
}

/// The same with the files that are about to replace segments.
pub(crate) fn visit_with_replacements(
    dir: &dyn Directory,
    visit: impl FnMut(Vec<String>),
) -> io::Result<BTreeSet<String>> {
    visit_files(dir, |name| is_segment(name) || is_replacement(name), visit)
}

fn visit_files(
    dir: &dyn Directory,
    is_wanted: fn(&str) -> bool,
    mut visit: impl FnMut(Vec<String>),
) -> io::Result<BTreeSet<String>> {
    let mut last: Option<BTreeSet<String>> = None;
    for _ in 0..MAX_LISTINGS {
        let SegmentListing { names, time } = list(dir, is_wanted)?;
        let is_new = |name: &&String| last.as_ref().is_none_or(|last| !last.contains(*name));
        let new: Vec<String> = names.iter().filter(is_new).cloned().collect();
        let is_complete = last.as_ref() == Some(&names) || names.is_empty() && time.is_some();
        last = Some(names);
        if is_complete {
            break;
        }
        visit(new);
    }
    Ok(last.unwrap_or_default())
}
