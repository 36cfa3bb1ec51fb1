//! Lower limits of the stages of a call: the same bytes, hashed, copied or read by plain means.

use std::hint::black_box;

use tch::{Device, Tensor};

use crate::limits::{Copies, Reads};
use crate::micro::Micro;
use crate::workload::{Batch, Workload};

/// Milliseconds a batch.
#[derive(Debug)]
pub struct StageLimits {
    /// BLAKE3 of the rows one after another, on one core.
    pub row_by_row: f64,
    /// BLAKE3 of all of the input, on all cores.
    pub hash: f64,
    /// A copy of the output, on its device.
    pub copy: f64,
    /// `pread` of the output's bytes from a file in the page cache.
    pub pread: f64,
}

impl StageLimits {
    /// Times them; of copies and reads, the faster of one core and all cores.
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
        StageLimits {
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
    let mut copies = Copies::new(data);
    let mut turn = (0..data.len()).cycle();
    let mut next = || turn.next().expect("there are batches");
    let one = micro.whole(group, "copy, one core", || copies.on_one_core(next()));
    one.min(micro.whole(group, "copy, all cores", || copies.on_all_cores(next())))
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
    let mut reads = Reads::new(data).expect("a file in the temporary folder");
    let mut turn = (0..data.len()).cycle();
    let mut next = || turn.next().expect("there are batches");
    let one = micro.whole(group, "pread, one core", || reads.on_one_core(next()));
    one.min(micro.whole(group, "pread, all cores", || reads.on_all_cores(next())))
}
