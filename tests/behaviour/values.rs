//! Fields of every type that stands for a value: cells, locks, atomic numbers, ranges, configurations.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BinaryHeap, LinkedList};
use std::fmt::Debug;
use std::num::{NonZero, Wrapping};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use tch::nn::{self, Module};
use tch::{Reduction, Scalar, Tensor};
use torchcache::{Fingerprint, TorchCache, torchcache};

use crate::support::{assert_computed_once, counts, logged, random, same};

/// A value in a field, and the factor that it stands for.
#[torchcache]
#[derive(Debug)]
struct Holding<V> {
    value: V,
    #[torchcache(skip)]
    factor: fn(&V) -> f64,
    torchcache: TorchCache,
}

#[torchcache]
impl<V: Fingerprint + Debug + Send> Module for Holding<V> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * (self.factor)(&self.value)
    }
}

fn holding<V>(value: V, factor: fn(&V) -> f64) -> Holding<V> {
    Holding {
        value,
        factor,
        torchcache: TorchCache::default(),
    }
}

/// Each of `changes` makes other rows; without one, rows are found again.
#[track_caller]
fn assert_noticed<V: Fingerprint + Debug + Send>(
    mut model: Holding<V>,
    changes: &[&dyn Fn(&mut V)],
) {
    let xs = random(&[3, 2]);
    let mut factors = Vec::new();
    let nothing: &dyn Fn(&mut V) = &|_| ();
    for change in [&[nothing], changes].concat() {
        change(&mut model.value);
        let factor = (model.factor)(&model.value);
        assert!(!factors.contains(&factor), "{:?}", model.value);
        factors.push(factor);
        let (misses, hits, _) = counts(&model.torchcache);
        for _ in 0..2 {
            assert!(same(&model.forward(&xs), &(&xs * factor)));
        }
        let value = &model.value;
        assert_eq!(
            counts(&model.torchcache),
            (misses + 3, hits + 3, 0),
            "{value:?}"
        );
    }
}

/// Through a shared reference.
fn set<T>(mutex: &Mutex<T>, value: T) {
    *mutex.lock().unwrap() = value;
}

#[test]
fn a_change_behind_a_shared_reference_is_noticed() {
    assert_noticed(
        holding(Cell::new(1.0), Cell::get),
        &[&|value| value.set(2.0)],
    );
    assert_noticed(
        holding(RefCell::new(vec![1.0]), |value| value.borrow().iter().sum()),
        &[&|value| value.borrow_mut().push(2.0), &|value| {
            value.borrow_mut()[0] = 5.0;
        }],
    );
    assert_noticed(
        holding(Mutex::new(1.0), |value| *value.lock().unwrap()),
        &[&|value| set(value, 2.0)],
    );
    assert_noticed(
        holding(Arc::new(RwLock::new(Some(1.0))), |value| {
            value.read().unwrap().unwrap_or(7.0)
        }),
        &[&|value| *value.write().unwrap() = Some(2.0), &|value| {
            *value.write().unwrap() = None
        }],
    );
    assert_noticed(
        holding(AtomicU64::new(1), |value| value.load(SeqCst) as f64),
        &[&|value| value.store(2, SeqCst)],
    );
    assert_noticed(
        holding([AtomicBool::new(false), AtomicBool::new(true)], |value| {
            f64::from(u8::from(value[0].load(SeqCst))) + 1.0
        }),
        &[&|value| value[0].store(true, SeqCst)],
    );
    assert_noticed(
        holding(OnceLock::new(), |value| *value.get().unwrap_or(&1.0)),
        &[&|value| value.set(2.0).unwrap()],
    );
    assert_noticed(
        holding(OnceCell::new(), |value| *value.get().unwrap_or(&1.0)),
        &[&|value| value.set(2.0).unwrap()],
    );
}

#[test]
fn a_weight_behind_a_lock_is_watched() {
    let weight = Tensor::from_slice(&[1.0, 2.0]);
    let sum = |value: &Mutex<Tensor>| {
        let weight = value.lock().unwrap();
        weight.sum(tch::Kind::Double).double_value(&[])
    };
    assert_noticed(
        holding(Mutex::new(weight), sum),
        &[
            &|value| drop(value.get_mut().unwrap().g_mul_scalar_(2.0)),
            &|value| set(value, Tensor::from_slice(&[9.0, 2.0])),
        ],
    );
}

