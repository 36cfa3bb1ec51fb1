//! Checks every record of every segment: its checksum, and that a compressed value decompresses. Runs
//! on all cores, with one segment on each.

use std::io;

use super::discover::{Cache, Found, open, read_segments};
use crate::descriptors::are_exhausted;
use crate::fs::Directory;
use crate::fs::temp_file::stale_names;
use crate::segment::{Decoder, SegmentError};

/// Receives the progress of a check. `()` ignores it.
pub trait CheckProgress: Sync {
    /// Called when `bytes` more have been found that need a check.
    fn expect(&self, bytes: u64);

    /// Called when `bytes` more have been checked.
    fn advance(&self, bytes: u64);
}

impl CheckProgress for () {
    fn expect(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}

/// The result of checking a cache.
#[derive(Debug)]
pub struct CheckReport {
    /// The cache.
    pub cache: Cache,
    /// Its segments, by name, without those that other processes removed meanwhile.
    pub segments: Vec<SegmentCheck>,
    /// Temporary files of crashed writers.
    pub stale_files: Vec<String>,
    /// Why the directory could not be read.
    pub error: Option<io::Error>,
}

/// The result of checking a segment.
#[derive(Debug)]
pub struct SegmentCheck {
    /// The file name.
    pub name: String,
    /// The size of the file; 0 if the system does not say.
    pub bytes: u64,
    /// The state of its records.
    pub state: SegmentState,
}

/// The state of a segment.
#[derive(Debug)]
pub enum SegmentState {
    /// Every record is as it was written.
    Intact {
        /// The number of records.
        rows: u64,
    },
    /// Some records are not as they were written.
    Corrupt {
        /// The number of all records.
        rows: u64,
        /// The number of corrupt records.
        corrupt: u64,
        /// The index of the first corrupt record.
        first_index: u64,
        /// The error of the first corrupt record.
        first_error: SegmentError,
    },
    /// The file as a whole cannot be read, so its rows are not known.
    NotRead(SegmentError),
}

impl SegmentState {
    /// Whether bytes are not as they were written. A failed read, a rejected file and a newer version
    /// are not corruption.
    pub fn is_corrupt(&self) -> bool {
        match self {
            SegmentState::Intact { .. } => false,
            SegmentState::Corrupt { .. } => true,
            SegmentState::NotRead(error) => error.is_corruption(),
        }
    }

    /// Whether reading failed, so that the state of the records is not known.
    pub fn is_unknown(&self) -> bool {
        matches!(self, SegmentState::NotRead(SegmentError::Io(_)))
    }
}

impl CheckReport {
    /// Whether the directory could be read and no segment is corrupt.
    pub fn is_intact(&self) -> bool {
        let is_corrupt = |segment: &SegmentCheck| segment.state.is_corrupt();
        self.error.is_none() && !self.segments.iter().any(is_corrupt)
    }
}

/// Checks every record of `caches`. A segment of a newer version, or one whose permissions are rejected,
/// is reported as [`SegmentState::NotRead`] and does not count as corrupt.
pub fn check(caches: &[Cache], progress: &dyn CheckProgress) -> Vec<CheckReport> {
    let mut reports = Vec::new();
    for cache in caches {
        let mut report = CheckReport {
            cache: cache.clone(),
            segments: Vec::new(),
            stale_files: Vec::new(),
            error: None,
        };
        if let Err(error) = check_cache(cache, &mut report, progress)
            && error.kind() != io::ErrorKind::NotFound
        {
            report.error = Some(error);
        }
        reports.push(report);
    }
    reports
}

fn check_cache(
    cache: &Cache,
    report: &mut CheckReport,
    progress: &dyn CheckProgress,
) -> io::Result<()> {
    let dir = cache.open()?;
    let expect = |bytes| progress.expect(bytes);
    let segments = read_segments(&*dir, expect, |name, file| {
        let mut checked = 0;
        let result = check_segment(&*dir, name, |bytes| {
            checked += bytes;
            progress.advance(bytes);
        });
        // Header, footer, and what was not read after an error.
        progress.advance(file.len.saturating_sub(checked));
        result
    })?;
    for (name, found) in segments {
        let (bytes, state) = match found {
            Ok(Found { file, contents }) => (file.len, contents),
            Err(error) => (0, Err(SegmentError::Io(error))),
        };
        let state = state.unwrap_or_else(SegmentState::NotRead);
        report.segments.push(SegmentCheck { name, bytes, state });
    }
    report.stale_files = stale_names(&*dir, |_, error| match are_exhausted(&error) {
        true => Err(error),
        false => Ok(()),
    })?;
    Ok(())
}

/// Checks every record of a segment, and calls `advance` with the bytes of those that were checked.
fn check_segment(
    dir: &dyn Directory,
    name: &str,
    mut advance: impl FnMut(u64),
) -> Result<SegmentState, SegmentError> {
    let reader = open(dir, name)?;
    let rows = reader.row_count();
    let mut corrupt = 0;
    let mut first = None;
    let (mut window, mut decoder) = (Vec::new(), Decoder::default());
    for chunk in reader.chunks() {
        let chunk = chunk?;
        reader.read_records(&chunk, &mut window, |record| {
            let check = |stored| decoder.check(record.row, record.group, stored);
            match record.stored.and_then(check) {
                Ok(()) => {}
                Err(error @ SegmentError::Io(_)) => return Err(error),
                Err(error) => {
                    corrupt += 1;
                    first.get_or_insert((record.number, error));
                }
            }
            Ok(())
        })?;
        advance(chunk.bytes());
    }
    Ok(match first {
        None => SegmentState::Intact { rows },
        Some((first_index, first_error)) => SegmentState::Corrupt {
            rows,
            corrupt,
            first_index,
            first_error,
        },
    })
}
