//! No lock is held while user code runs: cached modules call themselves and each other, and many
//! threads call one function.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tch::nn::{self, Module};
use tch::{Kind, Tensor};
use torchcache::{Cached, Fingerprint, Fingerprinter, Options, TorchCache, torchcache};

use crate::nested_modules::Wrapper;
use crate::support::{Log, OnEvent, Scale, counts, device, events, random, same};

#[torchcache]
fn countdown(xs: &Tensor, steps: u32) -> Tensor {
    if steps == 0 {
        xs.shallow_clone()
    } else {
        countdown(&(xs * 2), steps - 1)
    }
}

#[test]
fn a_function_may_call_itself() {
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        assert!(same(&countdown(&xs, 5), &(&xs * 32)));
    }
    assert_eq!(countdown_cache().stats().misses, 18);
}

#[test]
fn a_cached_module_may_call_another() {
    let model = Wrapper::new(Scale::by(2.0));
    let xs = random(&[4, 11]);
    model.inner.forward(&xs.narrow(0, 0, 2));
    assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    assert_eq!(model.inner.ran.take(), (2, 4));
    assert_eq!(counts(&model.inner.cache), (4, 2, 0));
    assert_eq!(counts(&model.torchcache), (4, 4, 0));
}

/// How often a body ran with the rows of this round.
static RAN: AtomicUsize = AtomicUsize::new(0);

/// The threads that compute the same rows: none stores them before all have missed them.
const THREADS: usize = 8;
static ALL_MISSED: Barrier = Barrier::new(THREADS);

fn add_noise(xs: &Tensor) -> Tensor {
    if RAN.fetch_add(1, SeqCst) < THREADS {
        ALL_MISSED.wait();
    }
    xs + xs.rand_like()
}

/// All threads compute each row: they wait in the body.
#[torchcache(single_flight_timeout = 0.0)]
fn noisy(xs: &Tensor) -> Tensor {
    add_noise(xs)
}

/// Without a memory tier, the queue and the disk decide which value of a row is the first.
#[torchcache(
    persistent = true,
    max_memory_cache_size = 0,
    single_flight_timeout = 0.0
)]
fn noisy_on_disk(xs: &Tensor) -> Tensor {
    add_noise(xs)
}

#[test]
fn threads_agree_on_one_value_per_row() {
    for call in [noisy as fn(&Tensor) -> Tensor, noisy_on_disk] {
        for _ in 0..20 {
            let batch = random(&[64, 4]);
            RAN.store(0, SeqCst);
            let results: Vec<Tensor> = std::thread::scope(|scope| {
                let spawn = |_| {
                    let batch = batch.copy();
                    scope.spawn(move || call(&batch))
                };
                let threads: Vec<_> = (0..THREADS).map(spawn).collect();
                let joined = threads.into_iter().map(|thread| thread.join().unwrap());
                joined.collect()
            });
            let stored = call(&batch);
            assert_eq!(RAN.load(SeqCst), THREADS, "the last call finds every row");
            for result in &results {
                assert!(same(result, &stored), "misses return the rows that won");
            }
        }
    }
    assert_eq!(noisy_on_disk_cache().stats().memory.hits, 0);
}

#[torchcache]
fn busy(xs: &Tensor) -> Tensor {
    xs * 3
}

#[test]
fn a_function_called_from_many_threads_is_attached_once() {
    let (log, xs) = (Log::default(), random(&[4, 2]));
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (log, start, xs) = (log.clone(), &start, xs.copy());
            scope.spawn(move || {
                log.during(|| {
                    start.wait();
                    for _ in 0..200 {
                        assert!(same(&busy(&xs), &(&xs * 3)));
                    }
                });
            });
        }
    });
    let lines = log.lines();
    assert_eq!(events(&lines, "INFO", "cache attached"), 1, "{lines:#?}");
    let stats = busy_cache().stats();
    assert_eq!((stats.calls, stats.rows), (1600, 6400));
    assert_eq!(stats.misses + stats.hits(), 6400);
    assert!(stats.misses <= 4 * 8, "at most each thread's first call");
}

/// A plain field that counts how often it is read.
#[derive(Debug, Default)]
struct Walked(AtomicUsize);

