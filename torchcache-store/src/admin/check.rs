//! Checks every record of every segment: its checksum, and that a compressed value decompresses. Runs
//! on all cores.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::discover::{Cache, open_permitted};
use crate::fs::Directory;
use crate::fs::temp_file::stale_names;
use crate::segment::{Chunk, Chunks, Decoder, SegmentError, SegmentReader, segment_names};
use crate::size::sum;
use crate::threads;

/// How often a directory is listed again, at most, while segments vanish from it.
const MAX_LISTINGS: usize = 16;

/// Receives the progress of a check. `()` ignores it.
pub trait Progress: Sync {
    /// Called when `bytes` more have been found that need a check.
    fn expect(&self, bytes: u64);

    /// Called when `bytes` more have been checked.
    fn advance(&self, bytes: u64);
}

impl Progress for () {
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
    Unreadable(SegmentError),
}

impl SegmentState {
    /// Whether bytes are not as they were written. A failed read, a rejected file and a newer version
    /// are not corruption.
    pub fn is_corrupt(&self) -> bool {
        match self {
            SegmentState::Intact { .. } => false,
            SegmentState::Corrupt { .. } => true,
            SegmentState::Unreadable(error) => error.is_corruption(),
        }
    }

    /// Whether reading failed, so that the state of the records is not known.
    pub fn is_unknown(&self) -> bool {
        matches!(self, SegmentState::Unreadable(SegmentError::Io(_)))
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
/// is reported as [`SegmentState::Unreadable`] and does not count as corrupt.
pub fn check(caches: &[Cache], progress: &dyn Progress) -> Vec<CheckReport> {
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
        report.segments.sort_by(|a, b| a.name.cmp(&b.name));
        reports.push(report);
    }
    reports
}

fn check_cache(cache: &Cache, report: &mut CheckReport, progress: &dyn Progress) -> io::Result<()> {
    let dir = cache.open()?;
    let mut seen = HashSet::new();
    // A segment that vanished may have been compacted into one that was not listed yet.
    for _ in 0..MAX_LISTINGS {
        let mut names = segment_names(&*dir)?;
        names.retain(|name| seen.insert(name.clone()));
        names.sort();
        let listed = names.len();
        let found = check_segments(&*dir, names, progress);
        let vanished = listed - found.len();
        report.segments.extend(found);
        if vanished == 0 {
            break;
        }
    }
    report.stale_files = stale_names(&*dir)?;
    Ok(())
}

/// Checks segments on all cores. The result leaves out those that are gone.
fn check_segments(
    dir: &dyn Directory,
    names: Vec<String>,
    progress: &dyn Progress,
) -> Vec<SegmentCheck> {
    let mut files = Vec::new();
    let mut unknown = Vec::new();
    for name in names {
        match dir.stat(name.as_ref()) {
            Ok(file) => files.push((file.len, name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unknown.push(SegmentCheck {
                name,
                bytes: 0,
                state: SegmentState::Unreadable(SegmentError::Io(error)),
            }),
        }
    }
    progress.expect(sum(files.iter().map(|(bytes, _)| *bytes)));
    let slots: Vec<Slot> = files.iter().map(|_| Slot::default()).collect();
    let jobs = Jobs {
        dir,
        files: &files,
        slots: &slots,
        progress,
        next: 0,
        open: None,
    };
    threads::for_each(threads::count(), jobs, |job| {
        let result = Tally::of_chunk(&job.reader, &job.chunk);
        progress.advance(job.chunk.bytes());
        slots[job.segment].add(result);
    });
    let reports = files.into_iter().zip(slots);
    let reports = reports.filter_map(|((bytes, name), Slot(tally))| {
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        let state = tally?.into_state();
        Some(SegmentCheck { name, bytes, state })
    });
    reports.chain(unknown).collect()
}

/// The result for a segment so far: `None` until it is open, and if it is gone.
#[derive(Default)]
struct Slot(Mutex<Option<Tally>>);

impl Slot {
    fn add(&self, more: Tally) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert_default().add(more);
    }
}

/// A chunk of records for one worker to check.
struct Job {
    segment: usize,
    reader: Arc<SegmentReader>,
    chunk: Chunk,
}

/// Opens one segment after another, and yields its chunks.
struct Jobs<'a> {
    dir: &'a dyn Directory,
    files: &'a [(u64, String)],
    slots: &'a [Slot],
    progress: &'a dyn Progress,
    /// The index of the next file to open.
    next: usize,
    open: Option<(Arc<SegmentReader>, Chunks<Arc<SegmentReader>>)>,
}

impl Iterator for Jobs<'_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        loop {
            if let Some((reader, chunks)) = &mut self.open {
                let segment = self.next - 1;
                match chunks.next() {
                    Some(Ok(chunk)) => {
                        let reader = reader.clone();
                        return Some(Job {
                            segment,
                            reader,
                            chunk,
                        });
                    }
                    Some(Err(error)) => self.slots[segment].add(Tally::failed(error)),
                    None => {}
                }
                self.open = None;
            }
            let (bytes, name) = self.files.get(self.next)?;
            let slot = &self.slots[self.next];
            self.next += 1;
            match open_permitted(self.dir, name) {
                Ok(reader) => {
                    let reader = Arc::new(reader);
                    slot.add(Tally::default());
                    self.progress
                        .advance(bytes.saturating_sub(reader.record_bytes()));
                    self.open = Some((reader.clone(), Chunks::new(reader)));
                }
                Err(error) => {
                    self.progress.advance(*bytes);
                    if !error.is_not_found() {
                        slot.add(Tally::failed(error));
                    }
                }
            }
        }
    }
}

