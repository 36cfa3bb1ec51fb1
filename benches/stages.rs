//! The stages of a call, each with its lower limit: keys, memory lookup and gather, disk lookup and read,
//! store and assemble, open; and the fixed cost of a call.
//!
//! `cargo bench -p torchcache-benches --bench stages`. `torchcache-store/benches` times the disk tier by
//! itself.

use std::fs;
use std::path::Path;

use clap::Parser;
use tch::{Device, Kind};
use torchcache::Options;

use torchcache_benches::args::Args;
use torchcache_benches::bert::Bert;
use torchcache_benches::changes::Changes;
use torchcache_benches::clock;
use torchcache_benches::fixed::Fixed;
use torchcache_benches::limits;
use torchcache_benches::ours::{cached, expect, files_below};
use torchcache_benches::shared::{Shared, THREADS};
use torchcache_benches::stages::{Profile, Stages};
use torchcache_benches::table::{Table, bytes, ratio, time};
use torchcache_benches::workload::{WORKLOADS, Workload};

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

/// Passes, of which the fastest counts.
const PASSES: usize = 30;

struct Measured<'a> {
    workload: &'a Workload,
    profile: Profile,
    limits: Limits,
}

/// Lower limits, in milliseconds a batch.
struct Limits {
    hash_rows: f64,
    hash: f64,
    copy: f64,
    pread: f64,
}

fn main() {
    let args = Args::parse();
    let all: Vec<_> = WORKLOADS.iter().chain(&OTHERS).collect();
    let measured: Vec<_> = all
        .into_iter()
        .map(|workload| {
            eprintln!("{}", workload.name);
            let batches = if args.quick { 2 } else { workload.batches };
            let data = workload.data(batches, clock::device());
            Measured {
                workload,
                profile: Profile::measure(workload, &data, PASSES),
                limits: Limits {
                    hash_rows: limits::hash_rows(&data, PASSES),
                    hash: limits::hash(&data, PASSES),
                    copy: limits::write(&data, PASSES),
                    pread: limits::pread(&data, PASSES),
                },
            }
        })
        .collect();
    println!("{}", whole_calls(&measured));
    println!("{}", keys(&measured));
    println!("{}", loading(&measured));
    println!("{}", storing(&measured));
    println!("{}", opening(if args.quick { 1_000 } else { 100_000 }));
    println!("{}", fixed_cost(&Fixed::measure(clock::device(), PASSES)));
    println!("{}", large_model(&Bert::measure(clock::device(), PASSES)));
    println!(
        "{}",
        threads(&Shared::measure(if args.quick { 1_600 } else { 160_000 }))
    );
    println!("{}", changes(if args.quick { 1_000 } else { 100_000 }));
}

fn whole_calls(measured: &[Measured]) -> String {
    let header = [
        "workload", "served", "call", "keys", "load", "forward", "store", "rest",
    ];
    let mut table = Table::new(2, &header);
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
        "BLAKE3 of the batch",
        "keys / that",
    ];
    let mut table = Table::new(2, &header);
    for measured in measured {
        let Measured {
            workload,
            profile,
            limits,
        } = measured;
        let keys = profile.memory.keys;
        table.row([
            workload.name.to_owned(),
            workload.describe(),
            time(keys),
            time(limits.hash_rows),
            ratio(keys / limits.hash_rows),
            time(limits.hash),
            ratio(keys / limits.hash),
        ]);
    }
    format!("#### Keys\n\n{table}")
}

/// Figures of each workload with one limit.
fn compared<const N: usize>(
    title: &str,
    limit_name: &str,
    measured: &[Measured],
    figures: impl Fn(&Profile) -> [(&'static str, f64); N],
    limit: fn(&Limits) -> f64,
) -> Table {
    let mut table = Table::new(2, &["workload", "from", title, limit_name, "ratio"]);
    for measured in measured {
        let limit = limit(&measured.limits);
        for (from, figure) in figures(&measured.profile) {
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
    let except_keys = |stages: &Stages| stages.call - stages.keys;
    let memory = compared(
        "lookup, gather, rest",
        "copy of the output",
        measured,
        |profile| [("memory", except_keys(&profile.memory))],
        |limits| limits.copy,
    );
    let disk = compared(
        "lookup, read, rest",
        "pread of the output",
        measured,
        |profile| {
            [
                ("disk", except_keys(&profile.disk)),
                ("disk, zstd", except_keys(&profile.disk_zstd)),
            ]
        },
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
        |Profile { miss, .. }| [("cold", miss.call - miss.keys - miss.forward)],
        |limits| limits.copy,
    );
    format!("#### Store and assemble\n\n{table}")
}

/// The first call of a cache on a full directory.
fn opening(rows: usize) -> String {
    let small = Workload {
        name: "open",
        batch: 1000,
        batches: rows / 1000,
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
    let first = clock::best(PASSES, || {
        let cache = open();
        let took = clock::milliseconds(clock::device(), || cache.forward(&one));
        expect(&cache.cache().stats(), |stats| stats.disk.hits == 1);
        took
    });
    let cache = open();
    let call = || cache.forward(&one);
    let warm = clock::best(PASSES, || clock::repeated(clock::device(), 100, call));
    let files = read_all(folder.path());
    let size: usize = files.iter().map(Vec::len).sum();
    let read_files = || read_all(folder.path());
    let read = clock::best(PASSES, || clock::milliseconds(Device::Cpu, read_files));
    let header = [
        "rows on disk",
        "files",
        "first call",
        "warm call",
        "read all files",
        "ratio",
    ];
    let mut table = Table::new(1, &header);
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
    let mut table = Table::new(1, &header);
    for (weights, call) in fixed.calls.iter().copied() {
        table.row([
            weights.to_owned(),
            time(call),
            time(fixed.copy),
            ratio(call / fixed.copy),
        ]);
    }
    format!("#### Fixed cost of a call\n\n{table}")
}

/// Hits of a model as large as BERT-base.
fn large_model(bert: &Bert) -> String {
    let header = ["weights of BERT-base", "hit", "forward", "hit / forward"];
    let mut table = Table::new(1, &header);
    for (weights, hit) in bert.hits.iter().copied() {
        table.row([
            weights.to_owned(),
            time(hit),
            time(bert.forward),
            ratio(hit / bert.forward),
        ]);
    }
    format!("#### A hit of a large model\n\n{table}")
}

fn threads(shared: &Shared) -> String {
    let mut table = Table::new(1, &["threads", "hits/s of one module", "of one function"]);
    let hits = shared.handle.iter().zip(&shared.function);
    for (threads, (handle, function)) in THREADS.into_iter().zip(hits) {
        table.row([
            threads.to_string(),
            format!("{handle:.0}"),
            format!("{function:.0}"),
        ]);
    }
    format!("#### Hits from several threads\n\n{table}")
}

fn changes(count: usize) -> String {
    let Changes { each, grown } = Changes::measure(count);
    let header = [
        "changes of a weight",
        "each, at first",
        "each, at last",
        "grown by",
    ];
    let mut table = Table::new(1, &header);
    let [first, last] = each.map(|each| time(each / 1e3));
    table.row([count.to_string(), first, last, bytes(grown.max(0.0))]);
    format!("#### Changes of a weight\n\n{table}")
}
