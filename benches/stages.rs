//! The stages of a call, each with its lower limit: keys, memory lookup and gather, disk lookup and read,
//! store and assemble, open; and the fixed cost of a call.
//!
//! `cargo bench -p torchcache-benches --bench stages`. `torchcache-store/benches` times the disk tier by
//! itself.

use std::fs;
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use tch::Kind;
use torchcache::Options;

use torchcache_benches::args::{Args, PAGE_BEGINS};
use torchcache_benches::clock;
use torchcache_benches::fixed::Fixed;
use torchcache_benches::micro::Micro;
use torchcache_benches::ours::{cached, expect, files_below};
use torchcache_benches::stage_limits::StageLimits;
use torchcache_benches::stages::{Profile, Serving, Stages};
use torchcache_benches::table::{Table, bytes, ratio, time};
use torchcache_benches::workload::{Batch, WORKLOADS, Workload};

/// Further sizes of rows and batches.
const OTHERS: [Workload; 3] = [
    Workload {
        name: "one row",
        batch: 1,
        batches: 256,
        shape: &[768],
        kind: Kind::Float,
        forward: |xs| xs * 2,
    },
    Workload {
        name: "small rows",
        batch: 4096,
        batches: 8,
        shape: &[16],
        kind: Kind::Float,
        forward: |xs| xs * 2,
    },
    Workload {
        name: "odd rows",
        batch: 64,
        batches: 32,
        shape: &[5001],
        kind: Kind::Float,
        forward: |xs| xs * 2,
    },
];

struct Measured<'a> {
    workload: &'a Workload,
    profile: Profile,
    stages: Micros,
    limits: StageLimits,
}

/// Milliseconds per stage, by Criterion.
struct Micros {
    keys: f64,
    memory: f64,
    disk: f64,
    disk_zstd: f64,
    store: f64,
}

fn main() {
    let args = Args::parse();
    let passes = if args.quick { 1 } else { 5 };
    let mut micro = Micro::new(args.quick);
    let all: Vec<_> = WORKLOADS.iter().chain(&OTHERS).collect();
    let measured: Vec<_> = all
        .into_iter()
        .map(|workload| {
            let batches = if args.quick { 2 } else { workload.batches };
            let data = workload.data(batches, clock::device());
            let profile = Profile::measure(workload, &data, passes);
            Measured {
                workload,
                stages: Micros::measure(&mut micro, workload, &data, &profile),
                limits: StageLimits::measure(&mut micro, workload, &data),
                profile,
            }
        })
        .collect();
    let opening = opening(&mut micro, if args.quick { 1_000 } else { 100_000 });
    let fixed = Fixed::measure(&mut micro, clock::device());
    println!("{PAGE_BEGINS}");
    println!("{}", whole_calls(&measured));
    println!("{}", keys(&measured));
    println!("{}", loading(&measured));
    println!("{}", storing(&measured));
    println!("{opening}");
    println!("{}", fixed_cost(&fixed));
}

impl Micros {
    fn measure(micro: &mut Micro, workload: &Workload, data: &[Batch], profile: &Profile) -> Self {
        let name = workload.name;
        // The output is assembled within the gather or after it.
        let loading = |stages: &Stages| (stages.load + stages.rest()) / stages.call;
        let served = Serving::from_memory(workload, data);
        let Stages { keys, call, .. } = profile.memory;
        let keys = micro.part(
            &format!("keys {name}"),
            "torchcache",
            keys / call,
            |calls| served.hashing(calls),
        );
        let group = format!("memory {name}");
        let memory = micro.part(&group, "torchcache", loading(&profile.memory), |calls| {
            served.except_hashing(calls)
        });
        drop(served);
        let [disk, disk_zstd] =
            [(&profile.disk, false), (&profile.disk_zstd, true)].map(|(stages, zstd)| {
                let served = Serving::from_disk(workload, data, zstd);
                let title = if zstd {
                    "torchcache, zstd"
                } else {
                    "torchcache"
                };
                let group = format!("disk {name}");
                micro.part(&group, title, loading(stages), |calls| {
                    served.except_hashing(calls)
                })
            });
        let cold = Serving::cold(workload, data);
        let Stages { store, call, .. } = profile.miss;
        let share = (store + profile.miss.rest()) / call;
        let store = micro.part(&format!("store {name}"), "torchcache", share, |calls| {
            cold.storing(calls)
        });
        Micros {
            keys,
            memory,
            disk,
            disk_zstd,
            store,
        }
    }
}

fn whole_calls(measured: &[Measured]) -> String {
    let header = [
        "workload", "served", "call", "keys", "load", "forward", "store", "rest",
    ];
    let mut table = Table::new(2, header);
    for Measured {
        workload, profile, ..
    } in measured
    {
        for (served, stages) in [
            ("memory hit", profile.memory),
            ("disk hit", profile.disk),
            ("disk hit, zstd", profile.disk_zstd),
            ("cold, persistent", profile.miss),
        ] {
            let share = |part: f64| match part {
                0.0 => String::new(),
                part => format!("{} ({:.0} %)", time(part), part / stages.call * 100.0),
            };
            table.row([
                workload.name.to_owned(),
                served.to_owned(),
                time(stages.call),
                share(stages.keys),
                share(stages.load),
                share(stages.forward),
                share(stages.store),
                share(stages.rest()),
            ]);
        }
    }
    format!("#### Whole calls\n\n{table}")
}

