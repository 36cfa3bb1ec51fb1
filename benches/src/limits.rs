//! Lower limits: work that any cache must do, timed over the same batches in the same order as the
//! calls, so that the processor's caches help both alike. Each is done on one core and on all cores, and
//! the faster counts: a limit must not include the cost of starting threads.

use std::fs::File;
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
        let bytes = |number: usize| &data[number].input_bytes[..];
        let one_core = per_batch(passes, data.len(), |number| read(bytes(number)));
        let all_cores = per_batch(passes, data.len(), |number| {
            bytes(number)
                .par_chunks(part(bytes(number).len()))
                .for_each(read);
        });
        let read = one_core.min(all_cores);
        let one_core = per_batch(passes, data.len(), |number| {
            black_box(blake3::hash(bytes(number)));
        });
        let all_cores = per_batch(passes, data.len(), |number| {
            let mut hasher = blake3::Hasher::new();
            black_box(hasher.update_rayon(bytes(number)).finalize());
        });
        let hash = one_core.min(all_cores);
        let mut copies = Copies::new(data);
        let one_core = per_batch(passes, data.len(), |number| copies.on_one_core(number));
        let write = one_core.min(per_batch(passes, data.len(), |number| {
            copies.on_all_cores(number)
        }));
        let mut reads = Reads::new(data).expect("a file in the temporary folder");
        let one_core = per_batch(passes, data.len(), |number| reads.on_one_core(number));
        let pread = one_core.min(per_batch(passes, data.len(), |number| {
            reads.on_all_cores(number)
        }));
        let limits = Limits {
            read,
            write,
            hash,
            pread,
            file: file(data, passes).expect("a file in the temporary folder"),
        };
        match data[0].input.device() {
            Device::Cpu => limits,
            device => limits.on_device(device, data, passes),
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

    /// Tensors on a GPU are read and written there.
    fn on_device(self, device: Device, data: &[Batch], passes: usize) -> Self {
        let calls = data.len() as f64;
        let touch = |batch: &Batch| {
            let bytes = batch.input.view(-1).view_dtype(Kind::Int64);
            drop(black_box(bytes.max()));
        };
        let read = best(passes, || {
            milliseconds(device, || data.iter().for_each(touch))
        }) / calls;
        let source = Tensor::from_slice(&data[0].output_bytes).to_device(device);
        let mut spare = source.empty_like();
        let mut copy = || data.iter().for_each(|_| spare.copy_(&source));
        let write = best(passes, || milliseconds(device, &mut copy)) / calls;
        Limits {
            read,
            write,
            ..self
        }
    }
}

/// Milliseconds per batch of `work` on each batch, by number.
fn per_batch(passes: usize, batches: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut all = || (0..batches).for_each(&mut work);
    best(passes, || milliseconds(Device::Cpu, &mut all)) / batches as f64
}

/// Copies outputs into one buffer: timed callers drop their outputs, too.
pub(crate) struct Copies<'a> {
    data: &'a [Batch],
    spare: Vec<u8>,
    part: usize,
}

impl<'a> Copies<'a> {
    pub(crate) fn new(data: &'a [Batch]) -> Self {
        let spare = data[0].output_bytes.clone();
        Copies {
            data,
            part: part(spare.len()),
            spare,
        }
    }

    pub(crate) fn on_one_core(&mut self, number: usize) {
        self.spare.copy_from_slice(&self.data[number].output_bytes);
        black_box(self.spare.as_ptr());
    }

    pub(crate) fn on_all_cores(&mut self, number: usize) {
        let from = self.data[number].output_bytes.par_chunks(self.part);
        let parts = self.spare.par_chunks_mut(self.part).zip(from);
        parts.for_each(|(to, from)| to.copy_from_slice(from));
    }
}

/// Reads outputs from a file in the page cache.
pub(crate) struct Reads {
    file: File,
    spare: Vec<u8>,
    part: usize,
}

impl Reads {
    pub(crate) fn new(data: &[Batch]) -> std::io::Result<Self> {
        let mut file = tempfile::tempfile()?;
        for batch in data {
            file.write_all(&batch.output_bytes)?;
        }
        let size = data[0].output_bytes.len();
        Ok(Reads {
            file,
            spare: vec![0; size],
            part: part(size),
        })
    }

    pub(crate) fn on_one_core(&mut self, number: usize) {
        let from = (number * self.spare.len()) as u64;
        let read = self.file.read_exact_at(&mut self.spare, from);
        read.expect("the file is complete");
    }

    pub(crate) fn on_all_cores(&mut self, number: usize) {
        let (file, part) = (&self.file, self.part);
        let from = number * self.spare.len();
        let parts = self.spare.par_chunks_mut(part).enumerate();
        parts.for_each(|(number, to)| {
            let read = file.read_exact_at(to, (from + number * part) as u64);
            read.expect("the file is complete");
        });
    }
}

/// Writes outputs to a file. On one core: writers of one file wait for each other.
fn file(data: &[Batch], passes: usize) -> std::io::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..passes {
        let mut file = tempfile::tempfile()?;
        let mut written = Ok(());
        let took = milliseconds(Device::Cpu, || {
            written = data
                .iter()
                .try_for_each(|batch| file.write_all(&batch.output_bytes));
        });
        written?;
        least = least.min(took);
    }
    Ok(least / data.len() as f64)
}

/// Bytes of each core's part, in whole cache lines.
fn part(bytes: usize) -> usize {
    bytes
        .div_ceil(rayon::current_num_threads())
        .next_multiple_of(64)
        .max(64)
}

/// Reads every byte, eight words at a time, so that the compiler can use wide registers.
fn read(bytes: &[u8]) {
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
