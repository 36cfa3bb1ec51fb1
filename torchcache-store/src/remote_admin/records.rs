//! Reads footers and records of segments, each checked. What is damaged may have been damaged on the way, and is read again.

use std::collections::HashMap;
use std::io;

use super::discover::SegmentObject;
use super::requests::{ReadError, Requests};
use crate::remote::{Layout, MAX_FOOTER_BYTES, RangeRead, Request, plan};
use crate::segment::{
    CHECKSUM_LEN, Footer, RowEntry, SegmentError, TRAILER_LEN, checked_record, claimed_rows_of_tail,
};

/// A segment, and those of its rows that are read.
pub(super) struct RowsOf<'a> {
    pub(super) key: String,
    pub(super) footer: &'a Footer,
    pub(super) rows: Vec<RowEntry>,
}

/// What came of reading rows of a segment.
#[derive(Debug, Default)]
pub(super) struct RowsRead {
    /// How many are not as they were written.
    pub(super) corrupt: u64,
    /// The first of these, by its index among the rows.
    pub(super) first: Option<(u64, SegmentError)>,
    /// Why not all were read.
    pub(super) error: Option<SegmentError>,
}

impl RowsRead {
    /// Why not all rows are there.
    pub(super) fn into_error(self) -> Option<SegmentError> {
        let corrupt = self.first.map(|(_, error)| error);
        self.error.or(corrupt)
    }
}

fn is_damage(error: &SegmentError) -> bool {
    error.is_corruption()
}

/// The error of a read whose last bytes were `refused`.
fn segment_error(failure: ReadError, refused: Option<SegmentError>) -> SegmentError {
    match (failure, refused) {
        (ReadError::Refused, Some(error)) => error,
        (ReadError::Refused, None) => SegmentError::Corrupt("its bytes were refused".to_owned()),
        (ReadError::Request(error), _) => SegmentError::Io(io::Error::from(error)),
    }
}

/// Reads the ends of segments, as long as `len` says, and parses each.
fn read_ends<T>(
    requests: &Requests,
    layout: &Layout,
    segments: &[&SegmentObject],
    len: impl Fn(&SegmentObject) -> Result<u64, SegmentError>,
    parse: impl Fn(&[u8], u64) -> Result<T, SegmentError>,
) -> Vec<Result<T, SegmentError>> {
    let mut results: Vec<Option<Result<T, SegmentError>>> = Vec::new();
    let (mut reads, mut numbers) = (Vec::new(), Vec::new());
    for (n, segment) in segments.iter().enumerate() {
        match len(segment) {
            Ok(len) if len <= segment.size => {
                let key = layout.segment(&segment.name);
                let range = segment.size - len..segment.size;
                reads.push(RangeRead { key, range });
                numbers.push(n);
                results.push(None);
            }
            Ok(_) => {
                let what = format!("it has {} bytes, less than its name says", segment.size);
                results.push(Some(Err(SegmentError::Truncated(what))));
            }
            Err(error) => results.push(Some(Err(error))),
        }
    }
    let failures = requests.read(&reads, |at, body| {
        let parsed = parse(body, segments[numbers[at]].size);
        let is_accepted = !parsed.as_ref().is_err_and(is_damage);
        results[numbers[at]] = Some(parsed);
        is_accepted
    });
    for (at, failure) in failures.into_iter().enumerate() {
        if let Some(failure) = failure {
            let refused = results[numbers[at]].take().and_then(Result::err);
            results[numbers[at]] = Some(Err(segment_error(failure, refused)));
        }
    }
    let unread = || Err(SegmentError::Corrupt("it was not read".to_owned()));
    let results = results.into_iter().map(|it| it.unwrap_or_else(unread));
    results.collect()
}

/// Reads the footers of segments. Memory: that of all of them.
pub(super) fn read_footers(
    requests: &Requests,
    layout: &Layout,
    segments: &[&SegmentObject],
) -> Vec<Result<Footer, SegmentError>> {
    let len = |segment: &SegmentObject| match segment.name.footer_bytes <= MAX_FOOTER_BYTES {
        true => Ok(segment.name.tail_bytes()),
        false => Err(SegmentError::Corrupt(format!(
            "its name says that the footer has {} bytes, more than {MAX_FOOTER_BYTES}",
            segment.name.footer_bytes
        ))),
    };
    read_ends(requests, layout, segments, len, Footer::from_tail)
}

