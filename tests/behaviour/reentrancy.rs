//! No lock is held while user code runs: cached modules call each other and themselves, and
//! functions are called from many threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tch::Tensor;
use tch::nn::Module;
use torchcache::{TorchCache, torchcache};

use crate::support::{Log, Scale, random, same};

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
    assert_eq!(countdown::cache().stats().misses, 18);
}

#[torchcache]
#[derive(Debug)]
struct Outer {
    inner: Scale,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Outer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + 1.0
    }
}

#[test]
fn a_cached_module_may_call_another() {
    let model = Outer {
        inner: Scale::by(2.0),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[4, 2]);
    model.inner.forward(&xs.narrow(0, 0, 2));
    assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    assert_eq!(model.inner.ran.take(), (2, 4));
    assert_eq!(
        (
            model.inner.cache.stats().memory_hits,
            model.torchcache.stats().memory_hits
        ),
        (2, 4)
    );
}

static RAN: AtomicUsize = AtomicUsize::new(0);

#[torchcache]
fn noisy(xs: &Tensor) -> Tensor {
    RAN.fetch_add(1, SeqCst);
    xs + xs.rand_like()
}

#[test]
fn threads_agree_on_one_value_per_row() {
    let batches: Vec<Tensor> = (0..8).map(|_| random(&[16, 4])).collect();
    let run = |batches: Vec<Tensor>| batches.iter().map(noisy).collect::<Vec<_>>();
    let copies = || batches.iter().map(Tensor::copy).collect::<Vec<_>>();
    let results: Vec<Vec<Tensor>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let batches = copies();
                scope.spawn(move || run(batches))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(RAN.load(SeqCst) >= 8);
    for result in &results {
        for (batch, first) in result.iter().zip(&results[0]) {
            assert!(
                same(batch, first),
                "what a computing call returns is what hits return"
            );
        }
    }
    let ran = RAN.load(SeqCst);
    run(copies());
    assert_eq!(RAN.load(SeqCst), ran);
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
    let attached: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("INFO") && line.contains("cache attached"))
        .collect();
    assert_eq!(attached.len(), 1, "{attached:#?}");
    let stats = busy::cache().stats();
    assert_eq!((stats.calls, stats.rows), (1600, 6400));
    assert_eq!(stats.misses + stats.memory_hits, 6400);
    assert!(stats.misses <= 4 * 8, "at most each thread's first call");
}
