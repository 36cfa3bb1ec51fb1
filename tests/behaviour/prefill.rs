//! `prefill`: filling a cache ahead of use.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tch::Tensor;
use tch::nn::Module;
use torchcache::{Cached, Error, HasCache, Prefill, TorchCache, prefill, torchcache};

use crate::multi_process::{child, succeed};
use crate::persistent_module::segments;
use crate::support::{Scale, assert_panics, logged, random, same, version, warnings};

#[test]
fn prefill_stores_and_counts_every_row() {
    let model = Scale::by(11.0);
    let xs = random(&[50, 4]);
    model.cache.stats();
    let stats = prefill(&model, xs.split(16, 0));
    assert_eq!(model.ran.take(), (4, 50));
    assert_eq!((stats.calls, stats.rows, stats.misses), (4, 50, 50));
    // The statistics cover these calls alone. Batches may be references.
    let batches = [xs.narrow(0, 40, 10), random(&[2, 4])];
    let stats = prefill(&model, &batches);
    assert_eq!((stats.calls, stats.memory.hits, stats.misses), (2, 10, 2));
    assert_eq!(stats.memory.rows, 52);
    model.ran.take();
    let ys = tch::nn::Module::forward(&model, &xs);
    assert!(same(&ys, &(&xs * 11.0)));
    assert_eq!(model.ran.take(), (0, 0));
}

#[test]
fn prefill_takes_wrapped_modules_and_closures() {
    let net = tch::nn::func(|xs| xs * 5);
    let net = Cached::new(net, (), version("prefill")).unwrap();
    assert_eq!(prefill(&net, [random(&[3, 2])]).misses, 3);
    assert_eq!(HasCache::cache(&net).stats().memory.rows, 3);

    #[torchcache]
    fn joined(xs: &Tensor, ys: &Tensor) -> Result<Tensor, Error> {
        Ok(xs + ys)
    }
    let pairs = || (0..3).map(|_| (random(&[2, 2]), random(&[2, 2])));
    let prefill = || Prefill::new(joined_cache()).batches(3).quiet();
    let stats = prefill()
        .try_run(pairs(), |(xs, ys)| joined(&xs, &ys))
        .unwrap();
    assert_eq!(stats.misses, 6);
    // The first error ends it; rows computed before stay.
    let uneven = pairs().chain([(random(&[2, 2]), random(&[3, 2]))]);
    let failed = prefill().try_run(uneven, |(xs, ys)| joined(&xs, &ys));
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("batch sizes differ"), "{error}");
    assert_eq!(joined_cache().stats().memory.rows, 12);
}

#[test]
fn prefill_records_no_gradients() {
    let vs = tch::nn::VarStore::new(crate::support::device());
    let net = tch::nn::seq().add(tch::nn::linear(vs.root(), 4, 2, Default::default()));
    let net = Cached::new(net, &vs, version("trainable")).unwrap();
    let xs = random(&[5, 4]);
    assert_panics(&["requires grad"], || net.forward(&xs));
    assert_eq!(prefill(&net, [&xs]).misses, 5);
    assert_eq!(tch::no_grad(|| prefill(&net, [&xs])).memory.hits, 5);
    // Gradients are recorded again afterwards.
    assert_panics(&["requires grad"], || net.forward(&xs));
}