impl Fingerprint for Walked {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.0.fetch_add(1, SeqCst);
        f.plain("Walked", &[], &());
    }
}

#[torchcache]
#[derive(Debug)]
struct Shared {
    walked: Walked,
    #[torchcache(skip)]
    runs: AtomicUsize,
    torchcache_max_memory_cache_size: u64,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Shared {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.runs.fetch_add(1, SeqCst);
        xs * 2
    }
}

impl Shared {
    fn new() -> Self {
        Shared {
            walked: Walked::default(),
            runs: AtomicUsize::new(0),
            torchcache_max_memory_cache_size: 1_000_000,
            torchcache: TorchCache::default(),
        }
    }
}

#[test]
fn a_bound_is_changed_without_hashing_the_module_again() {
    let (mut model, xs) = (Shared::new(), random(&[4, 2]));
    model.forward(&xs);
    model.torchcache_max_memory_cache_size = 2_000_000;
    let before = model.walked.0.load(SeqCst);
    model.forward(&xs);
    assert_eq!(model.walked.0.load(SeqCst), before + 1, "compared");
    assert_eq!(counts(&model.torchcache), (4, 4, 0));
}

#[test]
fn threads_of_one_handle_compute_its_hash_once() {
    const THREADS: usize = 16;
    let (log, start) = (Log::default(), Barrier::new(THREADS));
    let model = Shared::new();
    let xs = random(&[4, 2]);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (log, start, model, xs) = (log.clone(), &start, &model, xs.copy());
            scope.spawn(move || {
                log.during(|| {
                    start.wait();
                    for _ in 0..500 {
                        assert!(same(&model.forward(&xs), &(&xs * 2)));
                    }
                });
            });
        }
    });
    let lines = log.lines();
    assert_eq!(events(&lines, "INFO", "cache attached"), 1, "{lines:#?}");
    assert_eq!(model.torchcache.stats().calls, 8_000);
    // The first call records and hashes; the others compare. Each forward ends with a comparison, and so does waiting
    // for that of another thread.
    assert_eq!(model.runs.load(SeqCst), 1);
    let further = model.walked.0.load(SeqCst) - (8_000 - 1 + 2);
    assert!((1..=THREADS).contains(&further), "{further}");
}

#[torchcache]
fn logged_in_memory(xs: &Tensor) -> Tensor {
    xs * 3
}

#[torchcache(persistent = true)]
fn logged_on_disk(xs: &Tensor) -> Tensor {
    xs * 3
}

#[test]
fn a_log_subscriber_may_call_the_cached_function() {
    for call in [logged_in_memory as fn(&Tensor) -> Tensor, logged_on_disk] {
        ends(move || {
            let xs = random(&[2, 2]);
            let first = std::sync::Mutex::new(Some(random(&[2, 2])));
            let calls = OnEvent(move |_: &tracing::Event<'_>| {
                let xs = first.lock().unwrap().take();
                if let Some(xs) = xs {
                    assert!(same(&call(&xs), &(&xs * 3)));
                }
            });
            tracing::subscriber::with_default(calls, || {
                assert!(same(&call(&xs), &(&xs * 3)));
            });
        });
    }
}

/// A call under the lock of the weights cannot compare them: it bypasses the cache.
#[test]
fn a_call_under_the_lock_of_its_weights_bypasses_the_cache() {
    ends(|| {
        let mut vs = nn::VarStore::new(device());
        vs.root().zeros("weight", &[2]);
        vs.freeze();
        let model = Cached::new(nn::func(|xs| xs * 2), &vs, Options::default()).unwrap();
        let xs = random(&[3, 2]);
        for warm in [false, true] {
            if warm {
                model.forward(&xs);
            }
            let locked = vs.variables_.lock().unwrap();
            assert!(same(&model.forward(&xs), &(&xs * 2)));
            drop(locked);
        }
        let stats = model.cache().stats();
        assert_eq!((stats.bypassed, stats.misses), (2, 3));
        model.forward(&xs);
        assert_eq!(counts(model.cache()), (3, 3, 0));
    });
}

/// A field that waits for a lock of the program when it is read.
#[derive(Debug)]
struct Guarded(std::sync::Arc<std::sync::Mutex<()>>);

