//! Milliseconds of a call, averaged over a pass, and the best of several passes.

use std::hint::black_box;
use std::time::Instant;

use tch::{Cuda, Device, Tensor};

use crate::workload::Batch;

/// The device of the benchmarks: `TORCHCACHE_TEST_DEVICE`, or the CPU.
pub fn device() -> Device {
    match std::env::var("TORCHCACHE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

/// Milliseconds that `run` takes, including its work on `device`. Its result is dropped after the clock
/// has stopped.
pub fn milliseconds<R>(device: Device, run: impl FnOnce() -> R) -> f64 {
    let synchronize = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    synchronize();
    let start = Instant::now();
    let result = run();
    synchronize();
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    drop(result);
    milliseconds
}

/// Milliseconds a call over one pass.
pub fn pass(data: &[Batch], call: impl Fn(&Tensor) -> Tensor) -> f64 {
    pass_with_ids(data, |batch| call(&batch.input))
}

/// The same for calls with ids of the rows.
pub fn pass_with_ids(data: &[Batch], call: impl Fn(&Batch) -> Tensor) -> f64 {
    let mut batches = data.iter().cycle();
    let next = || call(batches.next().expect("there are batches"));
    repeated(data[0].input.device(), data.len(), next)
}

/// Milliseconds a call over a number of calls.
pub fn repeated<R>(device: Device, calls: usize, mut call: impl FnMut() -> R) -> f64 {
    let all = || {
        for _ in 0..calls {
            drop(black_box(call()));
        }
    };
    milliseconds(device, all) / calls as f64
}

/// The fastest of several passes: interference only makes a pass longer.
pub fn best(passes: usize, mut pass: impl FnMut() -> f64) -> f64 {
    (0..passes).map(|_| pass()).fold(f64::INFINITY, f64::min)
}
