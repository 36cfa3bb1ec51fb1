//! One handle in many threads: its module is hashed and attached once, and each call is a hit.

use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use tch::nn::{self, Module, OptimizerConfig};
use tch::{CModule, Kind, Tensor};
use torchcache::{Cached, Fingerprint, Fingerprinter, TorchCache, torchcache};

use crate::support::{Log, device, events, random, same, version};

const THREADS: u64 = 16;
/// Of each thread: 8,000 in all.
const CALLS: u64 = 500;
const ROWS: i64 = 4;

/// Calls from 16 threads, each so many times, under `no_grad`. Returns what they logged, without each
/// call.
fn call_from_threads(
    calls: u64,
    call: impl Fn(&Tensor) -> Tensor + Sync,
    factor: f64,
) -> Vec<String> {
    let (log, xs) = (Log::default(), random(&[ROWS, 2]));
    let (call, start) = (&call, &Barrier::new(THREADS as usize));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (log, xs) = (log.clone(), xs.copy());
            scope.spawn(move || {
                let _guard = tch::no_grad_guard();
                log.during(|| {
                    start.wait();
                    for _ in 0..calls {
                        assert!(same(&call(&xs), &(&xs * factor)));
                    }
                });
            });
        }
    });
    let mut lines = log.lines();
    lines.retain(|line| !line.starts_with("DEBUG"));
    lines
}

/// At most the first call of each thread computed rows.
#[track_caller]
fn assert_attached_once(cache: &TorchCache, lines: &[String]) {
    assert_eq!(events(lines, "INFO", "cache attached"), 1, "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let stats = cache.stats();
    assert_eq!(stats.bypassed, 0);
    assert!(stats.misses <= THREADS * ROWS as u64, "{stats}");
    assert_eq!(stats.misses + stats.hits(), stats.rows);
}

/// A field that counts how often it is hashed: its text is needed for that alone.
#[derive(Debug, Default)]
struct Hashed(AtomicUsize);

impl Fingerprint for Hashed {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        struct Text<'a>(&'a AtomicUsize);
        impl fmt::Debug for Text<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fetch_add(1, SeqCst);
                f.write_str("counted")
            }
        }
        f.plain("Hashed", &[], &Text(&self.0));
    }
}

/// A store of 200 small weights, some large ones, and the factor.
fn weights(large: usize, factor: f64) -> nn::VarStore {
    let vs = nn::VarStore::new(device());
    for number in 0..200 {
        vs.root().randn_standard(&format!("small{number}"), &[64]);
    }
    for number in 0..large {
        vs.root()
            .randn_standard(&format!("large{number}"), &[512, 1_024]);
    }
    let mut factor_of = vs.root().zeros("factor", &[1]);
    tch::no_grad(|| factor_of.fill_(factor));
    vs
}

#[torchcache]
#[derive(Debug)]
struct Large {
    weights: nn::VarStore,
    hashed: Hashed,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Large {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let variables = self.weights.variables_.lock().unwrap();
        xs * &variables.named_variables["factor"]
    }
}

#[test]
fn a_module_in_16_threads_computes_one_identity() {
    let mut model = Large {
        weights: weights(4, 2.0),
        hashed: Hashed::default(),
        torchcache: TorchCache::default(),
    };
    for freeze in [false, true] {
        if freeze {
            model.weights.freeze();
            model.torchcache = TorchCache::default();
        }
        model.hashed.0.store(0, SeqCst);
        let lines = call_from_threads(CALLS, |xs| model.forward(xs), 2.0);
        assert_attached_once(&model.torchcache, &lines);
        assert_eq!(model.torchcache.stats().calls, 8_000);
        assert_eq!(model.hashed.0.load(SeqCst), 1, "frozen: {freeze}");
    }
}

/// All compare weights at once, which takes longer than a call waits for the lock of the store.
#[test]
fn calls_that_watch_one_store_do_not_bypass_the_cache() {
    let vs = weights(8, 3.0);
    let mut optimizer = nn::Sgd::default().build(&vs, 0.0).unwrap();
    let all = vs.trainable_variables();
    let sums = all.iter().map(|weight| weight.square().sum(Kind::Float));
    let loss: Tensor = sums.reduce(|one, other| one + other).unwrap();
    optimizer.backward_step(&loss);
    let model = Large {
        weights: vs,
        hashed: Hashed::default(),
        torchcache: TorchCache::default(),
    };
    let lines = call_from_threads(20, |xs| model.forward(xs), 3.0);
    assert_attached_once(&model.torchcache, &lines);
    assert_eq!(model.hashed.0.load(SeqCst), 1);
}

#[torchcache]
fn triple(xs: &Tensor) -> Tensor {
    xs * 3
}

#[test]
fn a_function_in_16_threads_attaches_once() {
    let lines = call_from_threads(CALLS, triple, 3.0);
    assert_eq!(triple_cache().stats().calls, 8_000);
    assert_attached_once(triple_cache(), &lines);
}

/// A module with a constant of four megabytes, which calls multiply by five.
fn script(path: &std::path::Path) -> CModule {
    let constant = Tensor::ones([1_000, 1_000], (Kind::Float, device()));
    let mut scale = |inputs: &[Tensor]| vec![&inputs[0] * constant.mean(Kind::Float) * 5.0];
    let example = random(&[1, 2]);
    let module = CModule::create_by_tracing("M", "forward", &[example], &mut scale).unwrap();
    module.save(path).unwrap();
    CModule::load_on_device(path, device()).unwrap()
}

#[torchcache]
#[derive(Debug)]
struct Script {
    module: CModule,
    hashed: Hashed,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Script {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.module.forward(xs)
    }
}

#[test]
fn a_large_script_in_16_threads_is_hashed_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.pt");
    let model = Script {
        module: script(&path),
        hashed: Hashed::default(),
        torchcache: TorchCache::default(),
    };
    let lines = call_from_threads(CALLS, |xs| model.forward(xs), 5.0);
    assert_eq!(model.torchcache.stats().calls, 8_000);
    assert_attached_once(&model.torchcache, &lines);
    assert_eq!(model.hashed.0.load(SeqCst), 1);

    let module = CModule::load_on_device(&path, device()).unwrap();
    let wrapped = Cached::new(module, path.as_path(), version("threads")).unwrap();
    let lines = call_from_threads(20, |xs| wrapped.forward(xs), 5.0);
    assert_attached_once(wrapped.cache(), &lines);
}

/// A change is seen by all threads, and hashed once.
#[test]
fn a_change_seen_by_16_threads_is_hashed_once() {
    let model = Large {
        weights: weights(1, 2.0),
        hashed: Hashed::default(),
        torchcache: TorchCache::default(),
    };
    for factor in [2.0, 7.0, 2.0] {
        let mut factor_of = model.weights.variables()["factor"].shallow_clone();
        tch::no_grad(|| factor_of.fill_(factor));
        model.hashed.0.store(0, SeqCst);
        let lines = call_from_threads(20, |xs| model.forward(xs), factor);
        assert_eq!(model.hashed.0.load(SeqCst), 1, "times {factor}");
        assert_eq!(events(&lines, "INFO", "cache attached"), 1, "{lines:#?}");
    }
    assert_eq!(model.torchcache.stats().bypassed, 0);
}
