//! Times cached calls on three workloads, each beside its limit in the same run: reading the input
//! once and writing the output once. Run with `cargo bench -p torchcache-benches`; `--quick` takes
//! few batches, and `TORCHCACHE_TEST_DEVICE=cuda` runs on the first GPU.
//!
//! Each line is a workload and a way of being served: milliseconds a call, and how many times the
//! limit that is. The forward costs next to nothing, so that what is timed is the cache.

use std::path::Path;
use std::time::Instant;

use tch::{Cuda, Device, Kind, Tensor};
use torchcache::{Cached, Options, Stats};

/// A workload: rows of one shape and kind, in batches.
struct Workload {
    name: &'static str,
    batch: i64,
    batches: i64,
    shape: &'static [i64],
    kind: Kind,
    forward: fn(&Tensor) -> Tensor,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "vision",
        batch: 64,
        batches: 8,
        shape: &[3, 224, 224],
        kind: Kind::Float,
        forward: |xs| xs.flatten(1, -1).narrow(1, 0, 512) * 2,
    },
    Workload {
        name: "embed",
        batch: 256,
        batches: 32,
        shape: &[768],
        kind: Kind::Float,
        forward: |xs| xs * 2,
    },
    Workload {
        name: "tokens",
        batch: 32,
        batches: 32,
        shape: &[128],
        kind: Kind::Int64,
        forward: |xs| xs.unsqueeze(-1).to_kind(Kind::Float).repeat([1, 1, 384]),
    },
];

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let device = match std::env::var("TORCHCACHE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    };
    println!("device {device:?}, {} threads", tch::get_num_threads());
    println!(
        "{:<8} {:<22} {:>12} {:>10}",
        "workload", "served", "ms a call", "x limit"
    );
    for workload in &WORKLOADS {
        measure(workload, device, quick);
    }
}

fn measure(workload: &Workload, device: Device, quick: bool) {
    let batches = if quick { 2 } else { workload.batches };
    let data: Vec<Tensor> = (0..batches).map(|_| workload.data(device)).collect();
    let limit = limit(workload, &data, device);
    let row = |served: &str, milliseconds: f64| {
        println!(
            "{:<8} {served:<22} {milliseconds:>12.4} {:>10.2}",
            workload.name,
            milliseconds / limit
        );
    };
    row("limit", limit);
    row(
        "forward",
        best(5, || per_call(&data, device, workload.forward)),
    );

    let memory = workload.cached(Options::new().max_memory_cache_size("8 GB"));
    row(
        "miss, memory",
        per_call(&data, device, |xs| memory.forward(xs)),
    );
    row(
        "hit, memory",
        best(5, || per_call(&data, device, |xs| memory.forward(xs))),
    );
    expect(&memory.cache().stats(), |stats| {
        stats.disk_hits == 0 && stats.memory_hits == 5 * stats.misses
    });

    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = |memory| workload.cached(options(directory.path()).max_memory_cache_size(memory));
    let writer = disk("8 GB");
    row(
        "miss, memory and disk",
        per_call(&data, device, |xs| writer.forward(xs)),
    );
    assert!(writer.cache().flush());
    drop(writer);
    let reader = disk("0 B");
    row(
        "hit, disk",
        best(5, || per_call(&data, device, |xs| reader.forward(xs))),
    );
    expect(&reader.cache().stats(), |stats| {
        stats.misses == 0 && stats.memory_hits == 0
    });
    let stats = reader.cache().stats();
    let row_bytes = (workload.forward)(&data[0]).numel() as i64 / workload.batch * 4;
    let beyond = stats.disk_bytes as f64 / stats.disk_rows as f64 - row_bytes as f64;
    println!(
        "{:<8} {:<22} {beyond:>12.1}",
        workload.name, "disk bytes beyond row"
    );
}

impl Workload {
    fn data(&self, device: Device) -> Tensor {
        let shape: Vec<i64> = [self.batch].iter().chain(self.shape).copied().collect();
        match self.kind {
            Kind::Int64 => Tensor::randint(30_000, &shape, (self.kind, device)),
            _ => Tensor::randn(&shape, (self.kind, device)),
        }
    }

    fn cached(&self, options: Options) -> Cached<tch::nn::Func<'static>> {
        Cached::new(tch::nn::func(self.forward), (), options.version(self.name))
            .expect("good options")
    }
}

fn options(directory: &Path) -> Options {
    Options::new()
        .persistent(true)
        .persistent_cache_dir(directory)
}

/// A figure counts only if it was measured on what its name says.
fn expect(stats: &Stats, holds: impl Fn(&Stats) -> bool) {
    assert!(holds(stats), "served otherwise than meant:\n{stats}");
}

/// Milliseconds a call to read every byte of an input once and write every byte of an output once,
/// over the same batches in the same order, so that caches of the machine help both alike.
fn limit(workload: &Workload, data: &[Tensor], device: Device) -> f64 {
    let output = (workload.forward)(&data[0]).contiguous();
    let mut spare: Vec<Tensor> = data.iter().map(|_| output.empty_like()).collect();
    let mut once = || {
        for (xs, spare) in data.iter().zip(&mut spare) {
            let _ = xs.view(-1).view_dtype(Kind::Int64).max();
            spare.copy_(&output);
        }
    };
    best(10, || timed(device, &mut once)) / data.len() as f64
}

fn per_call(data: &[Tensor], device: Device, call: impl Fn(&Tensor) -> Tensor) -> f64 {
    let all = || {
        for xs in data {
            let _ = call(xs);
        }
    };
    timed(device, all) / data.len() as f64
}

fn timed<R>(device: Device, run: impl FnOnce() -> R) -> f64 {
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

fn best(times: usize, mut run: impl FnMut() -> f64) -> f64 {
    (0..times).map(|_| run()).fold(f64::INFINITY, f64::min)
}
