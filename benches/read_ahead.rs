//! An epoch over rows on disk, of which memory holds a quarter: with `read_ahead`, without it, and the head alone, which
//! no cache can undercut.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use clap::Parser;
use rustix::fs::{Advice, fadvise};
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use torchcache::{Cached, Eviction, Options, Stats};
use torchcache_benches::args::Args;
use torchcache_benches::clock::milliseconds;
use torchcache_benches::figures::median;
use torchcache_benches::table::{Table, bytes, ratio, time};

const BATCH: i64 = 32;
/// The states of so many tokens are a row.
const TOKENS: i64 = 128;
const WIDTH: i64 = 384;

static COMPUTED: AtomicUsize = AtomicUsize::new(0);

/// What stands for the encoder.
fn encode(xs: &Tensor) -> Tensor {
    COMPUTED.fetch_add(xs.size()[0] as usize, Relaxed);
    xs.view([-1, 1, 1])
        + Tensor::arange(TOKENS * WIDTH, (Kind::Float, Device::Cpu)).view([1, TOKENS, WIDTH])
}

struct Head {
    layer: nn::Sequential,
    optimizer: nn::Optimizer,
}

impl Head {
    fn new() -> Self {
        let vs = nn::VarStore::new(Device::Cpu);
        let layer = nn::seq()
            .add(nn::linear(
                vs.root() / "hidden",
                WIDTH,
                128,
                Default::default(),
            ))
            .add_fn(Tensor::relu)
            .add(nn::linear(vs.root() / "out", 128, 10, Default::default()));
        let optimizer = nn::Sgd::default().build(&vs, 1e-6).expect("an optimizer");
        Head { layer, optimizer }
    }

    fn step(&mut self, states: &Tensor) {
        let logits = states.apply(&self.layer).mean_dim(1, false, Kind::Float);
        let labels = Tensor::zeros([states.size()[0]], (Kind::Int64, Device::Cpu));
        self.optimizer
            .backward_step(&logits.cross_entropy_for_logits(&labels));
    }
}

struct Setting {
    directory: tempfile::TempDir,
    batches: Vec<(Tensor, Tensor)>,
    rows: i64,
}

impl Setting {
    fn row_bytes() -> i64 {
        TOKENS * WIDTH * 4
    }

    /// An epoch by a new handle, in milliseconds, with its statistics.
    fn epoch(&self, reads_ahead: bool, keeps_files: bool) -> (f64, Stats) {
        if !keeps_files {
            drop_from_page_cache(self.directory.path());
        }
        let options = Options::builder()
            .persistent(true)
            .persistent_cache_dir(self.directory.path())
            .eviction(Eviction::Lru)
            .max_memory_cache_size((self.rows * Self::row_bytes() / 4) as u64)
            .version("1");
        let options = options.build().expect("options");
        let net = Cached::shared(encode, (), options).expect("a cache");
        let mut head = Head::new();
        let took = milliseconds(Device::Cpu, || {
            for (number, (xs, ids)) in self.batches.iter().enumerate() {
                if let Some((xs, ids)) = self.batches.get(number + 1).filter(|_| reads_ahead) {
                    let ahead = net.cache().read_ahead(|| net.forward_by_id(xs, ids));
                    ahead.expect("a call with keys");
                }
                head.step(&net.forward_by_id(xs, ids));
            }
        });
        (took, net.cache().stats())
    }

    fn head_alone(&self) -> f64 {
        let states = encode(&self.batches[0].0);
        let mut head = Head::new();
        milliseconds(Device::Cpu, || {
            self.batches.iter().for_each(|_| head.step(&states));
        })
    }
}

/// Has the next reads come from the disk.
fn drop_from_page_cache(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("the cache").flatten() {
        if entry.path().is_dir() {
            drop_from_page_cache(&entry.path());
        } else {
            let file = File::open(entry.path()).expect("a segment");
            file.sync_all().expect("a segment that is on disk");
            fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
        }
    }
}

fn main() {
    let args = Args::parse();
    let (rows, rounds) = if args.quick { (256, 1) } else { (1024, 5) };
    let xs = Tensor::arange(rows, (Kind::Float, Device::Cpu));
    let ids = Tensor::arange(rows, (Kind::Int64, Device::Cpu));
    let batches = xs.split(BATCH, 0).into_iter().zip(ids.split(BATCH, 0));
    let setting = Setting {
        directory: tempfile::tempdir().expect("a temporary directory"),
        batches: batches.collect(),
        rows,
    };
    // Every row gets to the disk.
    let (_, first) = setting.epoch(false, true);
    assert_eq!(first.misses, rows as u64);
    let computed = COMPUTED.load(Relaxed);

    let mut table = Table::new(
        1,
        &[
            "files",
            "head alone",
            "without",
            "read ahead",
            "without / head",
            "read ahead / head",
            "found in memory",
        ],
    );
    for (name, keeps_files) in [("on disk", false), ("in the page cache", true)] {
        let (mut alone, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
        let mut in_memory = 0;
        for _ in 0..rounds {
            alone.push(setting.head_alone());
            let (took, stats) = setting.epoch(false, keeps_files);
            assert_eq!((stats.disk.hits, stats.read_ahead), (rows as u64, 0));
            without.push(took);
            let (took, stats) = setting.epoch(true, keeps_files);
            assert_eq!(stats.hits(), rows as u64);
            in_memory += stats.memory.hits;
            with.push(took);
        }
        let [alone, without, with] =
            [alone, without, with].map(|rounds| median(rounds.into_iter()).expect("rounds"));
        table.row([
            name.into(),
            time(alone),
            time(without),
            time(with),
            ratio(without / alone),
            ratio(with / alone),
            format!("{:.0} %", in_memory as f64 / (rounds * rows) as f64 * 100.0),
        ]);
    }
    assert!(
        COMPUTED.load(Relaxed) - computed <= 2 * 10 * BATCH as usize,
        "only for the head alone"
    );
    println!(
        "{rows} rows of {row} ({all} on disk) in batches of {BATCH} with ids; memory holds a quarter, \
         `eviction = \"lru\"`. Each epoch has a new handle, and each batch requests the next one; the median of \
         {rounds} rounds.\n\n{table}",
        row = bytes(Setting::row_bytes() as f64),
        all = bytes((rows * Setting::row_bytes()) as f64),
    );
}
