//! Reading rows out of an open segment file: rows that lie one after the other with one system
//! call, each checked, and decompressed straight into its destination.

use std::cell::Cell;
use std::io::{self, IoSliceMut};

use zstd::bulk::Decompressor;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::error::SegmentError;
use super::format::{CHECKSUM_LEN, Row, RowGroup, record_checksum};
use super::shuffle::unshuffle;
use super::source::Source;

/// Raw values from this length on are read to where they go, with a buffer each; shorter ones by
/// way of a buffer that stays in the processor's cache, since each buffer costs the system more
/// than copying them does.
const SCATTER_FROM: usize = 5 << 9;

/// Rows of one system call that scatters: two buffers each, and systems allow 1024.
const MAX_SCATTERED_ROWS: usize = 512;

/// Rows are read in stretches of at most this many bytes, or one row, so that they are still in the
/// processor's cache when they are checked.
const MAX_STRETCH: u64 = 256 << 10;

/// More than this is not kept between reads.
const KEPT_SCRATCH: usize = 1 << 20;

/// A row to be read, where it goes, and how it went.
#[derive(Debug)]
pub(crate) struct Want<'a, T = ()> {
    /// What the caller knows it by.
    pub(crate) tag: T,
    pub(crate) row: &'a Row,
    pub(crate) group: &'a RowGroup,
    /// As long as the group says.
    pub(crate) out: &'a mut [u8],
    /// `None` until it was tried.
    pub(crate) outcome: Option<Result<(), SegmentError>>,
}

impl<T> Want<'_, T> {
    /// Whether `next` begins where this one ends.
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        self.row.end() == next.row.offset
    }
}

/// What reading needs besides the file. Kept for the thread's next call, as making it anew costs
/// more than a small read.
#[derive(Default)]
struct Tools {
    /// Bytes as they are in the file.
    stored: Vec<u8>,
    /// A compressed row out of a map.
    frame: Vec<u8>,
    /// Bytes that are decompressed, but still shuffled.
    shuffled: Vec<u8>,
    zstd: Option<Decompressor<'static>>,
}

thread_local! {
    /// Taken out while in use.
    static TOOLS: Cell<Option<Box<Tools>>> = const { Cell::new(None) };
}

/// Reads the wanted rows of a file. Those that lie in the order of the file are read in stretches.
pub(crate) fn fetch<T>(source: &Source, wants: &mut [Want<'_, T>]) {
    // A thread that ends may have dropped its own already.
    let kept = TOOLS.try_with(Cell::take).ok().flatten();
    let mut tools = kept.unwrap_or_default();
    let scatters = |want: &Want<'_, T>| {
        want.row.encoding.is_raw() && want.out.len() >= SCATTER_FROM && !source.is_mapped()
    };
    let together =
        |a: &Want<'_, T>, b: &Want<'_, T>| a.is_followed_by(b) && scatters(a) == scatters(b);
    for run in wants.chunk_by_mut(together) {
        let scatter = scatters(&run[0]);
        for stretch in stretches(run) {
            tools.read(source, stretch, scatter);
        }
    }
    for scratch in [&mut tools.stored, &mut tools.frame, &mut tools.shuffled] {
        scratch.truncate(KEPT_SCRATCH);
        scratch.shrink_to(KEPT_SCRATCH);
    }
    let _ = TOOLS.try_with(|kept| kept.set(Some(tools)));
}

/// Cuts adjacent rows into pieces for one system call each.
fn stretches<'r, 'a, T>(
    mut run: &'r mut [Want<'a, T>],
) -> impl Iterator<Item = &'r mut [Want<'a, T>]> {
    std::iter::from_fn(move || {
        let begin = run.first()?.row.offset;
        let len = run
            .iter()
            .take(MAX_SCATTERED_ROWS)
            .take_while(|want| want.row.end() - begin <= MAX_STRETCH)
            .count()
            .max(1);
        let (stretch, rest) = std::mem::take(&mut run).split_at_mut(len);
        run = rest;
        Some(stretch)
    })
}