impl Fingerprint for Guarded {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        let _guard = self.0.lock().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
        f.plain("Guarded", &[], &());
    }
}

#[torchcache]
#[derive(Debug)]
struct Waiting {
    guarded: Guarded,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Waiting {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2
    }
}

/// While one thread attaches, another one attaches a module that needs its lock.
#[test]
fn threads_that_attach_may_wait_for_locks_of_the_program() {
    ends(|| {
        let lock = std::sync::Arc::new(std::sync::Mutex::new(()));
        let model = Waiting {
            guarded: Guarded(lock.clone()),
            torchcache: TorchCache::default(),
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (model, xs) = (&model, random(&[2, 2]));
                scope.spawn(move || {
                    for _ in 0..20 {
                        model.torchcache.refresh();
                        assert!(same(&model.forward(&xs), &(&xs * 2)));
                    }
                });
            }
        });
    });
}

/// Hashing the weights of one module spreads over the pool, whose threads may be in another call.
#[test]
fn modules_of_one_var_store_run_in_a_thread_pool() {
    use rayon::prelude::*;
    let mut vs = nn::VarStore::new(device());
    let _ = nn::linear(vs.root(), 2000, 1000, Default::default());
    vs.freeze();
    let wrap = |_| Cached::new(nn::func(|xs| xs * 2), &vs, Options::default()).unwrap();
    let mut modules: Vec<_> = (0..32).map(wrap).collect();
    let inputs: Vec<Tensor> = modules.iter().map(|_| random(&[2, 2])).collect();
    let mut calls: Vec<_> = modules.iter_mut().zip(inputs).collect();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(8)
        .build()
        .unwrap();
    pool.install(|| {
        calls.par_iter_mut().for_each(|(module, xs)| {
            assert!(same(&module.forward(xs), &(&*xs * 2)));
        });
    });
}

/// Rows large enough that hashing, copying, reading and storing use several threads.
#[torchcache(persistent = true, max_memory_cache_size = "3 MB")]
fn wide(xs: &Tensor) -> Tensor {
    xs * 2
}

/// Fails if `calls` does not end within a minute.
fn ends(calls: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        calls();
        done.send(()).unwrap();
    });
    let waited = ended.recv_timeout(std::time::Duration::from_secs(60));
    waited.expect("the calls wait for each other");
}

/// Calls `wide` under the lock, with rows that are new, in memory or on disk only.
fn wide_under(lock: &std::sync::Mutex<()>, call: u64) {
    let xs = Tensor::arange(512 << 10, (Kind::Float, device())).view([64, -1]) + (call % 5) as f64;
    let _held = lock.lock().unwrap();
    assert!(same(&wide(&xs), &(&xs * 2)));
}

/// A `Tensor` is not `Sync`, so threads often share a model in a `Mutex`. While a call waits for
/// other threads, its own must not start another task of the caller's pool: that task may wait for the
/// lock.
#[test]
fn tasks_of_a_pool_may_hold_a_lock_while_they_call() {
    use rayon::prelude::*;
    ends(|| {
        let lock = std::sync::Mutex::new(());
        (0..64u64)
            .into_par_iter()
            .for_each(|call| wide_under(&lock, call));
    });
}

/// Nor may a call wait for threads that wait for a lock of its caller.
#[test]
fn a_call_needs_no_thread_that_waits_for_its_caller() {
    ends(|| {
        let lock = std::sync::Mutex::new(());
        rayon::in_place_scope(|scope| {
            for call in 0..20 {
                wide_under(&lock, call);
                let lock = &lock;
                for waiting in 0..4 {
                    scope.spawn(move |_| wide_under(lock, call + waiting));
                }
            }
        });
    });
}

/// Its inner call stores the same rows first, with another kind.
#[torchcache]
fn shifting(xs: &Tensor) -> Tensor {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    if CALLS.fetch_add(1, SeqCst) == 0 {
        shifting(xs);
        xs * 2
    } else {
        (xs * 3).to_kind(Kind::Int)
    }
}

#[test]
fn a_row_stored_with_another_kind_is_not_returned() {
    let xs = random(&[3, 2]);
    assert!(same(&shifting(&xs), &(&xs * 2)));
    let stats = shifting_cache().stats();
    assert_eq!((stats.calls, stats.misses), (2, 6));
}
