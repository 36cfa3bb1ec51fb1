//! The least that any cache must do, timed over the same batches in the same order as the calls,
//! so that the machine's own caches help both alike. Each deed is done on one core and on all, and
//! the better counts: a limit must not lose to the cost of starting threads.

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
pub struct Floor {
    /// Reading every byte of the input.
    pub read: f64,
    /// Writing every byte of the output, from a copy that lies in memory.
    pub write: f64,
    /// BLAKE3 of the input.
    pub hash: f64,
    /// `pread` of the output's bytes from a file in the page cache.
    pub pread: f64,
    /// Writing the output's bytes to a new file, into the page cache.
    pub file: f64,
}

impl Floor {
    /// Each deed, best of `passes`.
    pub fn measure(data: &[Batch], passes: usize) -> Self {
        let read = either(
            passes,
            data,
            |batch| read(&batch.input_bytes),
            |batch| {
                let part = part(batch.input_bytes.len());
                batch.input_bytes.par_chunks(part).for_each(read);
            },
        );
        let hash = either(
            passes,
            data,
            |batch| {
                black_box(blake3::hash(&batch.input_bytes));
            },
            |batch| {
                let mut hasher = blake3::Hasher::new();
                black_box(hasher.update_rayon(&batch.input_bytes).finalize());
            },
        );
        let write = write(data, passes);
        let floor = Floor {
            read,
            write,
            hash,
            pread: pread(data, passes).expect("a file in the temporary folder"),
            file: file(data, passes).expect("a file in the temporary folder"),
        };
        match data[0].input.device() {
            Device::Cpu => floor,
            device => floor.on(device, data, passes),
        }
    }

    /// The better of two measurements, deed by deed.
    pub fn least(self, other: Floor) -> Self {
        Floor {
            read: self.read.min(other.read),
            write: self.write.min(other.write),
            hash: self.hash.min(other.hash),
            pread: self.pread.min(other.pread),
            file: self.file.min(other.file),
        }
    }

    /// Where tensors lie on a GPU, they are read and written there.
    fn on(self, device: Device, data: &[Batch], passes: usize) -> Self {
        let calls = data.len() as f64;
        let touch = |batch: &Batch| {
            let bytes = batch.input.view(-1).view_dtype(Kind::Int64);
            drop(black_box(bytes.max()));
        };
        let read = best(passes, || {
            milliseconds(device, || data.iter().for_each(touch))
        }) / calls;
        let source = Tensor::from_slice(&data[0].output_bytes).to_device(device);
        let mut spare: Vec<_> = data.iter().map(|_| source.empty_like()).collect();
        let mut copy = || spare.iter_mut().for_each(|spare| spare.copy_(&source));
        let write = best(passes, || milliseconds(device, &mut copy)) / calls;
        Floor {
            read,
            write,
            ..self
        }
    }
}

/// The better of two ways to do something with each batch, in milliseconds a batch.
fn either(
    passes: usize,
    data: &[Batch],
    one_core: impl Fn(&Batch),
    all_cores: impl Fn(&Batch),
) -> f64 {
    let one = best(passes, || {
        milliseconds(Device::Cpu, || data.iter().for_each(&one_core))
    });
    let all = best(passes, || {
        milliseconds(Device::Cpu, || data.iter().for_each(&all_cores))
    });
    one.min(all) / data.len() as f64
}

fn write(data: &[Batch], passes: usize) -> f64 {
    // A place of its own for each batch, since callers keep what they get for a while.
    let mut spare: Vec<_> = data
        .iter()
        .map(|batch| batch.output_bytes.clone())
        .collect();
    let part = part(data[0].output_bytes.len());
    let one = best(passes, || {
        milliseconds(Device::Cpu, || {
            for (batch, spare) in data.iter().zip(&mut spare) {
                spare.copy_from_slice(&batch.output_bytes);
                black_box(spare.as_ptr());
            }
        })
    });
    let all = best(passes, || {
        milliseconds(Device::Cpu, || {
            for (batch, spare) in data.iter().zip(&mut spare) {
                let parts = spare
                    .par_chunks_mut(part)
                    .zip(batch.output_bytes.par_chunks(part));
                parts.for_each(|(to, from)| to.copy_from_slice(from));
            }
        })
    });
    one.min(all) / data.len() as f64
}

fn pread(data: &[Batch], passes: usize) -> std::io::Result<f64> {
    let mut file = tempfile::tempfile()?;
    for batch in data {
        file.write_all(&batch.output_bytes)?;
    }
    let file: &File = &file;
    let size = data[0].output_bytes.len();
    let mut spare = vec![0; size];
    let part = part(size);
    let one = best(passes, || {
        milliseconds(Device::Cpu, || {
            for index in 0..data.len() {
                let from = (index * size) as u64;
                file.read_exact_at(&mut spare, from)
                    .expect("the file is whole");
            }
        })
    });
    let all = best(passes, || {
        milliseconds(Device::Cpu, || {
            for index in 0..data.len() {
                spare
                    .par_chunks_mut(part)
                    .enumerate()
                    .for_each(|(number, to)| {
                        let from = (index * size + number * part) as u64;
                        file.read_exact_at(to, from).expect("the file is whole");
                    });
            }
        })
    });
    Ok(one.min(all) / data.len() as f64)
}

/// On one core: writers of one file wait for each other.
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
pub(crate) fn part(bytes: usize) -> usize {
    bytes
        .div_ceil(rayon::current_num_threads())
        .next_multiple_of(64)
        .max(64)
}

/// Reads every byte, eight words at a time so that the compiler can use wide registers.
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
