//! Reading rows of an open segment file into their destinations: adjacent rows with one system call,
//! each row checked and decompressed.

use std::cell::Cell;
use std::io::IoSliceMut;

use super::decoder::Decoder;
use super::error::SegmentError;
use super::format::{CHECKSUM_LEN, RowEntry, RowGroup, record_checksum};
use super::segment_file::SegmentFile;

/// Raw values from this length on are read into their destinations by a scattering read. Shorter ones
/// are read into a buffer that stays in the processor's cache, and copied: that costs less than a
/// buffer of the system call does.
const SCATTER_FROM: usize = 5 << 9;

/// The most rows of a scattering read: each needs two buffers, and systems allow 1024.
const MAX_SCATTERED_ROWS: usize = 512;

/// The most bytes of one read, unless one row is longer, so that the bytes are still in the
/// processor's cache when they are checked.
const MAX_RUN: u64 = 256 << 10;

/// The most bytes of each scratch buffer that are kept between calls.
const KEPT_SCRATCH: usize = 1 << 20;

/// A row to be read, its destination, and the result.
#[derive(Debug)]
pub(crate) struct RowRequest<'a, T = ()> {
    /// Identifies the row for the caller.
    pub(crate) tag: T,
    pub(crate) row: &'a RowEntry,
    pub(crate) group: &'a RowGroup,
    /// The destination, as long as the values of the group.
    pub(crate) out: &'a mut [u8],
    /// `None` until the row was read.
    pub(crate) outcome: Option<Result<(), SegmentError>>,
}

impl<T> RowRequest<'_, T> {
    /// Whether `next` begins where this one ends.
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        self.row.end() == next.row.offset
    }
}

/// Buffers and a decoder. Kept for the thread's next call, since creating them costs more than a
/// small read.
#[derive(Default)]
struct Scratch {
    /// Bytes of the file.
    stored: Vec<u8>,
    /// A compressed record copied from a map.
    frame: Vec<u8>,
    decoder: Decoder,
}

thread_local! {
    /// `None` while in use.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Reads rows of a file. Rows that are adjacent in the file and in `requests` are read together.
pub(crate) fn fetch<T>(source: &SegmentFile, requests: &mut [RowRequest<'_, T>]) {
    // Not accessible while the thread ends.
    let kept = SCRATCH.try_with(Cell::take).ok().flatten();
    let mut scratch = kept.unwrap_or_default();
    let scatters = |request: &RowRequest<'_, T>| {
        request.row.encoding.is_raw() && request.out.len() >= SCATTER_FROM && !source.is_mapped()
    };
    let together = |a: &RowRequest<'_, T>, b: &RowRequest<'_, T>| {
        a.is_followed_by(b) && scatters(a) == scatters(b)
    };
    for adjacent in requests.chunk_by_mut(together) {
        let scatter = scatters(&adjacent[0]);
        for run in runs(adjacent) {
            scratch.read(source, run, scatter);
        }
    }
    scratch.shrink();
    let _ = SCRATCH.try_with(|kept| kept.set(Some(scratch)));
}

/// Cuts adjacent rows into runs for one system call each.
fn runs<'r, 'a, T>(
    mut adjacent: &'r mut [RowRequest<'a, T>],
) -> impl Iterator<Item = &'r mut [RowRequest<'a, T>]> {
    std::iter::from_fn(move || {
        let begin = adjacent.first()?.row.offset;
        let len = adjacent
            .iter()
            .take(MAX_SCATTERED_ROWS)
            .take_while(|request| request.row.end() - begin <= MAX_RUN)
            .count()
            .max(1);
        let (run, rest) = std::mem::take(&mut adjacent).split_at_mut(len);
        adjacent = rest;
        Some(run)
    })
}

impl Scratch {
    /// Frees memory that one long row needed.
    fn shrink(&mut self) {
        for buffer in [
            &mut self.stored,
            &mut self.frame,
            &mut self.decoder.shuffled,
        ] {
            buffer.truncate(KEPT_SCRATCH);
            buffer.shrink_to(KEPT_SCRATCH);
        }
    }

