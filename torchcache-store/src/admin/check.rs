//! Whether every record of every segment is what was written: each checksum is computed, and each
//! compressed value decompressed, over all cores.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::discover::{Cache, open_trusted, temp_names};
use crate::fs::Directory;
use crate::fs::temp_file::is_stale;
use crate::segment::{Chunk, Chunks, Decoder, SegmentError, SegmentReader, segment_names};
use crate::size::sum;
use crate::threads;

/// How often at most a directory is listed again whose segments vanish under the eyes.
const LOOKS: usize = 16;

/// Hears how far the work is. `()` does not listen.
pub trait Progress: Sync {
    /// There are so many bytes more to look at.
    fn expect(&self, bytes: u64);

    /// So many of them are done.
    fn advance(&self, bytes: u64);
}

impl Progress for () {
    fn expect(&self, _: u64) {}

    fn advance(&self, _: u64) {}
}

/// What was found in a cache.
#[derive(Debug)]
pub struct Verified {
    /// Which one.
    pub cache: Cache,
    /// Its segments, by name. Those that others removed meanwhile are left out.
    pub segments: Vec<SegmentReport>,
    /// Temporary files that dead writers left.
    pub stale: Vec<String>,
    /// Why the directory could not be looked into.
    pub error: Option<io::Error>,
}

/// What was found in a segment.
#[derive(Debug)]
pub struct SegmentReport {
    /// What the file is called.
    pub name: String,
    /// Its size; none where the system does not say.
    pub bytes: u64,
    /// How it is.
    pub outcome: Outcome,
}

/// How a segment is.
#[derive(Debug)]
pub enum Outcome {
    /// Every record is what was written.
    Sound {
        /// How many there are.
        rows: u64,
    },
    /// Some records are not.
    Damaged {
        /// All records.
        rows: u64,
        /// Those that are bad.
        bad: u64,
        /// The place of the first of them, from 0.
        first_at: u64,
        /// What is wrong with it.
        first: SegmentError,
    },
    /// The file as a whole cannot be read: its rows are not known.
    Unreadable(SegmentError),
}

impl Outcome {
    /// Whether bytes are not what was written.
    pub fn is_corruption(&self) -> bool {
        match self {
            Outcome::Sound { .. } => false,
            Outcome::Damaged { .. } => true,
            Outcome::Unreadable(error) => error.is_corruption(),
        }
    }

    /// Whether the system failed, so that it is not known how the segment is.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Outcome::Unreadable(SegmentError::Io(_)))
    }
}

impl Verified {
    /// Whether everything that could be looked at is as it was written.
    pub fn is_sound(&self) -> bool {
        let damaged = |segment: &SegmentReport| segment.outcome.is_corruption();
        self.error.is_none() && !self.segments.iter().any(damaged)
    }
}

/// Reads every record of some caches. What a newer version or a stranger wrote is reported as
/// [`Outcome::Unreadable`], and is no damage.
pub fn verify(caches: &[Cache], progress: &dyn Progress) -> Vec<Verified> {
    let mut reports = Vec::new();
    for cache in caches {
        let mut report = Verified {
            cache: cache.clone(),
            segments: Vec::new(),
            stale: Vec::new(),
            error: None,
        };
        if let Err(error) = look(cache, &mut report, progress)
            && error.kind() != io::ErrorKind::NotFound
        {
            report.error = Some(error);
        }
        report.segments.sort_by(|a, b| a.name.cmp(&b.name));
        reports.push(report);
    }
    reports
}

