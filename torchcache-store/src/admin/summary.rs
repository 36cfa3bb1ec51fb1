//! Counts what a cache holds. Reads the row tables only, not the rows.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::discover::{Cache, Found, open, read_manifest, read_segments};
use crate::fs::file_names;
use crate::fs::temp_file::is_temp;
use crate::manifest::{self, Manifest};
use crate::segment::{RowEntry, RowGroup, SegmentError, SegmentReader};
use crate::size::sum;

/// The counts of a cache.
#[derive(Debug)]
pub struct CacheSummary {
    /// The manifest, or why it cannot be read.
    pub manifest: io::Result<Manifest>,
    /// When the manifest was written.
    pub created: Option<SystemTime>,
    /// The segments, by name, which is by age.
    pub segments: Vec<SegmentSummary>,
    /// The number of temporary files: being written, or of crashed writers.
    pub temp_files: usize,
}

/// The counts of a segment.
#[derive(Debug)]
pub struct SegmentSummary {
    /// The file name.
    pub name: String,
    /// The size of the file; 0 if the system does not say.
    pub bytes: u64,
    /// When a row was last read, to the minute, if the system says so.
    pub last_read: Option<SystemTime>,
    /// The contents, or why they cannot be read.
    pub contents: Result<SegmentContents, SegmentError>,
}

/// The contents of a segment.
#[derive(Clone, Debug)]
pub struct SegmentContents {
    /// The format version.
    pub version: u32,
    /// The number of rows.
    pub rows: u64,
    /// The rows by schema and length, in this order.
    pub groups: Vec<RowGroupSummary>,
}

/// The counts of the rows of one schema and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroupSummary {
    /// The encoded [`Schema`](crate::schema::Schema::decode).
    pub schema: Arc<[u8]>,
    /// The bytes of each value.
    pub row_bytes: u32,
    /// The number of rows. A row in several segments counts in each.
    pub rows: u64,
    /// The bytes of all values as they are stored.
    pub stored_bytes: u64,
}

impl RowGroupSummary {
    /// The bytes of all values.
    pub fn value_bytes(&self) -> u64 {
        self.rows.saturating_mul(u64::from(self.row_bytes))
    }
}

/// The schema and the length of rows.
type GroupKey = (Arc<[u8]>, u32);

/// Rows and their stored bytes by schema and length. The order depends on these only, and not on the
/// order of the segments, which a compaction changes.
#[derive(Default)]
pub(crate) struct GroupTotals(BTreeMap<GroupKey, (u64, u64)>);

impl GroupTotals {
    /// Adds the rows of a segment, or nothing if its row table is corrupt.
    pub(crate) fn add_segment(
        &mut self,
        groups: &[RowGroup],
        rows: impl Iterator<Item = Result<RowEntry, SegmentError>>,
    ) -> Result<(), SegmentError> {
        let mut counts = vec![(0, 0); groups.len()];
        for row in rows {
            let row = row?;
            let (rows, stored_bytes) = &mut counts[usize::from(row.group)];
            *rows += 1;
            *stored_bytes += u64::from(row.stored_len);
        }
        for (group, (rows, stored_bytes)) in groups.iter().zip(counts) {
            self.add(&group.schema, group.raw_len, rows, stored_bytes);
        }
        Ok(())
    }

    /// A segment may describe groups without rows: these are left out.
    fn add(&mut self, schema: &Arc<[u8]>, row_bytes: u32, rows: u64, stored_bytes: u64) {
        if rows > 0 {
            let total = self.0.entry((schema.clone(), row_bytes)).or_default();
            total.0 += rows;
            total.1 += stored_bytes;
        }
    }

    pub(crate) fn into_groups(self) -> Vec<RowGroupSummary> {
        let groups = self.0.into_iter();
        let groups = groups.map(
            |((schema, row_bytes), (rows, stored_bytes))| RowGroupSummary {
                schema,
                row_bytes,
                rows,
                stored_bytes,
            },
        );
        groups.collect()
    }
}

impl CacheSummary {
    /// The number of rows in all segments that can be read. A row in several segments counts in each.
    pub fn rows(&self) -> u64 {
        self.contents().map(|contents| contents.rows).sum()
    }

    /// The bytes of all segments, including those that cannot be read.
    pub fn bytes(&self) -> u64 {
        sum(self.segments.iter().map(|segment| segment.bytes))
    }

    /// When a row was last read; `None` without segments.
    pub fn last_read(&self) -> Option<SystemTime> {
        let segments = self.segments.iter();
        segments.filter_map(|segment| segment.last_read).max()
    }

    /// The rows of all segments by schema and length, in this order.
    pub fn groups(&self) -> Vec<RowGroupSummary> {
        let mut totals = GroupTotals::default();
        for group in self.contents().flat_map(|contents| &contents.groups) {
            totals.add(
                &group.schema,
                group.row_bytes,
                group.rows,
                group.stored_bytes,
            );
        }
        totals.into_groups()
    }

    /// The contents of the segments that can be read.
    pub fn contents(&self) -> impl Iterator<Item = &SegmentContents> {
        let segments = self.segments.iter();
        segments.filter_map(|segment| segment.contents.as_ref().ok())
    }
}

impl Cache {
    /// Reads the manifest and the row table of each segment.
    ///
    /// # Errors
    /// If the directory cannot be opened or listed, its permissions are rejected, or no file descriptor is
    /// left for a file. Other errors of single files are in the summary.
    pub fn summary(&self) -> io::Result<CacheSummary> {
        let dir = self.open()?;
        let written = dir.stat(manifest::FILE.as_ref());
        let segments = read_segments(&*dir, |_| {}, |name, _| contents(&open(&*dir, name)?))?;
        let summarize = |(name, found)| {
            let (bytes, last_read, contents) = match found {
                Ok(Found { file, contents }) => (file.len, Some(file.modified), contents),
                Err(error) => (0, None, Err(SegmentError::Io(error))),
            };
            SegmentSummary {
                name,
                bytes,
                last_read,
                contents,
            }
        };
        Ok(CacheSummary {
            manifest: read_manifest(&*dir)?,
            created: written.ok().map(|file| file.modified),
            segments: segments.into_iter().map(summarize).collect(),
            temp_files: file_names(&*dir, is_temp)?.len(),
        })
    }
}

fn contents(reader: &SegmentReader) -> Result<SegmentContents, SegmentError> {
    let mut totals = GroupTotals::default();
    totals.add_segment(reader.groups(), reader.rows())?;
    Ok(SegmentContents {
        version: reader.version(),
        rows: reader.row_count(),
        groups: totals.into_groups(),
    })
}
