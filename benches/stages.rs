//! The stages of a call, each beside the least it could take: keys, memory lookup and gather, disk
//! lookup and read, store, assemble, open; and what a call costs however little it carries.
//!
//! `cargo bench -p torchcache-benches --bench stages`; the disk tier by itself is timed in
//! `torchcache-store/benches`.

use std::fs;
use std::path::Path;

use tch::{Device, Kind};
use torchcache::Options;

use torchcache_benches::args::Args;
use torchcache_benches::bars::{FIXED_COST, verdict};
use torchcache_benches::clock::{self, best, milliseconds};
use torchcache_benches::fixed::Fixed;
use torchcache_benches::floor::Floor;
use torchcache_benches::ours::{cached, expect};
use torchcache_benches::stages::{Profile, Stages};
use torchcache_benches::table::{Table, bytes, ratio, time};
use torchcache_benches::workload::{Batch, WORKLOADS, Workload};

/// Sizes that the three workloads leave out.
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
    floor: Floor,
    one_by_one: f64,
}

fn main() {
    let args = Args::read();
    let passes = if args.quick { 1 } else { 5 };
    let all: Vec<_> = WORKLOADS.iter().chain(&OTHERS).collect();
    let measured: Vec<_> = all
        .into_iter()
        .map(|workload| {
            eprintln!("{}", workload.name);
            let batches = if args.quick { 2 } else { workload.batches };
            let data = workload.data(batches, clock::device());
            Measured {
                workload,
                profile: Profile::measure(workload, &data, passes),
                floor: Floor::measure(&data, passes),
                one_by_one: one_by_one(workload, &data, passes),
            }
        })
        .collect();
    println!("{}", whole_calls(&measured));
    println!("{}", keys(&measured));
    println!("{}", loading(&measured));
    println!("{}", storing(&measured));
    println!("{}", opening(if args.quick { 1_000 } else { 100_000 }));
    println!("{}", fixed_cost(if args.quick { 2 } else { 30 }));
}

/// BLAKE3 of the rows one after another, on one core, in milliseconds a batch.
fn one_by_one(workload: &Workload, data: &[Batch], passes: usize) -> f64 {
    let rows = workload.batch as usize;
    let hash = || {
        for batch in data {
            for row in batch.input_bytes.chunks(batch.input_bytes.len() / rows) {
                std::hint::black_box(blake3::hash(row));
            }
        }
    };
    best(passes, || milliseconds(Device::Cpu, hash)) / data.len() as f64
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
    format!(
        "#### Where the time of a call goes\n\nBy the cache's own clocks, in the fastest pass. \
         *Load* is looking up and copying hits, *store* handing computed rows to the tiers, *rest* \
         what no clock covers: checking arguments and weights, and assembling the output. Disk \
         hits have no room in memory.\n\n{table}"
    )
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
        let keys = measured.profile.memory.keys;
        table.row([
            measured.workload.name.to_owned(),
            measured.workload.describe(),
            time(keys),
            time(measured.one_by_one),
            ratio(keys / measured.one_by_one),
            time(measured.floor.hash),
            ratio(keys / measured.floor.hash),
        ]);
    }
    format!("#### Keys\n\n{table}")
}

/// One figure of each workload beside one limit.
fn beside(
    title: &str,
    limit_name: &str,
    measured: &[Measured],
    stage: fn(&Profile) -> Vec<(&'static str, f64)>,
    limit: fn(&Floor) -> f64,
) -> Table {
    let mut table = Table::new(2, ["workload", "from", title, limit_name, "ratio"]);
    for Measured {
        workload,
        profile,
        floor,
        ..
    } in measured
    {
        for (from, figure) in stage(profile) {
            table.row([
                workload.name.to_owned(),
                from.to_owned(),
                time(figure),
                time(limit(floor)),
                ratio(figure / limit(floor)),
            ]);
        }
    }
    table
}

fn loading(measured: &[Measured]) -> String {
    let memory = beside(
        "lookup, gather, rest",
        "copy of the output",
        measured,
        |profile| vec![("memory", load_and_rest(&profile.memory))],
        |floor| floor.write,
    );
    let disk = beside(
        "lookup, read, rest",
        "pread of the output",
        measured,
        |profile| {
            vec![
                ("disk", load_and_rest(&profile.disk)),
                ("disk, zstd", load_and_rest(&profile.disk_zstd)),
            ]
        },
        |floor| floor.pread,
    );
    format!(
        "#### Lookup and gather from memory\n\n{memory}\n#### Lookup and read from disk\n\n{disk}"
    )
}

/// Where the output is assembled is the cache's own affair: within the gather, or after it.
fn load_and_rest(stages: &Stages) -> f64 {
    stages.load + stages.rest()
}

fn storing(measured: &[Measured]) -> String {
    let table = beside(
        "store, rest",
        "copy of the output",
        measured,
        |profile| vec![("cold", profile.miss.store + profile.miss.rest())],
        |floor| floor.write,
    );
    format!(
        "#### Store and assemble\n\nWhat the calling thread pays; compression and writing are \
         elsewhere.\n\n{table}"
    )
}

/// The first call of a cache on a directory that others have filled.
fn opening(rows: i64) -> String {
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
        let options = Options::new()
            .persistent(true)
            .persistent_cache_dir(folder.path());
        cached(&small, "open", options)
    };
    let writer = open();
    data.iter()
        .for_each(|batch| drop(writer.forward(&batch.input)));
    assert!(writer.cache().flush(), "everything is written");
    drop(writer);

    let one = data[0].input.narrow(0, 0, 1);
    let mut warm = f64::INFINITY;
    let first = best(5, || {
        let cache = open();
        let call = || cache.forward(&one);
        let first = milliseconds(clock::device(), call);
        warm = warm.min(best(100, || milliseconds(clock::device(), call)));
        expect(&cache.cache().stats(), |stats| stats.disk_hits == 1);
        first
    });
    let files = files_below(folder.path());
    let size: usize = files.iter().map(Vec::len).sum();
    let read = best(5, || {
        milliseconds(Device::Cpu, || files_below(folder.path()))
    });
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
    format!(
        "#### Open\n\nThe first call of a new cache on a directory of rows of 64 bytes; the ratio \
         is of what it takes beyond a warm call to reading every file there.\n\n{table}"
    )
}

/// What all files below a folder hold.
fn files_below(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder that can be read");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![fs::read(path).expect("a file that can be read")],
        })
        .collect()
}

fn fixed_cost(chunks: usize) -> String {
    let fixed = Fixed::measure(chunks, clock::device());
    let header = [
        "weights",
        "call",
        "copy by libtorch",
        "ratio",
        "bar",
        "call / bar",
        "",
    ];
    let mut table = Table::new(1, header);
    let weights = [("none", fixed.bare), ("ResNet-50", fixed.resnet50)];
    for ((weights, call), bar) in weights.into_iter().zip(FIXED_COST) {
        table.row([
            weights.to_owned(),
            time(call / 1e3),
            time(fixed.copy / 1e3),
            ratio(call / fixed.copy),
            format!("≤ {}", time(bar / 1e3)),
            ratio(call / bar),
            verdict(call <= bar).to_owned(),
        ]);
    }
    format!(
        "#### What a call costs however little it carries\n\nOne row of 64 bytes that is in \
         memory, beside one call of libtorch that copies it.\n\n{table}"
    )
}
