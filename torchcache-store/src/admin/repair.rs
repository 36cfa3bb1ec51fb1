//! Repairs segments: rewrites one with corrupt records without them, and removes one that cannot be read
//! at all. Every intact row is in some file at every moment.

use std::io;
use std::sync::Arc;

use super::check::{CheckReport, SegmentCheck, SegmentState};
use super::discover::{if_permitted, open};
use crate::clock;
use crate::fs::temp_file::{is_recent, remove_stale};
use crate::fs::{Directory, permissions, remove_if_present};
use crate::segment::{
    CopyError, Decoder, FinishedSegment, PublishedSegment, RowEntry, RowGroup, SegmentError,
    SegmentWriter, copy_records,
};

/// The result of repairing a cache.
#[derive(Debug)]
pub struct RepairReport {
    /// Each corrupt segment by its name, with what was done or why nothing was. Where another process removed other
    /// segments meanwhile, that may be [`io::ErrorKind::WouldBlock`]: repair it again.
    pub segments: Vec<(String, io::Result<SegmentRepair>)>,
    /// Temporary files of crashed writers that were removed.
    pub stale_files: Vec<String>,
    /// Why the repair ended early.
    pub error: Option<io::Error>,
}

/// What [`repair`] did with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentRepair {
    /// Its intact records are in a new segment, and it was removed.
    Rewritten {
        /// The name of the new segment.
        to: String,
        /// The number of rows in it.
        kept: u64,
        /// The number of rows that are lost.
        lost: u64,
    },
    /// It had no intact record, and was removed.
    Removed {
        /// The number of rows that are lost, if it is known.
        lost: Option<u64>,
    },
    /// It cannot be read, but was written to within the last minute, so it may be a copy under way. It was
    /// skipped.
    Recent,
    /// Another process removed or replaced it meanwhile, or it is intact after all.
    Superseded,
}

/// Repairs the corrupt segments of a report, and removes temporary files of crashed writers. Segments that
/// could not be read because the system failed, those of newer versions and those whose permissions are
/// rejected are skipped.
pub fn repair(checked: &CheckReport) -> RepairReport {
    let mut repairs = RepairReport {
        segments: Vec::new(),
        stale_files: Vec::new(),
        error: None,
    };
    let mut all = || {
        let dir = checked.cache.open()?;
        for segment in checked.segments.iter().filter(|it| it.state.is_corrupt()) {
            let done = repair_segment(&dir, segment);
            repairs.segments.push((segment.name.clone(), done));
        }
        repairs.stale_files = remove_stale(&*dir, |_, error| Err(error))?;
        dir.sync()
    };
    repairs.error = all().err();
    repairs
}

fn repair_segment(dir: &Arc<dyn Directory>, segment: &SegmentCheck) -> io::Result<SegmentRepair> {
    let name = segment.name.as_str();
    match rewrite(dir, name) {
        Ok(Rewriting { lost: 0, .. }) => Ok(SegmentRepair::Superseded),
        Ok(Rewriting { kept: 0, lost, .. }) => {
            remove_if_present(&**dir, name)?;
            Ok(SegmentRepair::Removed { lost: Some(lost) })
        }
        Ok(rewriting) => replace(&**dir, name, rewriting),
        Err(CopyError::Read(error)) if error.is_not_found() => Ok(SegmentRepair::Superseded),
        Err(CopyError::Read(error)) if error.is_corruption() => {
            match dir.stat(name.as_ref()) {
                // It may be a copy under way.
                Ok(file) if is_recent(file.modified) => return Ok(SegmentRepair::Recent),
                // It is not the file that was checked.
                Ok(file) if file.len != segment.bytes => return Ok(SegmentRepair::Superseded),
                _ => {}
            }
            let lost = match &segment.state {
                SegmentState::Corrupt { rows, .. } => Some(*rows),
                _ => None,
            };
            remove_if_present(&**dir, name)?;
            Ok(SegmentRepair::Removed { lost })
        }
        Err(CopyError::Read(SegmentError::Io(error)) | CopyError::Write(error)) => Err(error),
        Err(CopyError::Read(error)) => Err(io::Error::other(error)),
    }
}

/// A copy of a segment without its corrupt records, not published yet.
struct Rewriting {
    finished: FinishedSegment,
    kept: u64,
    lost: u64,
}

/// Copies the intact records of a segment into a new one.
fn rewrite(dir: &Arc<dyn Directory>, name: &str) -> Result<Rewriting, CopyError> {
    let mut writer = SegmentWriter::create_replacement(dir.clone())?;
    let file = dir.stat(name.as_ref()).map_err(SegmentError::Io)?;
    let reader = if_permitted(&**dir, name, &file, |name, _| open(&**dir, name))?;
    // Each repair would leave another copy.
    if !permissions::may_remove(&file, &dir.metadata()?) {
        let what =
            "its intact rows are not copied, since another user's file cannot be removed here";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what).into());
    }
    let mut decoder = Decoder::default();
    let mut lost = 0;
    let accept = |row: &RowEntry, group: &RowGroup, stored: &[u8]| {
        decoder.check(row, group, stored)?;
        Ok(true)
    };
    copy_records(&reader, &mut writer, accept, |_| lost += 1)?;
    let finished = writer.finish()?;
    // A repair does not count as a read.
    let read = clock::past_or_now(reader.metadata().modified);
    finished.file().set_modified(clock::as_system(read))?;
    Ok(Rewriting {
        kept: finished.footer().row_count() as u64,
        finished,
        lost,
    })
}

/// Publishes the copy, and removes the segment that it replaces.
fn replace(dir: &dyn Directory, name: &str, rewriting: Rewriting) -> io::Result<SegmentRepair> {
    let Rewriting {
        finished,
        kept,
        lost,
    } = rewriting;
    let published = finished.publish_replacing([name].into_iter())?;
    let Some(PublishedSegment { path, lock, .. }) = published else {
        return Ok(SegmentRepair::Superseded);
    };
    let to = path.file_name().unwrap_or_default();
    dir.sync()?;
    remove_if_present(dir, name)?;
    drop(lock);
    Ok(SegmentRepair::Rewritten {
        to: to.to_string_lossy().into_owned(),
        kept,
        lost,
    })
}
