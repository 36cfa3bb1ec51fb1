//! Reading rows out of an open segment file, by `pread` or through a map. Rows that lie one
//! after the other are fetched with one system call, straight into their destinations.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::path::Path;

use memmap2::Mmap;
use zstd::bulk::Decompressor;

use super::format::{CHECKSUM_LEN, Class, Row, Storage, record_checksum};
use super::reader::{Unreadable, read_at};
use crate::sys;

/// Rows of one `preadv`: two buffers each, and systems allow 1024.
const MAX_RUN_ROWS: usize = 512;

/// Compressed rows are read in runs of at most this many bytes, or one row.
const MAX_RUN_BYTES: u64 = 1 << 20;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    map: Option<Mmap>,
}

/// A row to be read, where it goes, and how it went.
#[derive(Debug)]
pub(crate) struct Want<'a> {
    /// The caller's number for this row.
    pub(crate) slot: usize,
    pub(crate) row: Row,
    pub(crate) class: &'a Class,
    /// As long as the class says.
    pub(crate) out: &'a mut [u8],
    pub(crate) outcome: Result<(), Unreadable>,
}

impl Source {
    pub(crate) fn open(path: &Path, mmap: bool) -> io::Result<Source> {
        let file = File::open(path)?;
        // An empty file cannot be mapped, and there is nothing in it to read.
        let map = if mmap && file.metadata()?.len() > 0 {
            Some(sys::map(&file)?)
        } else {
            None
        };
        Ok(Source { file, map })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// The bytes of one stretch of the file, from the map or read into `scratch`.
    pub(crate) fn bytes<'a>(
        &'a self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Unreadable> {
        if let Some(map) = &self.map {
            let begin = usize::try_from(offset).ok();
            let end = begin.and_then(|begin| begin.checked_add(len));
            return begin
                .zip(end)
                .and_then(|(begin, end)| map.get(begin..end))
                .ok_or_else(|| Unreadable::Truncated(format!("nothing to read at {offset}")));
        }
        scratch.resize(len, 0);
        read_at(&self.file, scratch, offset)?;
        Ok(scratch)
    }

    /// Reads the wanted rows, which the caller has put in the order of the file.
    pub(crate) fn fetch(&self, wants: &mut [Want<'_>]) {
        let mut fetcher = Fetcher {
            source: self,
            scratch: Vec::new(),
            zstd: None,
        };
        for run in
            wants.chunk_by_mut(|a, b| a.row.end() == b.row.offset && a.row.storage == b.row.storage)
        {
            for run in split_run(run) {
                fetcher.run(run);
            }
        }
    }
}

/// Cuts adjacent rows into pieces that one system call may take.
fn split_run<'r, 'a>(mut run: &'r mut [Want<'a>]) -> impl Iterator<Item = &'r mut [Want<'a>]> {
    std::iter::from_fn(move || {
        let first = run.first()?.row;
        let fits = |want: &Want<'_>| {
            want.row.storage == Storage::Raw || want.row.end() - first.offset <= MAX_RUN_BYTES
        };
        let len = run
            .iter()
            .take(MAX_RUN_ROWS)
            .take_while(|want| fits(want))
            .count()
            .max(1);
        let (piece, rest) = std::mem::take(&mut run).split_at_mut(len);
        run = rest;
        Some(piece)
    })
}

/// What reading several runs shares.
struct Fetcher<'s> {
    source: &'s Source,
    scratch: Vec<u8>,
    zstd: Option<Decompressor<'static>>,
}