/// How many rows segments claim to have. The footers are not read.
pub(super) fn read_claims(
    requests: &Requests,
    layout: &Layout,
    segments: &[&SegmentObject],
) -> Vec<Result<u64, SegmentError>> {
    let parse = |body: &[u8], size| match body.last_chunk::<TRAILER_LEN>() {
        Some(trailer) => claimed_rows_of_tail(*trailer, size),
        None => Err(SegmentError::Truncated("the trailer is missing".to_owned())),
    };
    let len = |_: &SegmentObject| Ok(TRAILER_LEN as u64);
    read_ends(requests, layout, segments, len, parse)
}

/// Segments in groups whose footers and records are read together: of about so many bytes, or one segment.
pub(super) fn chunks<'s>(
    segments: &'s [&'s SegmentObject],
    max_bytes: u64,
    bytes: impl Fn(&SegmentObject) -> u64,
) -> impl Iterator<Item = &'s [&'s SegmentObject]> {
    const MAX_SEGMENTS: usize = 64;
    let mut rest = segments;
    std::iter::from_fn(move || {
        let mut total = 0;
        let fitting = rest.iter().take(MAX_SEGMENTS).take_while(|segment| {
            total += bytes(segment);
            total <= max_bytes
        });
        let count = fitting.count().max(1).min(rest.len());
        let (chunk, others) = rest.split_at(count);
        rest = others;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Reads records and passes the stored bytes of each to `take`, once, in any order: the index of the segment, that of the
/// row, and the bytes. Rows that it refuses count as corrupt.
pub(super) fn read_records(
    requests: &Requests,
    segments: &[RowsOf<'_>],
    mut take: impl FnMut(usize, usize, &[u8]) -> Result<(), SegmentError>,
) -> Vec<RowsRead> {
    let rows: Vec<(usize, usize)> = (0..segments.len())
        .flat_map(|n| (0..segments[n].rows.len()).map(move |row| (n, row)))
        .collect();
    let places = rows.iter().map(|(n, at)| {
        let row = &segments[*n].rows[*at];
        (*n as u32, row.offset..row.end())
    });
    let planned = plan(places);
    let reads = planned
        .iter()
        .map(|Request { range, rows: those }| RangeRead {
            key: segments[rows[those.start].0].key.clone(),
            range: range.clone(),
        });
    let reads: Vec<RangeRead> = reads.collect();
    let mut is_taken = vec![false; rows.len()];
    let mut refused: HashMap<usize, SegmentError> = HashMap::new();
    let failures = requests.read(&reads, |n, body| {
        let Request { range, rows: those } = &planned[n];
        let mut are_sound = true;
        for at in those
            .clone()
            .filter(|at| !is_taken[*at])
            .collect::<Vec<_>>()
        {
            let (segment, index) = rows[at];
            let RowsOf { footer, rows, .. } = &segments[segment];
            let row = &rows[index];
            let begin = (row.offset - range.start) as usize;
            let record = body.get(begin..begin + row.stored_len as usize + CHECKSUM_LEN);
            let group = &footer.groups()[usize::from(row.group)];
            let stored = checked_record(row, group, record.unwrap_or_default());
            match stored.and_then(|stored| take(segment, index, stored)) {
                Ok(()) => is_taken[at] = true,
                Err(error) => {
                    are_sound = false;
                    refused.insert(at, error);
                }
            }
        }
        are_sound
    });
    let mut results: Vec<RowsRead> = segments.iter().map(|_| RowsRead::default()).collect();
    for (n, failure) in failures.into_iter().enumerate() {
        let Request { rows: those, .. } = &planned[n];
        match failure {
            None => {}
            Some(ReadError::Request(error)) => {
                let error = SegmentError::Io(io::Error::from(error));
                results[rows[those.start].0].error.get_or_insert(error);
            }
            Some(ReadError::Refused) => {
                for at in those.clone().filter(|at| !is_taken[*at]) {
                    let (segment, index) = rows[at];
                    let read = &mut results[segment];
                    read.corrupt += 1;
                    let error = refused.remove(&at);
                    read.first = read.first.take().or(error.map(|it| (index as u64, it)));
                }
            }
        }
    }
    results
}
