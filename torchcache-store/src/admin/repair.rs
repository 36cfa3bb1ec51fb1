//! Taking out what is bad: a segment with bad records is written anew without them, and one that
//! cannot be read at all goes. Every row that is sound is at every moment in some file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::check::{Outcome, SegmentReport, Verified};
use super::clear::{remove, remove_stale};
use super::discover::open_trusted;
use crate::clock;
use crate::fs::Directory;
use crate::fs::temp_file::is_recent;
use crate::segment::{
    CopyError, Decoder, FinishedSegment, Row, RowGroup, SegmentError, SegmentWriter, copy_records,
};

/// What was done about one cache.
#[derive(Debug)]
pub struct Repairs {
    /// For each damaged segment, by its name: what was done, or why nothing was.
    pub segments: Vec<(String, io::Result<Repaired>)>,
    /// Temporary files of dead writers that were removed.
    pub stale: Vec<String>,
    /// Why there was no more to be done.
    pub error: Option<io::Error>,
}

/// What was done about a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// Its sound records are in a new segment.
    Rewritten {
        /// What that is called.
        to: String,
        /// Rows that it has.
        kept: u64,
        /// Rows that are lost.
        lost: u64,
    },
    /// Nothing in it was sound, so it was removed.
    Removed {
        /// Rows that are lost, where that is known.
        lost: Option<u64>,
    },
    /// It cannot be read, but was written to within the last minute: somebody may be copying it here,
    /// so it was left alone.
    Recent,
    /// Others removed or replaced it meanwhile, or it is sound after all.
    Superseded,
}

/// Repairs what was found in a cache. What cannot be read because the system fails, and what a newer
/// version or a stranger wrote, is left alone.
pub fn repair(found: &Verified) -> Repairs {
    let mut repairs = Repairs {
        segments: Vec::new(),
        stale: Vec::new(),
        error: None,
    };
    let mut all = || {
        let dir = found.cache.open()?;
        for segment in found
            .segments
            .iter()
            .filter(|it| it.outcome.is_corruption())
        {
            let done = repair_one(&dir, segment);
            repairs.segments.push((segment.name.clone(), done));
        }
        repairs.stale = remove_stale(&*dir)?;
        dir.sync()
    };
    repairs.error = all().err();
    repairs
}

fn repair_one(dir: &Arc<dyn Directory>, segment: &SegmentReport) -> io::Result<Repaired> {
    let name = OsString::from(&segment.name);
    match rewritten(dir, &name) {
        Ok(Rewriting { lost: 0, .. }) => Ok(Repaired::Superseded),
        Ok(Rewriting { kept: 0, lost, .. }) => {
            remove(&**dir, &name)?;
            Ok(Repaired::Removed { lost: Some(lost) })
        }
        Ok(rewriting) => replace(&**dir, &name, rewriting),
        Err(CopyError::Read(error)) if error.is_not_found() => Ok(Repaired::Superseded),
        Err(CopyError::Read(error)) if error.is_corruption() => {
            match dir.stat(&name) {
                // Perhaps somebody is copying it here right now.
                Ok(file) if is_recent(file.modified) => return Ok(Repaired::Recent),
                // It is not the one that was found bad.
                Ok(file) if file.len != segment.bytes => return Ok(Repaired::Superseded),
                _ => {}
            }
            let lost = match &segment.outcome {
                Outcome::Damaged { rows, .. } => Some(*rows),
                _ => None,
            };
            remove(&**dir, &name)?;
            Ok(Repaired::Removed { lost })
        }
        Err(CopyError::Read(SegmentError::Io(error)) | CopyError::Write(error)) => Err(error),
        Err(CopyError::Read(error)) => Err(io::Error::other(error)),
    }
}

/// A segment without its bad records, before it has its name.
struct Rewriting {
    finished: FinishedSegment,
    kept: u64,
    lost: u64,
}

/// Copies the sound records of a segment into a new one.
fn rewritten(dir: &Arc<dyn Directory>, name: &OsStr) -> Result<Rewriting, CopyError> {
    let reader = open_trusted(&**dir, name)?;
    let mut writer = SegmentWriter::create_in(dir.clone())?;
    let mut decoder = Decoder::default();
    let mut lost = 0;
    let accept = |row: &Row, group: &RowGroup, stored: &[u8]| {
        decoder.check(row, group, stored)?;
        Ok(true)
    };
    copy_records(&reader, &mut writer, accept, |_| lost += 1)?;
    let finished = writer.finish()?;
    // Repairing is not reading: the rows keep their age.
    let read = clock::past_or_now(reader.metadata().modified);
    finished.file().set_modified(clock::as_system(read))?;
    Ok(Rewriting {
        kept: finished.footer().row_count() as u64,
        finished,
        lost,
    })
}

/// Gives a rewritten segment its name, and removes the one that it replaces.
fn replace(dir: &dyn Directory, name: &OsStr, rewriting: Rewriting) -> io::Result<Repaired> {
    let Rewriting {
        finished,
        kept,
        lost,
    } = rewriting;
    let Some((path, _)) = finished.publish_replacing([name])? else {
        return Ok(Repaired::Superseded);
    };
    let to = path.file_name().unwrap_or_default();
    remove(dir, name)?;
    Ok(Repaired::Rewritten {
        to: to.to_string_lossy().into_owned(),
        kept,
        lost,
    })
}
