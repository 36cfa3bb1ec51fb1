//! Checks every record of every segment, end to end: its checksum, and that a compressed value decompresses.

use super::discover::{RemoteCache, RemoteRoot, SegmentObject};
use super::records::{RowsOf, RowsRead, chunks, read_footers, read_records};
use crate::admin::{CheckProgress, SegmentCheck, SegmentState};
use crate::segment::{Decoder, SegmentError};

/// Segments of so many bytes are checked together.
const CHUNK_BYTES: u64 = 64 << 20;

/// The result of checking a cache.
#[derive(Debug)]
pub struct RemoteCheckReport {
    /// The name of the cache.
    pub name: String,
    /// Its segments, by name, without those that were removed meanwhile.
    pub segments: Vec<SegmentCheck>,
    /// The keys of objects of other programs.
    pub foreign: Vec<String>,
}

impl RemoteRoot {
    /// Reads all segments of `caches` and checks every record. A segment of a newer version is reported as
    /// [`SegmentState::NotRead`] and does not count as corrupt; one whose name lies about its footer does, since no machine
    /// reads it.
    pub fn check(
        &self,
        caches: &[RemoteCache],
        progress: &dyn CheckProgress,
    ) -> Vec<RemoteCheckReport> {
        caches.iter().for_each(|it| progress.expect(it.bytes()));
        let reports = caches.iter().map(|cache| RemoteCheckReport {
            name: cache.name().to_owned(),
            segments: self.check_cache(cache, progress),
            foreign: cache.foreign().to_vec(),
        });
        reports.collect()
    }

    fn check_cache(&self, cache: &RemoteCache, progress: &dyn CheckProgress) -> Vec<SegmentCheck> {
        let all: Vec<&SegmentObject> = cache.segments.iter().collect();
        let mut checks = Vec::new();
        for chunk in chunks(&all, CHUNK_BYTES, |segment| segment.size) {
            let states = self.check_segments(cache, chunk);
            for (segment, state) in chunk.iter().zip(states) {
                progress.advance(segment.size);
                let is_gone = |error: &SegmentError| error.is_not_found();
                if !matches!(&state, SegmentState::NotRead(error) if is_gone(error)) {
                    checks.push(SegmentCheck {
                        name: segment.name.to_string(),
                        bytes: segment.size,
                        state,
                    });
                }
            }
        }
        checks
    }

    /// The states of segments that are checked together.
    pub(super) fn check_segments(
        &self,
        cache: &RemoteCache,
        segments: &[&SegmentObject],
    ) -> Vec<SegmentState> {
        let footers = read_footers(&self.requests, &cache.layout, segments);
        let sound = footers.iter().zip(segments).filter_map(|(footer, it)| {
            let footer = footer.as_ref().ok()?;
            Some(RowsOf {
                key: cache.layout.segment(&it.name),
                footer,
                rows: footer.rows().collect(),
            })
        });
        let sound: Vec<RowsOf<'_>> = sound.collect();
        let mut decoder = Decoder::default();
        let read = read_records(&self.requests, &sound, |segment, row, stored| {
            let RowsOf { footer, rows, .. } = &sound[segment];
            let row = &rows[row];
            decoder.check(row, &footer.groups()[usize::from(row.group)], stored)
        });
        let rows: Vec<u64> = sound.iter().map(|it| it.rows.len() as u64).collect();
        let mut read = rows.into_iter().zip(read);
        let states = footers.into_iter().map(|footer| match footer {
            Err(error) => SegmentState::NotRead(error),
            Ok(_) => read.next().map_or_else(
                || SegmentState::Intact { rows: 0 },
                |(rows, read)| state(rows, read),
            ),
        });
        states.collect()
    }
}

fn state(rows: u64, read: RowsRead) -> SegmentState {
    match read {
        RowsRead {
            error: Some(error), ..
        } => SegmentState::NotRead(error),
        RowsRead {
            corrupt,
            first: Some((first_index, first_error)),
            ..
        } => SegmentState::Corrupt {
            rows,
            corrupt,
            first_index,
            first_error,
        },
        _ => SegmentState::Intact { rows },
    }
}