/// Of a lock that another holder keeps, nothing can be read.
#[test]
fn values_that_are_held_elsewhere_bypass_the_cache() {
    fn assert_bypassed<V: Fingerprint + Debug + Send>(model: &Holding<V>) {
        let xs = random(&[3, 2]);
        let (output, log) = logged(|| model.forward(&xs));
        assert!(same(&output, &(&xs * 3.0)));
        let stats = model.torchcache.stats();
        assert_eq!((stats.bypassed, stats.rows), (1, 0));
        assert!(log.iter().any(|line| line.contains("is held")), "{log:?}");
    }
    let model = holding(RefCell::new(1.0), |_| 3.0);
    let borrowed = model.value.borrow_mut();
    assert_bypassed(&model);
    drop(borrowed);
    assert_computed_once(&model.torchcache, |xs| model.forward(xs), |xs| xs * 3.0);

    let shared = Arc::new((Mutex::new(1.0), RwLock::new(1.0)));
    for which in 0..2 {
        let model = holding(shared.clone(), |_| 3.0);
        let locked = (which == 0).then(|| shared.0.lock().unwrap());
        let written = (which == 1).then(|| shared.1.write().unwrap());
        assert_bypassed(&model);
        drop((locked, written));
        assert_computed_once(&model.torchcache, |xs| model.forward(xs), |xs| xs * 3.0);
    }
}

/// Counts how often it is read.
#[derive(Debug, Default)]
struct Read(AtomicU64);

impl Fingerprint for Read {
    fn fingerprint(&self, f: &mut torchcache::Fingerprinter<'_>) {
        self.0.fetch_add(1, SeqCst);
        f.variant("Read");
    }
}

/// Each lock that is held would cost another wait.
#[test]
fn nothing_is_waited_for_after_a_lock_that_is_held() {
    let (held, read) = (
        Arc::new(Mutex::new(1.0)),
        Arc::new(Mutex::new(Read::default())),
    );
    let model = holding((held.clone(), read.clone()), |_| 3.0);
    let guard = held.lock().unwrap();
    let xs = random(&[3, 2]);
    assert!(same(&model.forward(&xs), &(&xs * 3.0)));
    assert_eq!(model.torchcache.stats().bypassed, 1);
    let reads = || read.lock().unwrap().0.load(SeqCst);
    assert_eq!(reads(), 0);
    drop(guard);
    assert!(same(&model.forward(&xs), &(&xs * 3.0)));
    assert!(reads() > 0);
}

#[test]
fn each_bound_of_a_range_counts() {
    assert_noticed::<Range<i64>>(
        holding(1..5, |range| (range.start * 10 + range.end) as f64),
        &[&|range| range.start = 2, &|range| range.end = 6],
    );
    assert_noticed::<RangeFrom<u8>>(
        holding(1.., |range| range.start.into()),
        &[&|range| *range = 2..],
    );
    // A range that ended is not one of a single element.
    assert_noticed::<RangeInclusive<i64>>(
        holding(4..=5, |range| range.clone().count() as f64),
        &[
            &|range| assert!(range.next().is_some()),
            &|range| assert!(range.next().is_some()),
            &|range| *range = 1..=7,
        ],
    );
    assert_noticed::<(Bound<i64>, Bound<i64>)>(
        holding(
            (Bound::Included(1), Bound::Unbounded),
            |range| match range {
                (Bound::Included(1), Bound::Unbounded) => 1.0,
                (Bound::Excluded(1), Bound::Unbounded) => 2.0,
                _ => 3.0,
            },
        ),
        &[&|range| range.0 = Bound::Excluded(1), &|range| {
            range.1 = Bound::Included(1)
        }],
    );
}

#[test]
fn plain_values_of_the_standard_library_count() {
    assert_noticed(
        holding(NonZero::<u32>::MIN, |value| value.get().into()),
        &[&|value| *value = NonZero::new(2).unwrap()],
    );
    assert_noticed(
        holding(Wrapping(1u8), |value| value.0.into()),
        &[&|value| value.0 = 2],
    );
    assert_noticed(
        holding(BinaryHeap::from([1, 2]), |value| {
            value.iter().sum::<i32>().into()
        }),
        &[&|value| value.push(4)],
    );
    assert_noticed(
        holding(LinkedList::from([1, 2]), |value| {
            value.iter().fold(0, |all, next| 10 * all + next).into()
        }),
        &[
            &|value: &mut LinkedList<i32>| value.push_back(4),
            &|value| *value = LinkedList::from([2, 1]),
        ],
    );
    assert_noticed(
        holding(std::ffi::OsString::from("a"), |value| value.len() as f64),
        &[&|value| value.push("b")],
    );
}

#[test]
fn each_setting_of_a_configuration_counts() {
    assert_noticed::<nn::ConvConfig>(
        holding(nn::ConvConfig::default(), |config| {
            let is_circular = matches!(config.padding_mode, nn::PaddingMode::Circular);
            config.stride as f64 + f64::from(u8::from(is_circular)) * 10.0
        }),
        &[&|config| config.stride = 2, &|config| {
            config.padding_mode = nn::PaddingMode::Circular;
        }],
    );
    assert_noticed(
        holding(nn::LayerNormConfig::default(), |config| config.eps),
        &[&|config| config.eps = f64::from_bits(config.eps.to_bits() + 1)],
    );
    assert_noticed(
        holding(Some(nn::Init::Const(1.0)), |init| match init {
            Some(nn::Init::Const(value)) => *value,
            Some(_) => 3.0,
            None => 4.0,
        }),
        &[
            &|init| *init = Some(nn::Init::Const(2.0)),
            &|init| *init = Some(nn::Init::Uniform { lo: 0.0, up: 1.0 }),
            &|init| *init = None,
        ],
    );
    assert_noticed(
        holding(nn::RNNConfig::default(), |config| config.num_layers as f64),
        &[&|config| config.num_layers = 2],
    );
}

