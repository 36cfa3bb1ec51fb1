//! Counts what a cache holds, by the footers of its segments.

use super::discover::{RemoteCache, RemoteRoot, SegmentObject};
use super::records::{chunks, read_footers};
use crate::admin::{CacheSummary, GroupTotals, SegmentContents, SegmentSummary};
use crate::remote::ObjectError;
use crate::segment::{Footer, SegmentError};

/// Footers of so many bytes are in memory at a time.
pub(super) const FOOTER_BYTES: u64 = 64 << 20;

/// The bytes of a segment's end.
pub(super) fn tail_bytes(segment: &SegmentObject) -> u64 {
    segment.name.tail_bytes()
}

impl RemoteRoot {
    /// Reads the manifest, the read marks and the footer of each segment. Segments that vanished meanwhile are left out.
    ///
    /// # Errors
    /// If the read marks cannot be read. Errors of the manifest and of segments are in the summary.
    pub fn summary(&self, cache: &RemoteCache) -> Result<CacheSummary, ObjectError> {
        let reads = self.last_reads(cache)?;
        let manifest = self.manifests([cache]).remove(0);
        let all: Vec<&SegmentObject> = cache.segments.iter().collect();
        let mut segments = Vec::new();
        for chunk in chunks(&all, FOOTER_BYTES, tail_bytes) {
            let footers = read_footers(&self.requests, &cache.layout, chunk);
            for (segment, footer) in chunk.iter().zip(footers) {
                let contents = footer.and_then(|footer| contents(&footer));
                if contents.as_ref().is_err_and(SegmentError::is_not_found) {
                    continue;
                }
                let read = reads.get(&segment.name).map(|read| read.at);
                segments.push(SegmentSummary {
                    name: segment.name.to_string(),
                    bytes: segment.size,
                    last_read: Some(read.map_or(segment.modified, |at| at.max(segment.modified))),
                    contents,
                });
            }
        }
        Ok(CacheSummary {
            manifest,
            created: cache.created(),
            segments,
            temp_files: 0,
        })
    }
}

fn contents(footer: &Footer) -> Result<SegmentContents, SegmentError> {
    let mut totals = GroupTotals::default();
    totals.add_segment(footer.groups(), footer.rows().map(Ok))?;
    Ok(SegmentContents {
        version: footer.version(),
        rows: footer.row_count() as u64,
        groups: totals.into_groups(),
    })
}
