//! Hit rates of the eviction policies, and the best possible ones, for a cache smaller than the data: in
//! shuffled epochs, and where some rows are requested more often. In memory and on disk, by whole calls.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use clap::Parser;
use fastrand::Rng;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Eviction, Options, OptionsBuilder, Stats};
use torchcache_benches::args::Args;
use torchcache_benches::table::Table;

/// Elements of a row, in and out.
const WIDTH: i64 = 16;
/// Bytes of a row with its overhead, in memory and on disk.
const MEMORY_BYTES: u64 = 4 * WIDTH as u64 + 176;
const DISK_BYTES: u64 = 4 * WIDTH as u64 + 48;
const BATCH: usize = 64;
/// Shares of the data that fit into the cache.
const SHARES: [f64; 4] = [0.1, 0.25, 0.5, 0.9];

/// Rows in the order of their requests.
struct Stream {
    name: &'static str,
    rows: Vec<usize>,
    /// Hits are counted from this request on.
    counted: usize,
}

fn main() {
    let args = Args::parse();
    let (distinct, epochs) = if args.quick { (640, 3) } else { (20_000, 8) };
    let streams = streams(distinct, epochs);
    let cases = cases(&streams, distinct);
    println!("{distinct} rows in batches of {BATCH}.\n");
    println!("**In memory**\n\n{}", in_memory(&cases));
    println!("**On disk**\n\n{}", on_disk(&cases));
}

fn in_memory(cases: &[Case]) -> Table {
    let header = ["lru", "never", "auto", "auto / better of the two"];
    table(cases, &header, |case| {
        let bound = case.kept as u64 * MEMORY_BYTES;
        let policies = [Eviction::Lru, Eviction::Never, Eviction::Auto];
        let [lru, never, auto] = policies.map(|eviction| {
            let options = Options::builder()
                .max_memory_cache_size(bound)
                .eviction(eviction);
            case.run(options).hits
        });
        [
            percent(lru),
            percent(never),
            percent(auto),
            format!("{:.2}", auto / lru.max(never)),
        ]
    })
}

fn on_disk(cases: &[Case]) -> Table {
    let header = ["lru", "never", "written, lru", "written, never"];
    table(cases, &header, |case| {
        let [lru, never] = [Eviction::Lru, Eviction::Never].map(|eviction| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            case.run(disk(directory.path(), case.kept).eviction(eviction))
        });
        [
            percent(lru.hits),
            percent(never.hits),
            format!("{:.1}", lru.written * 100.0),
            format!("{:.1}", never.written * 100.0),
        ]
    })
}

/// A line for each case: its figures next to the best possible hit rate.
fn table(cases: &[Case], header: &[&str], figures: impl Fn(&Case) -> [String; 4]) -> Table {
    let mut table = Table::new(
        1,
        &[&["requests", "share", "best possible"], header].concat(),
    );
    for case in cases {
        let common = [
            case.stream.name.to_owned(),
            percent(case.share),
            percent(case.best),
        ];
        table.row([&common[..], &figures(case)].concat());
    }
    table
}

fn disk(directory: &Path, kept: usize) -> OptionsBuilder {
    Options::builder()
        .max_memory_cache_size(0)
        .persistent(true)
        .persistent_cache_dir(directory)
        .max_persistent_cache_size(kept as u64 * DISK_BYTES)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Shares of the counted requests.
struct Rates {
    hits: f64,
    /// Rows written to disk.
    written: f64,
}

/// A stream, and a cache for a share of its rows.
struct Case<'a> {
    stream: &'a Stream,
    distinct: usize,
    share: f64,
    /// The number of rows that fit.
    kept: usize,
    /// The hit rate of a cache of that size that knows the future.
    best: f64,
    /// The same with room for one more batch.
    most: f64,
}

fn cases(streams: &[Stream], distinct: usize) -> Vec<Case<'_>> {
    let case = |stream, share| {
        let kept = (distinct as f64 * share) as usize;
        Case {
            stream,
            distinct,
            share,
            kept,
            best: best_possible(stream, kept),
            most: best_possible(stream, kept + BATCH),
        }
    };
    streams
        .iter()
        .flat_map(|stream| SHARES.map(|share| case(stream, share)))
        .collect()
}

