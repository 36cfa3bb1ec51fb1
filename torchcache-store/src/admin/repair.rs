//! Taking out what is bad: a segment with bad records is written anew without them, and one that
//! cannot be read at all goes. Every row that is sound is at every moment in some file.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::check::{Outcome, SegmentReport, Verified};
use super::clear::{remove, remove_stale};
use super::discover::open_trusted;
use crate::clock;
use crate::fs::Directory;
use crate::fs::temp_file::is_recent;
use crate::segment::{Decoder, FinishedSegment, SegmentError, SegmentWriter};

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
        Err(Failed::Source(error)) if error.is_not_found() => Ok(Repaired::Superseded),
        Err(Failed::Source(error)) if error.is_corruption() => {
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
        Err(Failed::Source(SegmentError::Io(error)) | Failed::Target(error)) => Err(error),
        Err(Failed::Source(error)) => Err(io::Error::other(error)),
    }
}

/// A segment without its bad records, before it has its name.
struct Rewriting {
    finished: FinishedSegment,
    kept: u64,
    lost: u64,
}

/// On which side a rewriting failed.
enum Failed {
    Source(SegmentError),
    Target(io::Error),
}

impl From<SegmentError> for Failed {
    fn from(error: SegmentError) -> Self {
        Failed::Source(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Target(error)
    }
}

fn rewritten(dir: &Arc<dyn Directory>, name: &OsStr) -> Result<Rewriting, Failed> {
    let table = open_trusted(&**dir, name)?;
    let mut writer = SegmentWriter::create_in(dir.clone())?;
    let (mut kept, mut lost) = (0, 0);
    let (mut window, mut decoder) = (Vec::new(), Decoder::default());
    for chunk in table.chunks() {
        table.read(&chunk?, &mut window, |_, (row, group, stored)| {
            let sound = stored.and_then(|stored| {
                decoder.check(&row, group, stored)?;
                Ok(stored)
            });
            match sound {
                Ok(stored) => {
                    kept += 1;
                    writer.push(&row.key, &group.schema, group.raw_len, row.encoding, stored)?;
                }
                // It may pass, and then the row is sound.
                Err(error @ SegmentError::Io(_)) => return Err(Failed::from(error)),
                Err(_) => lost += 1,
            }
            Ok(())
        })?;
    }
    let finished = writer.finish()?;
    // Repairing is not reading: the rows are as old as they were.
    let read = clock::found(table.metadata().modified);
    finished.file().set_modified(clock::as_system(read))?;
    Ok(Rewriting {
        finished,
        kept,
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
    let path = finished.publish()?;
    let to = path.file_name().unwrap_or_default();
    // As after a merge: if another process removed the source meanwhile, its work stands. Names may
    // reach the medium in any order, so the new one has to before the old one goes.
    if let Err(error) = dir.stat(name).and_then(|_| dir.sync()) {
        remove(dir, to)?;
        return match error.kind() {
            ErrorKind::NotFound => Ok(Repaired::Superseded),
            _ => Err(error),
        };
    }
    remove(dir, name)?;
    Ok(Repaired::Rewritten {
        to: to.to_string_lossy().into_owned(),
        kept,
        lost,
    })
}
