//! Lower limits: work that any cache must do, timed over the same batches in the same order as the
//! calls, so that the processor's caches help both alike. Each is done on one core and on all cores, and
//! the faster counts: a limit must not include the cost of starting threads.

use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::clock::{best, milliseconds};
use crate::workload::Batch;

/// Milliseconds a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Reading every byte of the input.
    pub read: f64,
    /// Writing every byte of the output, from a copy in memory.
    pub write: f64,
    /// BLAKE3 of the input.
    pub hash: f64,
    /// `pread` of the output's bytes from a file in the page cache.
    pub pread: f64,
    /// Writing the output's bytes to a new file, into the page cache.
    pub file: f64,
}

impl Limits {
    /// Times each, best of `passes`.
    pub fn measure(data: &[Batch], passes: usize) -> Self {
        Limits {
            read: read(data, passes),
            write: write(data, passes),
            hash: hash(data, passes),
            pread: pread(data, passes),
            file: file(data, passes),
        }
    }

    /// The smaller of two measurements, one by one.
    pub fn min(self, other: Limits) -> Self {
        Limits {
            read: self.read.min(other.read),
            write: self.write.min(other.write),
            hash: self.hash.min(other.hash),
            pread: self.pread.min(other.pread),
            file: self.file.min(other.file),
        }
    }
}

/// Milliseconds to read a batch of the input, on its device.
pub fn read(data: &[Batch], passes: usize) -> f64 {
    let device = data[0].input.device();
    if device != Device::Cpu {
        return per_batch(data, passes, device, |batch| {
            let bytes = batch.input.view(-1).view_dtype(Kind::Int64);
            drop(black_box(bytes.max()));
        });
    }
    faster(data, passes, |batch, all_cores| {
        let bytes = &batch.input_bytes[..];
        match all_cores {
            false => read_bytes(bytes),
            true => bytes.par_chunks(part(bytes.len())).for_each(read_bytes),
        }
    })
}

/// Milliseconds to copy a batch of the output into one buffer, on its device: timed callers drop their
/// outputs, too.
pub fn write(data: &[Batch], passes: usize) -> f64 {
    let device = data[0].input.device();
    if device != Device::Cpu {
        let source = Tensor::from_slice(&data[0].output_bytes).to_device(device);
        let mut spare = source.empty_like();
        return per_batch(data, passes, device, |_| spare.copy_(&source));
    }
    let mut spare = data[0].output_bytes.clone();
    let part = part(spare.len());
    faster(data, passes, |batch, all_cores| {
        let from = &batch.output_bytes;
        match all_cores {
            false => spare.copy_from_slice(from),
            true => {
                let parts = spare.par_chunks_mut(part).zip(from.par_chunks(part));
                parts.for_each(|(to, from)| to.copy_from_slice(from));
            }
        }
        black_box(spare.as_ptr());
    })
}

/// Milliseconds for BLAKE3 of a batch of the input.
pub fn hash(data: &[Batch], passes: usize) -> f64 {
    faster(data, passes, |batch, all_cores| {
        let mut hasher = blake3::Hasher::new();
        match all_cores {
            false => hasher.update(&batch.input_bytes),
            true => hasher.update_rayon(&batch.input_bytes),
        };
        black_box(hasher.finalize());
    })
}

/// Milliseconds for BLAKE3 of the rows of a batch, one after another, on one core.
pub fn hash_rows(data: &[Batch], passes: usize) -> f64 {
    per_batch(data, passes, Device::Cpu, |batch| {
        let row_bytes = batch.input_bytes.len() / batch.ids.len();
        for row in batch.input_bytes.chunks(row_bytes) {
            black_box(blake3::hash(row));
        }
    })
}

/// Milliseconds to read a batch of the output from a file in the page cache.
pub fn pread(data: &[Batch], passes: usize) -> f64 {
    let mut file = tempfile::tempfile().expect("a file in the temporary folder");
    for batch in data {
        let written = file.write_all(&batch.output_bytes);
        written.expect("room in the temporary folder");
    }
    let mut spare = data[0].output_bytes.clone();
    let (len, part) = (spare.len(), part(spare.len()));
    let mut batches = (0..data.len()).cycle();
    faster(data, passes, |_, all_cores| {
        let first = len * batches.next().expect("it is endless");
        let read = |to: &mut [u8], from: usize| {
            let read = file.read_exact_at(to, (first + from) as u64);
            read.expect("the file is complete");
        };
        match all_cores {
            false => read(&mut spare, 0),
            true => {
                let parts = spare.par_chunks_mut(part).enumerate();
                parts.for_each(|(number, to)| read(to, number * part));
            }
        }
    })
}

/// Milliseconds to write a batch of the output to a new file. On one core: writers of one file wait for
/// each other.
fn file(data: &[Batch], passes: usize) -> f64 {
    let pass = || {
        let mut file = tempfile::tempfile().expect("a file in the temporary folder");
        let write = |batch: &Batch| file.write_all(&batch.output_bytes);
        milliseconds(Device::Cpu, || {
            data.iter()
                .try_for_each(write)
                .expect("room in the temporary folder")
        })
    };
    best(passes, pass) / data.len() as f64
}

/// Milliseconds of `work` on a batch.
fn per_batch(data: &[Batch], passes: usize, device: Device, mut work: impl FnMut(&Batch)) -> f64 {
    let mut all = || data.iter().for_each(&mut work);
    best(passes, || milliseconds(device, &mut all)) / data.len() as f64
}

/// Milliseconds of `work` on a batch, on one core or on all, whichever is faster. `work` gets a batch, and
/// whether to use all cores.
fn faster(data: &[Batch], passes: usize, mut work: impl FnMut(&Batch, bool)) -> f64 {
    let mut timed =
        |all_cores| per_batch(data, passes, Device::Cpu, |batch| work(batch, all_cores));
    timed(false).min(timed(true))
}

/// Bytes of each core's part, in whole cache lines.
fn part(bytes: usize) -> usize {
    bytes
        .div_ceil(rayon::current_num_threads())
        .next_multiple_of(64)
        .max(64)
}

/// Reads every byte, eight words at a time, so that the compiler can use wide registers.
fn read_bytes(bytes: &[u8]) {
    let mut sums = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }
    black_box((sums, rest.iter().fold(0, |sum, byte| sum ^ byte)));
}