impl Fetcher<'_> {
    /// Reads adjacent rows at once; if that fails, each by itself, so that one bad sector or
    /// a cut-off end costs only the rows that it hits.
    fn run(&mut self, run: &mut [Want<'_>]) {
        let Err(error) = self.adjacent(run) else {
            return;
        };
        match run {
            [single] => single.outcome = Err(error),
            _ => run
                .iter_mut()
                .for_each(|want| self.run(std::slice::from_mut(want))),
        }
    }

    fn adjacent(&mut self, run: &mut [Want<'_>]) -> Result<(), Unreadable> {
        let raw = run[0].row.storage == Storage::Raw;
        if raw && !self.source.is_mapped() {
            self.scatter(run)
        } else {
            self.through(run)
        }
    }

    /// Raw rows without a map: the kernel copies each value to its destination.
    fn scatter(&mut self, run: &mut [Want<'_>]) -> Result<(), Unreadable> {
        let begin = run[0].row.offset;
        let mut sums = vec![[0; CHECKSUM_LEN]; run.len()];
        let mut buffers = Vec::with_capacity(2 * run.len());
        for (want, sum) in run.iter_mut().zip(&mut sums) {
            buffers.push(IoSliceMut::new(want.out));
            buffers.push(IoSliceMut::new(sum));
        }
        read_vectored_exact(&self.source.file, &mut buffers, begin)?;
        for (want, sum) in run.iter_mut().zip(sums) {
            want.outcome = check(want.row, want.class, want.out, sum);
        }
        Ok(())
    }

    /// Everything else: from the map or a buffer, copied or decompressed.
    fn through(&mut self, run: &mut [Want<'_>]) -> Result<(), Unreadable> {
        let begin = run[0].row.offset;
        let len = (run[run.len() - 1].row.end() - begin) as usize;
        let bytes = self.source.bytes(begin, len, &mut self.scratch)?;
        for want in run {
            let at = (want.row.offset - begin) as usize;
            let (stored, rest) = bytes[at..].split_at(want.row.stored_len as usize);
            let sum = std::array::from_fn(|i| rest[i]);
            want.outcome = match want.row.storage {
                // The copy is what is checked: a map may change under our hands.
                Storage::Raw => {
                    want.out.copy_from_slice(stored);
                    check(want.row, want.class, want.out, sum)
                }
                Storage::Zstd => check(want.row, want.class, stored, sum)
                    .and_then(|()| decompress(&mut self.zstd, stored, want.out)),
            };
        }
        Ok(())
    }
}

/// Compares a record with its checksum.
pub(crate) fn check(
    row: Row,
    class: &Class,
    stored: &[u8],
    sum: [u8; CHECKSUM_LEN],
) -> Result<(), Unreadable> {
    let expected = u64::from_le_bytes(sum);
    let got = record_checksum(&row.key, class, row.storage, stored);
    if got == expected {
        return Ok(());
    }
    Err(Unreadable::Corrupt(format!(
        "the record at {} has checksum {got:016x}, but {expected:016x} was written",
        row.offset
    )))
}

/// Decompresses into exactly `out`: neither more nor less is accepted.
fn decompress(
    zstd: &mut Option<Decompressor<'static>>,
    stored: &[u8],
    out: &mut [u8],
) -> Result<(), Unreadable> {
    let decompressor = match zstd {
        Some(decompressor) => decompressor,
        None => zstd.insert(Decompressor::new()?),
    };
    match decompressor.decompress_to_buffer(stored, out) {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(Unreadable::Corrupt(format!(
            "a row of {} bytes decompresses to {len}",
            out.len()
        ))),
        Err(error) => Err(Unreadable::Corrupt(format!(
            "a row does not decompress: {error}"
        ))),
    }
}

fn read_vectored_exact(
    file: &File,
    mut buffers: &mut [IoSliceMut<'_>],
    mut offset: u64,
) -> Result<(), Unreadable> {
    // Drops empty buffers at the front, so that "nothing left" is an empty slice.
    IoSliceMut::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        match rustix::io::preadv(file, buffers, offset) {
            Ok(0) => {
                return Err(Unreadable::Truncated(format!(
                    "nothing to read at {offset}"
                )));
            }
            Ok(read) => {
                IoSliceMut::advance_slices(&mut buffers, read);
                offset += read as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Unreadable::Io(error.into())),
        }
    }
    Ok(())
}