    /// Reads adjacent rows together. If that fails, reads each on its own, so that a bad sector or a
    /// cut-off end costs only the rows that it hits.
    fn read<T>(&mut self, source: &SegmentFile, run: &mut [RowRequest<'_, T>], scatter: bool) {
        let read = match run {
            [single] if scatter => scatter_one(source, single),
            _ if scatter => scatter_all(source, run),
            _ => self.read_buffered(source, run),
        };
        let Err(error) = read else { return };
        match run {
            [single] => single.outcome = Some(Err(error)),
            _ => run
                .iter_mut()
                .for_each(|request| self.read(source, std::slice::from_mut(request), scatter)),
        }
    }

    /// Copies or decompresses rows from the map or a buffer.
    fn read_buffered<T>(
        &mut self,
        source: &SegmentFile,
        run: &mut [RowRequest<'_, T>],
    ) -> Result<(), SegmentError> {
        let Scratch {
            stored,
            frame,
            decoder,
        } = self;
        let begin = run[0].row.offset;
        let len = (run[run.len() - 1].row.end() - begin) as usize;
        let bytes = source.bytes(begin, len, stored)?;
        for request in run {
            let RowRequest {
                row, group, out, ..
            } = request;
            let at = (row.offset - begin) as usize;
            let (stored, rest) = bytes[at..].split_at(row.stored_len as usize);
            let sum = std::array::from_fn(|i| rest[i]);
            // A map may change at any time, so a copy is checked and used.
            request.outcome = Some(if row.encoding.is_raw() {
                out.copy_from_slice(stored);
                check(row, group, out, sum)
            } else {
                let stored = if source.is_mapped() {
                    frame.clear();
                    frame.extend_from_slice(stored);
                    &frame[..]
                } else {
                    stored
                };
                check(row, group, stored, sum)
                    .and_then(|()| decoder.decode(row.encoding, stored, out))
            });
        }
        Ok(())
    }
}

/// Reads raw rows without a map: the kernel copies each value to its destination.
fn scatter_all<T>(source: &SegmentFile, run: &mut [RowRequest<'_, T>]) -> Result<(), SegmentError> {
    let begin = run[0].row.offset;
    let mut sums = vec![[0; CHECKSUM_LEN]; run.len()];
    let mut buffers = Vec::with_capacity(2 * run.len());
    for (request, sum) in run.iter_mut().zip(&mut sums) {
        buffers.push(IoSliceMut::new(request.out));
        buffers.push(IoSliceMut::new(sum));
    }
    source.scatter(begin, &mut buffers)?;
    for (request, sum) in run.iter_mut().zip(sums) {
        request.outcome = Some(check(request.row, request.group, request.out, sum));
    }
    Ok(())
}

/// The same for one row, without an allocation.
fn scatter_one<T>(
    source: &SegmentFile,
    request: &mut RowRequest<'_, T>,
) -> Result<(), SegmentError> {
    let mut sum = [0; CHECKSUM_LEN];
    let mut buffers = [IoSliceMut::new(request.out), IoSliceMut::new(&mut sum)];
    source.scatter(request.row.offset, &mut buffers)?;
    request.outcome = Some(check(request.row, request.group, request.out, sum));
    Ok(())
}

/// The value of a record that is in memory with its checksum, checked. `out` has the length of the value.
pub(crate) fn read_record(
    decoder: &mut Decoder,
    row: &RowEntry,
    group: &RowGroup,
    record: &[u8],
    out: &mut [u8],
) -> Result<(), SegmentError> {
    let stored = checked_record(row, group, record)?;
    match row.encoding.is_raw() {
        true => out.copy_from_slice(stored),
        false => decoder.decode(row.encoding, stored, out)?,
    }
    Ok(())
}

/// The stored bytes of a record that is in memory with its checksum, checked.
pub(crate) fn checked_record<'a>(
    row: &RowEntry,
    group: &RowGroup,
    record: &'a [u8],
) -> Result<&'a [u8], SegmentError> {
    match record.split_last_chunk() {
        Some((stored, sum)) if stored.len() == row.stored_len as usize => {
            check(row, group, stored, *sum)?;
            Ok(stored)
        }
        _ => Err(SegmentError::Truncated(format!(
            "a record has {} bytes",
            record.len()
        ))),
    }
}

/// Compares a record with its checksum.
pub(crate) fn check(
    row: &RowEntry,
    group: &RowGroup,
    stored: &[u8],
    sum: [u8; CHECKSUM_LEN],
) -> Result<(), SegmentError> {
    let expected = u64::from_le_bytes(sum);
    let got = record_checksum(&row.key, group, row.encoding, stored);
    if got == expected {
        return Ok(());
    }
    Err(SegmentError::Corrupt(format!(
        "the record at {} has checksum {got:016x}, but {expected:016x} was written",
        row.offset
    )))
}
