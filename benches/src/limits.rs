//! What the stages of a call stand beside: the same bytes, hashed, copied or read by plain means.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::floor::part;
use crate::micro::Micro;
use crate::workload::{Batch, Workload};

/// Milliseconds a batch.
#[derive(Debug)]
pub struct Limits {
    /// BLAKE3 of the rows one after another, on one core.
    pub row_by_row: f64,
    /// BLAKE3 of all of the input, on all cores.
    pub hash: f64,
    /// A copy of the output, where it lies.
    pub copy: f64,
    /// `pread` of the output's bytes from a file in the page cache.
    pub pread: f64,
}

impl Limits {
    /// Times them. Copies and reads are done on one core and on all, and the better counts: a limit
    /// must not lose to the cost of starting threads.
    pub fn measure(micro: &mut Micro, workload: &Workload, data: &[Batch]) -> Self {
        let group = |stage| format!("{stage} {}", workload.name);
        let mut batches = data.iter().cycle();
        let mut next = || batches.next().expect("there are batches");
        let row_bytes = data[0].input_bytes.len() / workload.batch as usize;
        let row_by_row = micro.whole(&group("keys"), "BLAKE3 of the rows", || {
            for row in next().input_bytes.chunks(row_bytes) {
                black_box(blake3::hash(row));
            }
        });
        let hash = micro.whole(&group("keys"), "BLAKE3 of the batch", || {
            let mut hasher = blake3::Hasher::new();
            black_box(hasher.update_rayon(&next().input_bytes).finalize())
        });
        Limits {
            row_by_row,
            hash,
            copy: match data[0].input.device() {
                Device::Cpu => copy(micro, &group("memory"), data),
                device => copy_on(micro, &group("memory"), data, device),
            },
            pread: pread(micro, &group("disk"), data),
        }
    }
}

fn copy(micro: &mut Micro, group: &str, data: &[Batch]) -> f64 {
    // A place of its own for each batch, since callers keep what they get for a while.
    let mut spare: Vec<_> = data
        .iter()
        .map(|batch| batch.output_bytes.clone())
        .collect();
    let part = part(spare[0].len());
    let mut turn = (0..data.len()).cycle();
    let mut next = || turn.next().expect("there are batches");
    let one = micro.whole(group, "copy, one core", || {
        let number = next();
        spare[number].copy_from_slice(&data[number].output_bytes);
        black_box(spare[number].as_ptr())
    });
    let all = micro.whole(group, "copy, all cores", || {
        let number = next();
        let from = data[number].output_bytes.par_chunks(part);
        let parts = spare[number].par_chunks_mut(part).zip(from);
        parts.for_each(|(to, from)| to.copy_from_slice(from));
    });
    one.min(all)
}

fn copy_on(micro: &mut Micro, group: &str, data: &[Batch], device: Device) -> f64 {
    let source = Tensor::from_slice(&data[0].output_bytes).to_device(device);
    let mut spare = source.empty_like();
    micro.part(group, "copy", 1.0, |calls| {
        let copies = || (0..calls).for_each(|_| spare.copy_(&source));
        std::time::Duration::from_secs_f64(crate::clock::milliseconds(device, copies) / 1e3)
    })
}

fn pread(micro: &mut Micro, group: &str, data: &[Batch]) -> f64 {
    let mut file = tempfile::tempfile().expect("a file in the temporary folder");
    for batch in data {
        file.write_all(&batch.output_bytes)
            .expect("room for a pass of outputs");
    }
    let file: &File = &file;
    let size = data[0].output_bytes.len();
    let mut spare = vec![0; size];
    let part = part(size);
    let mut turn = (0..data.len()).cycle();
    let mut next = || (turn.next().expect("there are batches") * size) as u64;
    let one = micro.whole(group, "pread, one core", || {
        file.read_exact_at(&mut spare, next())
            .expect("the file is whole");
    });
    let all = micro.whole(group, "pread, all cores", || {
        let from = next();
        let parts = spare.par_chunks_mut(part).enumerate();
        parts.for_each(|(number, to)| {
            file.read_exact_at(to, from + (number * part) as u64)
                .expect("the file is whole");
        });
    });
    one.min(all)
}