fn keys(measured: &[Measured]) -> String {
    let header = [
        "workload",
        "input of a batch",
        "keys",
        "BLAKE3 of the rows, one core",
        "keys / that",
        "BLAKE3 of the batch, all cores",
        "keys / that",
    ];
    let mut table = Table::new(2, header);
    for measured in measured {
        let keys = measured.stages.keys;
        table.row([
            measured.workload.name.to_owned(),
            measured.workload.describe(),
            time(keys),
            time(measured.limits.row_by_row),
            ratio(keys / measured.limits.row_by_row),
            time(measured.limits.hash),
            ratio(keys / measured.limits.hash),
        ]);
    }
    format!("#### Keys\n\n{table}")
}

/// Figures of each workload with one limit.
fn compared<const N: usize>(
    title: &str,
    limit_name: &str,
    measured: &[Measured],
    figures: impl Fn(&Micros) -> [(&'static str, f64); N],
    limit: fn(&StageLimits) -> f64,
) -> Table {
    let mut table = Table::new(2, ["workload", "from", title, limit_name, "ratio"]);
    for measured in measured {
        let limit = limit(&measured.limits);
        for (from, figure) in figures(&measured.stages) {
            table.row([
                measured.workload.name.to_owned(),
                from.to_owned(),
                time(figure),
                time(limit),
                ratio(figure / limit),
            ]);
        }
    }
    table
}

fn loading(measured: &[Measured]) -> String {
    let memory = compared(
        "lookup, gather, rest",
        "copy of the output",
        measured,
        |stages| [("memory", stages.memory)],
        |limits| limits.copy,
    );
    let disk = compared(
        "lookup, read, rest",
        "pread of the output",
        measured,
        |stages| [("disk", stages.disk), ("disk, zstd", stages.disk_zstd)],
        |limits| limits.pread,
    );
    format!(
        "#### Lookup and gather from memory\n\n{memory}\n#### Lookup and read from disk\n\n{disk}"
    )
}

fn storing(measured: &[Measured]) -> String {
    let table = compared(
        "store, rest",
        "copy of the output",
        measured,
        |stages| [("cold", stages.store)],
        |limits| limits.copy,
    );
    format!("#### Store and assemble\n\n{table}")
}

/// The first call of a cache on a full directory.
fn opening(micro: &mut Micro, rows: i64) -> String {
    let small = Workload {
        name: "open",
        batch: 1000,
        batches: rows as usize / 1000,
        shape: &[16],
        kind: Kind::Float,
        forward: |xs| xs * 2,
    };
    let data = small.data(small.batches, clock::device());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || {
        let options = Options::builder()
            .persistent(true)
            .persistent_cache_dir(folder.path());
        cached(&small, "open", options)
    };
    let writer = open();
    data.iter()
        .for_each(|batch| drop(writer.forward(&batch.input)));
    writer.cache().flush().expect("everything is written");
    drop(writer);

    let one = data[0].input.narrow(0, 0, 1);
    let first = micro.part("open", "first call", 0.5, |caches| {
        let calls = (0..caches).map(|_| {
            let cache = open();
            let start = Instant::now();
            drop(cache.forward(&one));
            let took = start.elapsed();
            expect(&cache.cache().stats(), |stats| stats.disk.hits == 1);
            took
        });
        calls.sum()
    });
    let cache = open();
    let warm = micro.whole("open", "warm call", || cache.forward(&one));
    let files = read_all(folder.path());
    let size: usize = files.iter().map(Vec::len).sum();
    let read = micro.whole("open", "read all files", || read_all(folder.path()));
    let header = [
        "rows on disk",
        "files",
        "first call",
        "warm call",
        "read all files",
        "ratio",
    ];
    let mut table = Table::new(1, header);
    table.row([
        rows.to_string(),
        format!("{}, {}", files.len(), bytes(size as f64)),
        time(first),
        time(warm),
        time(read),
        ratio((first - warm) / read),
    ]);
    format!("#### Open\n\n{table}")
}

/// The contents of all files below a folder.
fn read_all(folder: &Path) -> Vec<Vec<u8>> {
    let files = files_below(folder).expect("a folder that can be read");
    let read = |file| fs::read(file).expect("a file that can be read");
    files.into_iter().map(read).collect()
}

fn fixed_cost(fixed: &Fixed) -> String {
    let header = ["weights", "call", "copy by libtorch", "ratio"];
    let mut table = Table::new(1, header);
    let weights = [("none", fixed.bare), ("ResNet-50", fixed.resnet50)];
    for (weights, call) in weights {
        table.row([
            weights.to_owned(),
            time(call),
            time(fixed.copy),
            ratio(call / fixed.copy),
        ]);
    }
    format!("#### Fixed cost of a call\n\n{table}")
}
