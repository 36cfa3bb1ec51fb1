//! What is in a cache, in numbers: out of the row tables, without a look at the rows themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::discover::{Cache, each_listing, open_trusted, temp_names};
use crate::fs::Directory;
use crate::manifest::{self, Manifest};
use crate::segment::{Row, SegmentError, SegmentReader};
use crate::size::sum;
use crate::threads;

/// A cache in numbers.
#[derive(Debug)]
pub struct Summary {
    /// What went into its identity; an error says why that is not known.
    pub manifest: io::Result<Manifest>,
    /// When the manifest was written.
    pub created: Option<SystemTime>,
    /// The segments, by name, and so by age.
    pub segments: Vec<SegmentInfo>,
    /// Files that are being written, or were when their writer died.
    pub unfinished: usize,
}

/// A segment in numbers.
#[derive(Debug)]
pub struct SegmentInfo {
    /// What the file is called.
    pub name: String,
    /// Its size; none where the system does not say.
    pub bytes: u64,
    /// When a row of it was last read, to the minute, where the system says so.
    pub last_read: Option<SystemTime>,
    /// What it holds, or why that cannot be read.
    pub contents: Result<Contents, SegmentError>,
}

/// What a segment holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The version of the format.
    pub version: u32,
    /// Its rows. One that lies in several segments counts in each.
    pub rows: u64,
    /// The same by what they mean.
    pub groups: Vec<RowGroupSummary>,
}

/// Rows of one schema and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroupSummary {
    /// What they mean: see [`Schema::decode`](crate::schema::Schema::decode).
    pub schema: Arc<[u8]>,
    /// Bytes of each row's value.
    pub row_bytes: u32,
    /// How many there are.
    pub rows: u64,
    /// Bytes of their values as they are stored.
    pub stored_bytes: u64,
}

impl RowGroupSummary {
    /// Bytes of the values.
    pub fn value_bytes(&self) -> u64 {
        self.rows.saturating_mul(u64::from(self.row_bytes))
    }
}

/// Adds up rows by what they mean, in the order in which that first occurs.
#[derive(Default)]
pub(super) struct Groups {
    places: HashMap<(Arc<[u8]>, u32), usize>,
    groups: Vec<RowGroupSummary>,
}

impl Groups {
    /// The number of a group, which is made if need be.
    pub(super) fn place(&mut self, schema: &Arc<[u8]>, row_bytes: u32) -> usize {
        let Groups { places, groups } = self;
        *places
            .entry((schema.clone(), row_bytes))
            .or_insert_with(|| {
                groups.push(RowGroupSummary {
                    schema: schema.clone(),
                    row_bytes,
                    rows: 0,
                    stored_bytes: 0,
                });
                groups.len() - 1
            })
    }

    /// The groups that have rows, in an order that depends on what they are and not on which segment
    /// names them first, since a merge changes that; and for each number that one had, its new one.
    pub(super) fn sorted(self) -> (Vec<RowGroupSummary>, Vec<usize>) {
        let mut places = vec![0; self.groups.len()];
        let mut numbered: Vec<_> = self.groups.into_iter().enumerate().collect();
        // A segment may describe rows that it does not have.
        numbered.retain(|(_, group)| group.rows > 0);
        numbered.sort_by(|(_, a), (_, b)| {
            let key = |group: &RowGroupSummary| (group.schema.clone(), group.row_bytes);
            key(a).cmp(&key(b))
        });
        for (now, (before, _)) in numbered.iter().enumerate() {
            places[*before] = now;
        }
        let groups = numbered.into_iter().map(|(_, group)| group).collect();
        (groups, places)
    }

    pub(super) fn add(&mut self, place: usize, row: &Row) {
        self.groups[place].rows += 1;
        self.groups[place].stored_bytes += u64::from(row.stored_len);
    }
}

impl Summary {
    /// Rows of all segments that can be read. One that lies in several counts in each.
    pub fn rows(&self) -> u64 {
        self.contents().map(|contents| contents.rows).sum()
    }

    /// Bytes of all segments, also of those that cannot be read.
    pub fn bytes(&self) -> u64 {
        sum(self.segments.iter().map(|segment| segment.bytes))
    }

    /// When a row was last read; `None` where there are no segments.
    pub fn last_read(&self) -> Option<SystemTime> {
        let segments = self.segments.iter();
        segments.filter_map(|segment| segment.last_read).max()
    }

    /// The rows of all segments by what they mean, in an order that only that decides.
    pub fn groups(&self) -> Vec<RowGroupSummary> {
        let mut sums = Groups::default();
        for group in self.contents().flat_map(|contents| &contents.groups) {
            let place = sums.place(&group.schema, group.row_bytes);
            sums.groups[place].rows += group.rows;
            sums.groups[place].stored_bytes += group.stored_bytes;
        }
        sums.sorted().0
    }

    /// Segments that can be read.
    pub fn contents(&self) -> impl Iterator<Item = &Contents> {
        let segments = self.segments.iter();
        segments.filter_map(|segment| segment.contents.as_ref().ok())
    }
}

impl Cache {
    /// Sums the cache up: reads the manifest, and of each segment the row table.
    ///
    /// # Errors
    /// What the system says of the directory, and that it is not to be trusted. What is wrong with a
    /// file stands beside it.
    pub fn summary(&self) -> io::Result<Summary> {
        let dir = self.open()?;
        let written = dir.stat(manifest::FILE.as_ref());
        let segments = Mutex::new(BTreeMap::new());
        each_listing(&*dir, |names| {
            let names: BTreeSet<_> = names.into_iter().collect();
            let lock = || segments.lock().unwrap_or_else(PoisonError::into_inner);
            // What was merged meanwhile is in another one, and would count twice.
            lock().retain(|name, _| names.contains(name));
            let new: Vec<_> = names
                .into_iter()
                .filter(|it| !lock().contains_key(it))
                .collect();
            let is_new = !new.is_empty();
            threads::for_each(threads::count().min(new.len()), new.into_iter(), |name| {
                if let Some(segment) = summed(&*dir, &name) {
                    lock().insert(name, segment);
                }
            });
            is_new
        })?;
        let segments = segments
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(Summary {
            manifest: Manifest::read(&*dir),
            created: written.ok().map(|file| file.modified),
            segments: segments.into_values().collect(),
            unfinished: temp_names(&*dir)?.len(),
        })
    }
}

/// A segment in numbers; `None` if it is gone.
fn summed(dir: &dyn Directory, name: &OsString) -> Option<SegmentInfo> {
    let file = dir.stat(name).map_err(SegmentError::Io);
    let (bytes, last_read) = match &file {
        Ok(file) => (file.len, Some(file.modified)),
        Err(_) => (0, None),
    };
    let contents = file.and_then(|_| contents(&open_trusted(dir, name)?));
    if contents.as_ref().is_err_and(SegmentError::is_not_found) {
        return None;
    }
    Some(SegmentInfo {
        name: name.to_string_lossy().into_owned(),
        bytes,
        last_read,
        contents,
    })
}

fn contents(reader: &SegmentReader) -> Result<Contents, SegmentError> {
    let mut sums = Groups::default();
    let groups = reader.groups().iter();
    let places: Vec<_> = groups
        .map(|group| sums.place(&group.schema, group.raw_len))
        .collect();
    for row in reader.rows() {
        let row = row?;
        sums.add(places[usize::from(row.group)], &row);
    }
    Ok(Contents {
        version: reader.version(),
        rows: reader.row_count(),
        groups: sums.sorted().0,
    })
}