/// The result of checking a chunk, or several.
#[derive(Default)]
struct Tally {
    rows: u64,
    corrupt: u64,
    /// The index and the error of the first corrupt record.
    first: Option<(u64, SegmentError)>,
    /// The error that ended reading.
    failed: Option<SegmentError>,
}

impl Tally {
    fn failed(error: SegmentError) -> Tally {
        Tally {
            failed: Some(error),
            ..Tally::default()
        }
    }

    fn of_chunk(reader: &SegmentReader, chunk: &Chunk) -> Tally {
        let mut tally = Tally::default();
        let (mut window, mut decoder) = (Vec::new(), Decoder::default());
        let read = reader.read_records(chunk, &mut window, |record| {
            tally.rows += 1;
            let check = |stored| decoder.check(record.row, record.group, stored);
            match record.stored.and_then(check) {
                Ok(()) => Ok(()),
                Err(error @ SegmentError::Io(_)) => Err(error),
                Err(error) => {
                    tally.corrupt += 1;
                    tally.first.get_or_insert((record.number, error));
                    Ok(())
                }
            }
        });
        tally.failed = read.err();
        tally
    }

    fn add(&mut self, more: Tally) {
        self.rows += more.rows;
        self.corrupt += more.corrupt;
        // Chunks arrive in any order.
        let first = [self.first.take(), more.first].into_iter().flatten();
        self.first = first.min_by_key(|(index, _)| *index);
        self.failed = self.failed.take().or(more.failed);
    }

    fn into_state(self) -> SegmentState {
        match (self.failed, self.first) {
            (Some(error), _) => SegmentState::Unreadable(error),
            (None, None) => SegmentState::Intact { rows: self.rows },
            (None, Some((first_index, first_error))) => SegmentState::Corrupt {
                rows: self.rows,
                corrupt: self.corrupt,
                first_index,
                first_error,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_corrupt_record_does_not_depend_on_chunk_order() {
        let result = |index| Tally {
            rows: 10,
            corrupt: 1,
            first: Some((index, SegmentError::Corrupt(index.to_string()))),
            failed: None,
        };
        for order in [[3, 17, 20], [20, 3, 17], [17, 20, 3]] {
            let mut tally = Tally::default();
            order.into_iter().for_each(|index| tally.add(result(index)));
            tally.add(Tally::default());
            let state = tally.into_state();
            let SegmentState::Corrupt {
                rows,
                corrupt,
                first_index,
                first_error,
            } = state
            else {
                panic!("{state:?}")
            };
            assert_eq!((rows, corrupt, first_index), (30, 3, 3));
            assert!(matches!(first_error, SegmentError::Corrupt(what) if what == "3"));
        }
    }
}
