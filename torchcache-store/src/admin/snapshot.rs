//! The rows of a cache at one moment. The segments are held open, so that they can be read to the end
//! although other processes compact, evict or clear meanwhile.

use std::collections::HashMap;
use std::io;

use super::discover::{Cache, open, read_segments};
use super::summary::{GroupTotals, RowGroupSummary};
use crate::segment::{RowGroup, SegmentError, SegmentReader};

/// The segments of a cache, held open.
#[derive(Debug)]
pub struct CacheRows {
    pub(super) open: Vec<OpenSegment>,
    groups: Vec<RowGroupSummary>,
    skipped: Vec<(String, SegmentError)>,
}

/// A segment that is held open.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) name: String,
    pub(super) reader: SegmentReader,
    /// The number of rows in the segments before it.
    pub(super) before: u64,
    /// For each row group of the file, the index in [`CacheRows::groups`]; `None` for one without rows.
    pub(super) groups: Vec<Option<usize>>,
}

impl CacheRows {
    /// Opens every segment of a cache, and reads the row tables.
    ///
    /// # Errors
    /// If the directory or a segment cannot be opened or read, for instance because too many files are
    /// open.
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
    /// assert!(distinct.for_each(|_key, value| Ok(sum += value[0]))?);
    /// assert_eq!((distinct.count(), sum), (2, 30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(cache: &Cache) -> io::Result<CacheRows> {
        let dir = cache.open()?;
        let opened = read_segments(&*dir, |_| {}, |name, _| open(&*dir, name))?;
        let mut rows = CacheRows {
            open: Vec::new(),
            groups: Vec::new(),
            skipped: Vec::new(),
        };
        let (mut totals, mut before) = (GroupTotals::default(), 0);
        for (name, found) in opened {
            let reader = found.map_err(SegmentError::Io).and_then(|it| it.contents);
            match reader.and_then(|reader| {
                let added = totals.add_segment(reader.groups(), reader.rows());
                added.map(|()| reader)
            }) {
                Ok(reader) => {
                    let count = reader.row_count();
                    rows.open.push(OpenSegment {
                        name,
                        reader,
                        before,
                        groups: Vec::new(),
                    });
                    before += count;
                }
                Err(SegmentError::Io(error)) => return Err(named(&name, error.kind(), &error)),
                Err(error) => rows.skipped.push((name, error)),
            }
        }
        rows.groups = totals.into_groups();
        let groups = rows.groups.iter().enumerate();
        let indices: HashMap<_, usize> = groups
            .map(|(index, group)| ((&*group.schema, group.row_bytes), index))
            .collect();
        let index_of = |group: &RowGroup| indices.get(&(&*group.schema, group.raw_len)).copied();
        for open in &mut rows.open {
            open.groups = open.reader.groups().iter().map(index_of).collect();
        }
        Ok(rows)
    }

    /// The rows by schema and length, in an order that depends only on these. A row in several segments
    /// counts in each.
    pub fn groups(&self) -> &[RowGroupSummary] {
        &self.groups
    }

    /// The segments that cannot be read, with the error of each.
    pub fn skipped(&self) -> &[(String, SegmentError)] {
        &self.skipped
    }

    /// The number of rows in all groups.
    pub(super) fn total(&self) -> u64 {
        self.groups.iter().map(|group| group.rows).sum()
    }
}

/// The error of reading a segment, with its name.
pub(super) fn failed(segment: &OpenSegment, error: SegmentError) -> io::Error {
    let kind = match &error {
        SegmentError::Io(error) => error.kind(),
        _ => io::ErrorKind::InvalidData,
    };
    named(&segment.name, kind, &error)
}

/// Adds the name of the file to an error.
pub(super) fn named(name: &str, kind: io::ErrorKind, error: &dyn std::error::Error) -> io::Error {
    io::Error::new(kind, format!("{name}: {error}"))
}
