//! The rows of a cache as they are at one moment: its segments are held open, so that they can be read
//! to the end although others merge, evict or clear meanwhile.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;

use super::discover::{Cache, each_listing, open_trusted};
use super::summary::{Groups, RowGroupSummary};
use crate::fs::Directory;
use crate::segment::{SegmentError, SegmentReader};

/// The segments of a cache, held open.
#[derive(Debug)]
pub struct CacheRows {
    pub(super) held: Vec<Held>,
    groups: Vec<RowGroupSummary>,
    skipped: Vec<(String, SegmentError)>,
}

/// A segment that is held open.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) reader: SegmentReader,
    /// How many rows the segments before it have.
    pub(super) before: u64,
    /// The number of the group to which the rows of each of the segment's row groups belong.
    pub(super) groups: Vec<usize>,
}

impl CacheRows {
    /// Opens every segment of a cache, and walks their row tables.
    ///
    /// # Errors
    /// What the system says; among it that so many files cannot be open at once.
    ///
    /// ```
    /// use torchcache_store::{Config, RowBatch, Store};
    /// use torchcache_store::admin::{CacheRows, Root};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path(), Config::default())?;
    /// let keys = vec![[1; 32], [2; 32]];
    /// store.put(RowBatch::new(keys, b"u8".as_slice().into(), vec![10, 20], 1)?);
    /// store.flush()?;
    ///
    /// let cache = Root::open(dir.path())?.list()?.caches.remove(0);
    /// let rows = CacheRows::open(&cache)?;
    /// assert_eq!(&*rows.groups()[0].schema, b"u8");
    /// let mut distinct = rows.distinct(0)?;
    /// let mut sum = 0;
    /// assert!(distinct.each(|_key, value| Ok(sum += value[0]))?);
    /// assert_eq!((distinct.count(), sum), (2, 30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(cache: &Cache) -> io::Result<CacheRows> {
        let opened = open_all(&*cache.open()?)?;
        let mut rows = CacheRows {
            held: Vec::new(),
            groups: Vec::new(),
            skipped: Vec::new(),
        };
        let (mut groups, mut before) = (Groups::default(), 0);
        for (name, reader) in opened {
            let name = name.to_string_lossy().into_owned();
            match reader.and_then(|reader| Ok((counted(&reader, &mut groups)?, reader))) {
                Ok((groups, reader)) => {
                    let count = reader.row_count();
                    rows.held.push(Held {
                        name,
                        reader,
                        before,
                        groups,
                    });
                    before += count;
                }
                Err(SegmentError::Io(error)) => return Err(named(&name, error.kind(), &error)),
                Err(error) => rows.skipped.push((name, error)),
            }
        }
        let (groups, places) = groups.sorted();
        for held in &mut rows.held {
            for group in &mut held.groups {
                *group = places[*group];
            }
        }
        rows.groups = groups;
        Ok(rows)
    }

    /// The rows by what they mean, in an order that only that decides. One that lies in several segments
    /// counts in each.
    pub fn groups(&self) -> &[RowGroupSummary] {
        &self.groups
    }

    /// Segments that cannot be read, and why.
    pub fn skipped(&self) -> &[(String, SegmentError)] {
        &self.skipped
    }

    /// Rows of all groups.
    pub(super) fn total(&self) -> u64 {
        self.groups.iter().map(|group| group.rows).sum()
    }
}

/// Counts the rows of a segment, and returns the number of each row group's summary. What is counted of one
/// that turns out to be bad is taken back.
fn counted(reader: &SegmentReader, groups: &mut Groups) -> Result<Vec<usize>, SegmentError> {
    if let Some(error) = reader.rows().find_map(Result::err) {
        return Err(error);
    }
    let in_file = reader.groups().iter();
    let places: Vec<_> = in_file
        .map(|group| groups.place(&group.schema, group.raw_len))
        .collect();
    for row in reader.rows() {
        let row = row?;
        groups.add(places[usize::from(row.group)], &row);
    }
    Ok(places)
}

type Opened = BTreeMap<OsString, Result<SegmentReader, SegmentError>>;

/// Opens all segments that are there. What was open once is kept, although others remove it.
fn open_all(dir: &dyn Directory) -> io::Result<Opened> {
    let mut opened = Opened::new();
    each_listing(dir, |names| {
        let mut is_new = false;
        for name in names {
            if opened.contains_key(&name) {
                continue;
            }
            is_new = true;
            match open_trusted(dir, &name) {
                Err(error) if error.is_not_found() => {}
                reader => drop(opened.insert(name, reader)),
            }
        }
        is_new
    })?;
    Ok(opened)
}

/// An error with the file that it is about.
pub(super) fn named(name: &str, kind: io::ErrorKind, error: &dyn std::error::Error) -> io::Error {
    io::Error::new(kind, format!("{name}: {error}"))
}