#[test]
fn prefill_warns_when_rows_do_not_fit() {
    #[torchcache(max_memory_cache_size = 20_000)]
    fn small(xs: &Tensor) -> Tensor {
        xs * 2
    }
    let made = |batches: usize| (0..batches).map(|_| random(&[8, 64])).collect::<Vec<_>>();
    let batches = || made(20);
    let filled = |batches: &[Tensor]| {
        let prefill = Prefill::new(small_cache());
        let (_, lines) = logged(|| prefill.run(batches, small));
        let before = small_cache().stats();
        batches.iter().for_each(|xs| drop(small(xs)));
        let found = small_cache().stats().since(&before).memory.hits;
        (found, warnings(&lines, "more rows than memory holds"))
    };
    let (found, warned) = filled(&batches());
    assert!(found < 160, "{found}");
    assert_eq!(warned, 1);
    // Earlier rows, used more often, take most of the memory tier.
    let (found, warned) = filled(&made(4));
    assert!(found < 32, "{found}");
    assert_eq!(warned, 1);

    // Only rows of earlier calls are evicted: no warning.
    #[torchcache(max_memory_cache_size = 40_000, eviction = "lru")]
    fn full(xs: &Tensor) -> Tensor {
        xs * 2
    }
    for batch in batches() {
        full(&batch);
    }
    assert!(full_cache().stats().memory.evicted > 0);
    let few = made(4);
    let (stats, lines) = logged(|| Prefill::new(full_cache()).run(&few, full));
    assert!(stats.memory.evicted > 0, "{stats}");
    assert_eq!(warnings(&lines, ""), 0, "{lines:?}");
    let again = Prefill::new(full_cache()).run(&few, full);
    assert_eq!(again.memory.hits, 32);
    // Rows that this prefill has just found are evicted.
    let more: Vec<_> = few.into_iter().chain(made(8)).collect();
    let (stats, lines) = logged(|| Prefill::new(full_cache()).run(&more, full));
    assert!(
        stats.memory.hits == 32 && stats.misses <= stats.memory.rows,
        "{stats}"
    );
    assert_eq!(warnings(&lines, "more rows than memory holds"), 1);

    #[torchcache(enabled = false)]
    fn off(xs: &Tensor) -> Tensor {
        xs * 2
    }
    let (_, lines) = logged(|| Prefill::new(off_cache()).run(batches(), |xs| off(&xs)));
    assert_eq!(warnings(&lines, "prefilled nothing"), 1, "{lines:?}");

    #[torchcache]
    fn fits(xs: &Tensor) -> Tensor {
        xs * 2
    }
    let (_, lines) = logged(|| Prefill::new(fits_cache()).run(batches(), |xs| fits(&xs)));
    assert_eq!(warnings(&lines, ""), 0, "{lines:?}");
}

/// The rows are in memory then, and do not go to the disk again.
#[test]
fn each_prefill_warns_of_rows_that_are_not_on_disk() {
    #[torchcache(persistent = true, eviction = "never")]
    #[derive(Debug)]
    struct Double {
        torchcache_persistent_cache_dir: String,
        torchcache_max_persistent_cache_size: u64,
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Module for Double {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
    let xs = random(&[100, 500]);
    for (bound, warned) in [(100_000, 1), (1_000_000, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let model = Double {
            torchcache_persistent_cache_dir: directory.path().to_str().unwrap().to_owned(),
            torchcache_max_persistent_cache_size: bound,
            torchcache: TorchCache::default(),
        };
        for hits in [0, 100] {
            let (stats, lines) = logged(|| prefill(&model, xs.split(10, 0)));
            assert_eq!((stats.memory.hits, stats.memory.rows), (hits, 100));
            assert_eq!(
                warnings(&lines, "more rows than the disk"),
                warned,
                "{lines:?}"
            );
        }
        assert_eq!(model.torchcache.stats().disk.rows < 100, warned == 1);
    }
}

/// The child prefills 400 batches of 5 rows, at ten milliseconds a batch.
#[test]
fn prefill_resumes_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let prefill = || child(Some(directory.path()), &["prefill"]);
    let mut killed = prefill().stdout(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while segments(directory.path()).is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "nothing is written"
        );
        assert_eq!(killed.try_wait().unwrap(), None, "it is not done yet");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    assert!(!killed.wait().unwrap().success());

    let counts = || -> Vec<u64> {
        let numbers = succeed(prefill());
        let numbers = numbers.split_whitespace();
        numbers.map(|number| number.parse().unwrap()).collect()
    };
    let [hits, misses] = counts()[..] else {
        panic!("two numbers are expected");
    };
    assert_eq!(hits + misses, 2000);
    assert!(hits > 0 && misses > 0, "{hits} hits, {misses} misses");
    assert_eq!(counts(), [2000, 0]);
}