#[torchcache]
fn with_plain_arguments(
    xs: &Tensor,
    path: &Path,
    wait: Duration,
    reduction: Reduction,
    config: nn::ConvConfig,
    range: Range<i64>,
) -> Tensor {
    let path = path.as_os_str().len() as i64;
    let range = range.end - range.start;
    xs * (path + wait.as_secs() as i64 + reduction.to_int() + config.stride + range)
}

#[test]
fn plain_arguments_of_every_type_are_part_of_the_key() {
    let xs = random(&[3, 2]);
    let wide = nn::ConvConfig {
        stride: 100,
        ..Default::default()
    };
    let config = nn::ConvConfig::default();
    let (short, long) = (Duration::ZERO, Duration::from_secs(1000));
    let cache = with_plain_arguments_cache();
    let calls = [
        ("a", short, Reduction::Mean, config, 0..1, 1 + 1 + 1 + 1),
        (
            "a longer path",
            short,
            Reduction::Mean,
            config,
            0..1,
            13 + 1 + 1 + 1,
        ),
        (
            "a",
            long,
            Reduction::Mean,
            config,
            0..1,
            1 + 1000 + 1 + 1 + 1,
        ),
        ("a", short, Reduction::Sum, config, 0..1, 1 + 2 + 1 + 1),
        ("a", short, Reduction::Mean, wide, 0..1, 1 + 1 + 100 + 1),
        ("a", short, Reduction::Mean, config, 0..500, 1 + 1 + 1 + 500),
    ];
    for (path, wait, reduction, config, range, factor) in calls {
        let (misses, hits, _) = counts(cache);
        for _ in 0..2 {
            let output =
                with_plain_arguments(&xs, Path::new(path), wait, reduction, config, range.clone());
            assert!(same(&output, &(&xs * factor)), "{factor}");
        }
        assert_eq!(counts(cache), (misses + 3, hits + 3, 0), "{factor}");
    }
}

/// Numbers as libtorch takes them. A reference shows the value as integer, float and text.
#[test]
fn a_scalar_counts_by_what_a_reference_shows() {
    #[torchcache]
    fn scaled(xs: &Tensor, by: &Scalar) -> Tensor {
        xs * f64::from(by)
    }
    #[torchcache]
    #[derive(Debug)]
    struct Scaled {
        by: Scalar,
        cache: TorchCache,
    }
    #[torchcache]
    impl Scaled {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * f64::from(&self.by)
        }
    }
    let xs = random(&[3, 2]);
    let mut model = Scaled {
        by: Scalar::int(0),
        cache: TorchCache::default(),
    };
    let next = f64::from_bits(0.3f64.to_bits() + 1);
    let scalars = [
        Scalar::float(0.3),
        Scalar::float(next),
        Scalar::int(i64::MAX),
        Scalar::float(1e300),
    ];
    for scalar in scalars {
        let by = f64::from(&scalar);
        for _ in 0..2 {
            assert!(same(&scaled(&xs, &scalar), &(&xs * by)));
        }
        model.by = scalar;
        for _ in 0..2 {
            assert!(same(&model.forward(&xs), &(&xs * by)));
        }
    }
    assert_eq!(counts(scaled_cache()), (12, 12, 0));
    assert_eq!(counts(&model.cache), (12, 12, 0));
}

#[torchcache]
fn with_ids(
    sizes: usize,
    #[id] ids: &Vec<i64>,
    window: &Option<Duration>,
    paths: Vec<&Path>,
) -> Tensor {
    let by =
        sizes as i64 + window.map_or(0, |window| window.as_millis() as i64) + paths.len() as i64;
    Tensor::from_slice(ids) * by
}

#[test]
fn a_function_may_take_ids_and_plain_values_alone() {
    let (second, a) = (Some(Duration::from_secs(1)), Path::new("a"));
    for _ in 0..2 {
        for (sizes, window, paths, by) in [
            (1, None, vec![a], 2),
            (2, None, vec![a], 3),
            (2, second, vec![a, a], 1004),
        ] {
            let rows = with_ids(sizes, &vec![7, -9], &window, paths);
            assert!(same(&rows, &Tensor::from_slice(&[7i64 * by, -9 * by])));
        }
    }
    assert_eq!(counts(with_ids_cache()), (6, 6, 0));
}