impl Tools {
    /// Reads adjacent rows at once; if that fails, each by itself, so that one bad sector or
    /// a cut-off end costs only the rows that it hits.
    fn read<T>(&mut self, source: &Source, stretch: &mut [Want<'_, T>], scatter: bool) {
        let read = match stretch {
            [single] if scatter => scatter_one(source, single),
            _ if scatter => scatter_all(source, stretch),
            _ => self.through(source, stretch),
        };
        let Err(error) = read else { return };
        match stretch {
            [single] => single.outcome = Some(Err(error)),
            _ => stretch
                .iter_mut()
                .for_each(|want| self.read(source, std::slice::from_mut(want), scatter)),
        }
    }

    /// From the map or a buffer, copied or decompressed.
    fn through<T>(
        &mut self,
        source: &Source,
        stretch: &mut [Want<'_, T>],
    ) -> Result<(), SegmentError> {
        let Tools {
            stored,
            frame,
            shuffled,
            zstd,
        } = self;
        let begin = stretch[0].row.offset;
        let len = (stretch[stretch.len() - 1].row.end() - begin) as usize;
        let bytes = source.bytes(begin, len, stored)?;
        for want in stretch {
            let at = (want.row.offset - begin) as usize;
            let (stored, rest) = bytes[at..].split_at(want.row.stored_len as usize);
            let sum = std::array::from_fn(|i| rest[i]);
            // Of a map, a copy is what is checked and used: it may change under our hands.
            want.outcome = Some(if want.row.encoding.is_raw() {
                want.out.copy_from_slice(stored);
                check(want.row, want.group, want.out, sum)
            } else {
                let stored = if source.is_mapped() {
                    frame.clear();
                    frame.extend_from_slice(stored);
                    &frame[..]
                } else {
                    stored
                };
                check(want.row, want.group, stored, sum).and_then(|()| {
                    decode(
                        zstd,
                        shuffled,
                        want.row.encoding.element_bytes(),
                        stored,
                        want.out,
                    )
                })
            });
        }
        Ok(())
    }
}

/// Raw rows without a map: the kernel copies each value to its destination.
fn scatter_all<T>(source: &Source, stretch: &mut [Want<'_, T>]) -> Result<(), SegmentError> {
    let begin = stretch[0].row.offset;
    let mut sums = vec![[0; CHECKSUM_LEN]; stretch.len()];
    let mut buffers = Vec::with_capacity(2 * stretch.len());
    for (want, sum) in stretch.iter_mut().zip(&mut sums) {
        buffers.push(IoSliceMut::new(want.out));
        buffers.push(IoSliceMut::new(sum));
    }
    source.scatter(begin, &mut buffers)?;
    for (want, sum) in stretch.iter_mut().zip(sums) {
        want.outcome = Some(check(want.row, want.group, want.out, sum));
    }
    Ok(())
}

/// The same without an allocation, for rows that lie apart.
fn scatter_one<T>(source: &Source, want: &mut Want<'_, T>) -> Result<(), SegmentError> {
    let mut sum = [0; CHECKSUM_LEN];
    let mut buffers = [IoSliceMut::new(want.out), IoSliceMut::new(&mut sum)];
    source.scatter(want.row.offset, &mut buffers)?;
    want.outcome = Some(check(want.row, want.group, want.out, sum));
    Ok(())
}

/// Compares a record with its checksum.
pub(crate) fn check(
    row: &Row,
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

/// Decompresses a value, and undoes what was done to it before.
pub(super) fn decode(
    zstd: &mut Option<Decompressor<'static>>,
    shuffled: &mut Vec<u8>,
    element_bytes: usize,
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), SegmentError> {
    if element_bytes == 1 {
        return decompress(zstd, stored, out);
    }
    if shuffled.len() < out.len() {
        shuffled.resize(out.len(), 0);
    }
    let shuffled = &mut shuffled[..out.len()];
    decompress(zstd, stored, shuffled)?;
    unshuffle(element_bytes, shuffled, out);
    Ok(())
}

/// Decompresses into exactly `out`: neither more nor less is accepted.
fn decompress(
    zstd: &mut Option<Decompressor<'static>>,
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), SegmentError> {
    let decompressor = match zstd {
        Some(decompressor) => decompressor,
        None => zstd.insert(Decompressor::new()?),
    };
    match decompressor.decompress_to_buffer(stored, out) {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(SegmentError::Corrupt(format!(
            "a row of {} bytes decompresses to {len}",
            out.len()
        ))),
        Err(error) => Err(undecodable(error)),
    }
}

/// Why a row does not decompress. That memory is short says nothing of it: the next time there may be
/// some, and a repair must not take the row out.
pub(super) fn undecodable(error: io::Error) -> SegmentError {
    let inner = error.get_ref();
    let zstd = inner.and_then(|inner| inner.downcast_ref::<zstd::Error>());
    let is_short = |error: &zstd::Error| error.is(ZSTD_ErrorCode::ZSTD_error_memory_allocation);
    if error.kind() == io::ErrorKind::OutOfMemory || zstd.is_some_and(is_short) {
        return SegmentError::Io(io::ErrorKind::OutOfMemory.into());
    }
    SegmentError::Corrupt(format!("a row does not decompress: {error}"))
}