fn look(cache: &Cache, report: &mut Verified, progress: &dyn Progress) -> io::Result<()> {
    let dir = cache.open()?;
    let mut seen = HashSet::new();
    // What vanished was merged, perhaps, and its rows are in a segment that was not listed.
    for _ in 0..LOOKS {
        let mut names = segment_names(&*dir)?;
        names.retain(|name| seen.insert(name.clone()));
        names.sort();
        let listed = names.len();
        let found = check_all(&*dir, names, progress);
        let vanished = listed - found.len();
        report.segments.extend(found);
        if vanished == 0 {
            break;
        }
    }
    for name in temp_names(&*dir)? {
        if is_stale(&*dir, &name).unwrap_or(false) {
            report.stale.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Checks segments over all cores, and reports on those that are there.
fn check_all(
    dir: &dyn Directory,
    names: Vec<OsString>,
    progress: &dyn Progress,
) -> Vec<SegmentReport> {
    let mut files = Vec::new();
    let mut unknown = Vec::new();
    for name in names {
        match dir.stat(&name) {
            Ok(file) => files.push((file.len, name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It is there, and nobody knows how it is.
            Err(error) => unknown.push(SegmentReport {
                name: name.to_string_lossy().into_owned(),
                bytes: 0,
                outcome: Outcome::Unreadable(SegmentError::Io(error)),
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
        let mut tally = Tally::default();
        tally.check(&job.reader, &job.chunk);
        progress.advance(job.chunk.bytes());
        slots[job.place].add(tally);
    });
    let outcomes = slots.into_iter().map(Slot::into_outcome);
    let reports = files.into_iter().zip(outcomes);
    let reports = reports.filter_map(|((bytes, name), outcome)| {
        let name = name.to_string_lossy().into_owned();
        outcome.map(|outcome| SegmentReport {
            name,
            bytes,
            outcome,
        })
    });
    reports.chain(unknown).collect()
}

/// How a segment is, as far as it was looked at; nothing before it was opened, and if it is gone.
#[derive(Default)]
struct Slot(Mutex<Option<Outcome>>);

impl Slot {
    fn set(&self, outcome: Outcome) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    fn add(&self, tally: Tally) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = slot.take().map(|outcome| tally.added_to(outcome));
    }

    fn into_outcome(self) -> Option<Outcome> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some records of a segment, to be checked by whoever is free.
struct Job {
    place: usize,
    reader: Arc<SegmentReader>,
    chunk: Chunk,
}

/// Opens one segment after the other and cuts it into jobs.
struct Jobs<'a> {
    dir: &'a dyn Directory,
    files: &'a [(u64, OsString)],
    slots: &'a [Slot],
    progress: &'a dyn Progress,
    /// The next file to be opened.
    next: usize,
    open: Option<(Arc<SegmentReader>, Chunks<Arc<SegmentReader>>)>,
}

impl Iterator for Jobs<'_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        loop {
            if let Some((reader, chunks)) = &mut self.open {
                let place = self.next - 1;
                match chunks.next() {
                    Some(Ok(chunk)) => {
                        let reader = reader.clone();
                        return Some(Job {
                            place,
                            reader,
                            chunk,
                        });
                    }
                    Some(Err(error)) => self.slots[place].set(Outcome::Unreadable(error)),
                    None => {}
                }
                self.open = None;
            }
            let (bytes, name) = self.files.get(self.next)?;
            let slot = &self.slots[self.next];
            self.next += 1;
            match open_trusted(self.dir, name) {
                Ok(reader) => {
                    let reader = Arc::new(reader);
                    slot.set(Outcome::Sound { rows: 0 });
                    self.progress
                        .advance(bytes.saturating_sub(reader.record_bytes()));
                    self.open = Some((reader.clone(), Chunks::of(reader)));
                }
                Err(error) => {
                    self.progress.advance(*bytes);
                    if !error.is_not_found() {
                        slot.set(Outcome::Unreadable(error));
                    }
                }
            }
        }
    }
}

/// What was found in some records.
#[derive(Default)]
struct Tally {
    rows: u64,
    bad: u64,
    /// Which of them comes first, and what is wrong with it.
    first: Option<(u64, SegmentError)>,
    /// What the system said where a record could not be read at all.
    failed: Option<SegmentError>,
}

impl Tally {
    fn check(&mut self, reader: &SegmentReader, chunk: &Chunk) {
        let (mut window, mut decoder) = (Vec::new(), Decoder::default());
        let read = reader.read_records(chunk, &mut window, |record| {
            self.rows += 1;
            let check = |stored| decoder.check(record.row, record.group, stored);
            match record.stored.and_then(check) {
                Ok(()) => Ok(()),
                Err(error @ SegmentError::Io(_)) => Err(error),
                Err(error) => {
                    self.bad += 1;
                    self.first.get_or_insert((record.number, error));
                    Ok(())
                }
            }
        });
        self.failed = read.err();
    }

    fn added_to(self, outcome: Outcome) -> Outcome {
        if let Some(error) = self.failed {
            return Outcome::Unreadable(error);
        }
        let (rows, bad, first) = match outcome {
            Outcome::Sound { rows } => (rows, 0, None),
            Outcome::Damaged {
                rows,
                bad,
                first_at,
                first,
            } => (rows, bad, Some((first_at, first))),
            unreadable => return unreadable,
        };
        let rows = rows + self.rows;
        // They come in any order, from several cores.
        let first = [first, self.first].into_iter().flatten();
        match first.min_by_key(|(place, _)| *place) {
            None => Outcome::Sound { rows },
            Some((first_at, first)) => Outcome::Damaged {
                rows,
                bad: bad + self.bad,
                first_at,
                first,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_record_is_the_same_in_whatever_order_they_are_found() {
        let tally = |place| Tally {
            rows: 10,
            bad: 1,
            first: Some((place, SegmentError::Corrupt(place.to_string()))),
            failed: None,
        };
        for places in [[3, 17, 20], [20, 3, 17], [17, 20, 3]] {
            let sound = Outcome::Sound { rows: 5 };
            let add = |outcome, place| tally(place).added_to(outcome);
            let found = Tally::default().added_to(places.into_iter().fold(sound, add));
            let is_first = matches!(
                &found,
                Outcome::Damaged { rows: 35, bad: 3, first_at: 3, first: SegmentError::Corrupt(what) }
                    if what == "3"
            );
            assert!(is_first, "{found:?}");
        }
    }
}