impl Case<'_> {
    /// Runs the stream through a cache with room for the share.
    fn run(&self, options: OptionsBuilder) -> Rates {
        let Case {
            stream, kept, most, ..
        } = *self;
        let count = self.distinct as i64 * WIDTH;
        let data = Tensor::arange(count, (Kind::Float, Device::Cpu)).view([-1, WIDTH]);
        let options = options.version("policy").build().expect("valid options");
        let cached = Cached::new(nn::func(|xs| xs * 2), (), options).expect("a new identity");
        let mut before = cached.cache().stats();
        for (number, batch) in stream.rows.chunks(BATCH).enumerate() {
            if number == stream.counted / BATCH {
                before = cached.cache().stats();
            }
            let rows: Vec<i64> = batch.iter().map(|&row| row as i64).collect();
            let _ = cached.forward(&data.index_select(0, &Tensor::from_slice(&rows)));
            // The calls cost nothing, so the disk could not keep up, and queued rows would be hits beyond
            // the bound. Without a disk this does nothing.
            cached.cache().flush().unwrap();
        }
        let after = cached.cache().stats();
        let counted = |count: fn(&Stats) -> u64| (count(&after) - count(&before)) as f64;
        let hits = counted(|stats| stats.memory.hits + stats.disk.hits);
        let asked = hits + counted(|stats| stats.misses);
        // More could only come from rows that the bound does not cover, such as queued ones.
        assert!(
            hits / asked <= most,
            "{}: {} of the rows are hits, and with {kept} rows kept and a batch at most {most} can be",
            stream.name,
            hits / asked
        );
        Rates {
            hits: hits / asked,
            written: counted(|stats| stats.disk.rows + stats.disk.evicted) / asked,
        }
    }
}

/// The hit rate of a cache that knows the future: it keeps the rows that are requested soonest.
fn best_possible(stream: &Stream, kept: usize) -> f64 {
    let batches: Vec<Vec<usize>> = stream.rows.chunks(BATCH).map(distinct_rows).collect();
    // For each row of each batch, the next batch that requests it.
    let mut next = vec![Vec::new(); batches.len()];
    let mut later: HashMap<usize, usize> = HashMap::new();
    for (number, batch) in batches.iter().enumerate().rev() {
        next[number] = batch
            .iter()
            .map(|row| later.get(row).copied().unwrap_or(usize::MAX))
            .collect();
        later.extend(batch.iter().map(|&row| (row, number)));
    }
    let mut held: HashMap<usize, usize> = HashMap::new();
    let mut order: BTreeSet<(usize, usize)> = BTreeSet::new();
    let (mut hits, mut asked) = (0, 0);
    for (number, batch) in batches.iter().enumerate() {
        let counts = number >= stream.counted / BATCH;
        for (row, &next) in batch.iter().zip(&next[number]) {
            asked += usize::from(counts);
            if let Some(was) = held.insert(*row, next) {
                hits += usize::from(counts);
                order.remove(&(was, *row));
            }
            order.insert((next, *row));
        }
        while order.len() > kept {
            let (_, row) = order.pop_last().expect("more rows than may be kept");
            held.remove(&row);
        }
    }
    hits as f64 / asked as f64
}

fn distinct_rows(batch: &[usize]) -> Vec<usize> {
    let mut rows = batch.to_vec();
    rows.sort_unstable();
    rows.dedup();
    rows
}

fn streams(distinct: usize, epochs: usize) -> Vec<Stream> {
    let random = &mut Rng::with_seed(1);
    let first = order(random, distinct);
    let shuffled = (0..epochs).flat_map(|_| order(random, distinct)).collect();
    let same = (0..epochs).flat_map(|_| first.iter().copied()).collect();
    let count = distinct * epochs;
    let stream = |name, rows, counted| Stream {
        name,
        rows,
        counted,
    };
    let mut streams = vec![
        stream("epochs", shuffled, distinct),
        stream("epochs, the same order", same, distinct),
    ];
    for (name, exponent) in [
        ("skewed, s = 0.8", 0.8),
        ("skewed, s = 1.0", 1.0),
        ("skewed, s = 1.2", 1.2),
    ] {
        let rows = skewed(random, &first, exponent, count);
        streams.push(stream(name, rows, distinct));
    }
    let mut shift = skewed(random, &first, 1.0, count / 2);
    let others = order(random, distinct);
    shift.extend(skewed(random, &others, 1.0, count / 2));
    streams.push(stream("skewed, s = 1.0, a shift", shift, count / 2));
    streams
}

/// All rows in random order.
fn order(random: &mut Rng, distinct: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..distinct).collect();
    random.shuffle(&mut rows);
    rows
}

/// Requests, for the n-th row in proportion to 1/n^s.
fn skewed(random: &mut Rng, rows: &[usize], exponent: f64, count: usize) -> Vec<usize> {
    let mut total = 0.0;
    let sums: Vec<f64> = (1..=rows.len())
        .map(|n| {
            total += (n as f64).powf(-exponent);
            total
        })
        .collect();
    (0..count)
        .map(|_| {
            let point = random.f64() * total;
            rows[sums.partition_point(|&sum| sum < point).min(rows.len() - 1)]
        })
        .collect()
}
