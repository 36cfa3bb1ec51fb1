//! No lock is held while user code runs: cached modules call each other and themselves, and
//! functions are called from many threads.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tch::Tensor;
use tch::nn::Module;
use torchcache::{TorchCache, torchcache};

use crate::support::{Scale, random, same};

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
