//! Fetching rows: few requests for many rows, and each row checked.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::catalog::RemoteCatalog;
use super::client::{Caller, Client};
use super::object_store::RangeRead;
use super::segment::{RemoteRow, RemoteSegment};
use crate::segment::{CHECKSUM_LEN, Decoder, SegmentError, read_record};

/// Bytes between two rows that are fetched with them: a request takes as long as so many bytes.
const MAX_GAP: u64 = 256 << 10;

/// A request ends with the row that makes it so long.
const REQUEST_BYTES: u64 = 8 << 20;

/// No row is added that makes a request longer than this.
const MAX_REQUEST_BYTES: u64 = 9 << 20;

/// Consecutive rows of one object that one request fetches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Which bytes of the object.
    pub(crate) range: Range<u64>,
    /// Which of the sorted rows.
    pub(crate) rows: Range<usize>,
}

/// The requests for rows that are sorted by object and offset: each row is its object's number and its bytes.
pub(crate) fn plan(rows: impl Iterator<Item = (u32, Range<u64>)>) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let mut object = None;
    for (n, (id, row)) in rows.enumerate() {
        match requests.last_mut() {
            // A row may be wanted twice.
            Some(last)
                if object == Some(id)
                    && (row.end <= last.range.end
                        || row.start <= last.range.end + MAX_GAP
                            && last.range.end - last.range.start < REQUEST_BYTES
                            && row.end - last.range.start <= MAX_REQUEST_BYTES) =>
            {
                last.range.end = row.end.max(last.range.end);
                last.rows.end = n + 1;
            }
            _ => requests.push(Request {
                range: row,
                rows: n..n + 1,
            }),
        }
        object = Some(id);
    }
    requests
}

/// Reads rows into buffers of their lengths, and returns for each whether it was read. Those that did not arrive before
/// the deadline are misses. After a miss the content of a buffer is unspecified. `answered` gets the segment of each
/// request that was answered, and its bytes.
pub(super) fn fetch(
    client: &Client,
    catalog: &RemoteCatalog,
    caller: Caller,
    mut answered: impl FnMut(&Arc<RemoteSegment>, u64),
    rows: &[RemoteRow],
    out: &mut [&mut [u8]],
    deadline: Instant,
) -> Vec<bool> {
    let mut ok = vec![false; rows.len()];
    let mut order: Vec<usize> = (0..rows.len().min(out.len())).collect();
    order.sort_unstable_by_key(|&n| (rows[n].segment.id, rows[n].row.offset));
    let sorted = order.iter().map(|&n| {
        let RemoteRow { segment, row, .. } = &rows[n];
        (segment.id, row.offset..row.end())
    });
    let requests = plan(sorted);
    let reads = requests.iter().map(|request| RangeRead {
        key: catalog
            .layout
            .segment(&rows[order[request.rows.start]].segment.name),
        range: request.range.clone(),
    });
    let reads: Vec<RangeRead> = reads.collect();
    let mut decoder = Decoder::default();
    client.read(caller, &reads, deadline, |n, read| {
        let Request { range, rows: those } = &requests[n];
        let those = &order[those.clone()];
        let body = match read {
            Ok(body) => {
                answered(&rows[those[0]].segment, range.end - range.start);
                body
            }
            Err(error) => {
                if error.is_not_found() {
                    catalog.note_gone(&rows[those[0]].segment.name);
                }
                return;
            }
        };
        for &n in those {
            let RemoteRow { segment, row, len } = &rows[n];
            let at = (row.offset - range.start) as usize;
            // Of a body that was cut, the rows that arrived are used.
            let Some(record) = body.get(at..at + row.stored_len as usize + CHECKSUM_LEN) else {
                continue;
            };
            if out[n].len() != *len {
                continue;
            }
            match read_record(&mut decoder, row, segment.group(row), record, out[n]) {
                Ok(()) => ok[n] = true,
                Err(SegmentError::Io(_)) => {}
                Err(error) => catalog.note_corrupt(&rows[n], &error),
            }
        }
    });
    ok
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn planned(rows: &[(u32, Range<u64>)]) -> Vec<(Range<u64>, Range<usize>)> {
        let requests = plan(rows.iter().cloned()).into_iter();
        requests.map(|it| (it.range, it.rows)).collect()
    }

    #[test]
    fn rows_that_are_near_each_other_are_fetched_together() {
        assert_eq!(planned(&[]), []);
        let rows = [(1, 16..100), (1, 16..100), (1, 100..200), (2, 200..300)];
        assert_eq!(planned(&rows), [(16..200, 0..3), (200..300, 3..4)]);
        for (gap, requests) in [(0, 1), (256 * KIB, 1), (256 * KIB + 1, 2)] {
            let rows = [(1, 16..100), (1, 100 + gap..200 + gap)];
            assert_eq!(planned(&rows).len(), requests, "{gap}");
        }
    }

    #[test]
    fn requests_are_about_8_mib_unless_one_row_is_longer() {
        for (len, most) in [(2 * KIB, 8), (200_008, 8), (700 * KIB, 9), (3 * MIB, 9)] {
            let rows: Vec<_> = (0..64 * MIB / len)
                .map(|n| (7, n * len..(n + 1) * len))
                .collect();
            let requests = planned(&rows);
            let longest = requests.iter().map(|(range, _)| range.end - range.start);
            assert!(longest.max() <= Some(MAX_REQUEST_BYTES), "{len}");
            assert!(requests.len() <= most * 4 / 3, "{len}: {}", requests.len());
            assert_eq!(
                requests.iter().map(|(_, rows)| rows.len()).sum::<usize>(),
                rows.len()
            );
        }
        let rows = [(1, 0..MIB), (1, MIB..90 * MIB), (1, 90 * MIB..91 * MIB)];
        assert_eq!(planned(&rows).len(), 3);
    }
}
