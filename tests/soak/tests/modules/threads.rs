//! Sixteen threads call one free function, one that calls itself, cached handles over one identity,
//! and a cached module within another, all over one directory and too little memory.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use tch::nn::{self, Module};
use tch::{Device, Tensor};
use torchcache::{Cached, Eviction, Options, torchcache};
use torchcache_faults::cases::{duration, seen};
use torchcache_soak::modules::{Outer, Scale, WIDTH, check, rows};

const THREADS: usize = 16;

/// The rows that they share.
const NUMBERS: i64 = 400;

/// How many rows the functions computed: of a batch of equal rows, which is computed whole, the one that is counted.
static COMPUTED: AtomicU64 = AtomicU64::new(0);

#[torchcache(persistent = true, max_memory_cache_size = "300 KB")]
fn shifted(xs: &Tensor, by: i64) -> Tensor {
    note_computed(xs);
    xs + by
}

/// Each level is a cached call of its own.
#[torchcache(max_memory_cache_size = "300 KB")]
fn doubled(xs: &Tensor, times: u32) -> Tensor {
    note_computed(xs);
    match times {
        0 => xs.shallow_clone(),
        times => doubled(&(xs * 2), times - 1),
    }
}

fn note_computed(xs: &Tensor) {
    let (distinct, ..) = xs.unique_dim(0, false, false, false);
    COMPUTED.fetch_add(distinct.size()[0] as u64, Ordering::Relaxed);
}

#[test]
fn threads_never_see_a_wrong_row() {
    let root = tempfile::tempdir().unwrap();
    // The first single row of each is computed once more, to show its shape.
    let row = rows(&[NUMBERS]);
    check(&shifted(&row, 7), &(&row + 7));
    check(&doubled(&row, 0), &row);
    COMPUTED.store(0, Ordering::Relaxed);
    let before = [shifted_cache().stats(), doubled_cache().stats()];
    let (start, dir) = (&Barrier::new(THREADS), root.path());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || one_thread(thread, dir, start));
        }
    });
    let computed = COMPUTED.load(Ordering::Relaxed);
    let stats = [
        shifted_cache().stats().since(&before[0]),
        doubled_cache().stats().since(&before[1]),
    ];
    let counted: u64 = stats.iter().map(|stats| stats.misses).sum();
    assert!(
        computed == counted,
        "{computed} rows were computed, {counted} misses counted"
    );
    for stats in &stats {
        let sum = stats.hits() + stats.misses;
        assert!(stats.rows == sum && stats.hits() > 0, "{stats:?}");
        assert!(stats.faults.is_empty(), "faults: {:?}", stats.faults);
    }
    let calls = stats.iter().map(|stats| stats.calls).sum();
    seen(
        "calls of 16 threads on functions, nested and recursive",
        calls,
    );
}

/// A handle over weights that are the same in every thread.
fn handle(dir: &Path) -> Result<Cached<nn::Linear>, torchcache::Error> {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let config = nn::LinearConfig {
        ws_init: nn::Init::Const(0.5),
        bs_init: Some(nn::Init::Const(0.25)),
        bias: true,
    };
    let linear = nn::linear(vs.root(), WIDTH, 3, config);
    vs.freeze();
    let options = Options::builder()
        .version("the same in each thread")
        .persistent(true)
        .persistent_cache_dir(dir)
        .eviction(Eviction::Lru)
        .max_memory_cache_size(100_000)
        .build()?;
    Cached::shared(linear, &vs, options)
}

fn one_thread(thread: usize, dir: &Path, start: &Barrier) {
    let mut rng = Rng::new();
    let cached = handle(dir).expect("the options hold");
    let outer = Outer::over(Scale::by(3.0, dir), dir);
    start.wait();
    let begin = Instant::now();
    while begin.elapsed() < duration() {
        let count = rng.usize(0..40);
        let numbers: Vec<i64> = (0..count).map(|_| rng.i64(0..NUMBERS)).collect();
        let xs = rows(&numbers);
        match rng.u8(..8) {
            0..3 => check(&shifted(&xs, 7), &(&xs + 7)),
            3 => check(&doubled(&xs, 4), &(&xs * 16)),
            // Rows of equal weights: sums over a row in one order, whatever the batch.
            4 | 5 => {
                let (given, computed) = (cached.forward(&xs), cached.module().forward(&xs));
                let near = given.allclose(&computed, 1e-6, 1e-3, false);
                assert!(near, "{given} is not {computed}");
            }
            6 => check(&outer.forward(&xs), &outer.expected(&xs)),
            _ => {
                outer.torchcache.flush().expect("no row is lost");
                shifted_cache().flush().expect("no row is lost");
            }
        }
        if thread == 0 && rng.u8(..100) == 0 {
            shifted_cache().clear();
        }
    }
}
