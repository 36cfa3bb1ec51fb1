//! Arguments that mean training: calls with them bypass the cache.

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

use crate::support::{Ran, counts, random, same};

/// Random in training.
#[torchcache]
fn dropout(xs: &Tensor, train: bool) -> Tensor {
    xs.dropout(0.5, train)
}

#[torchcache]
fn by_training(mut training: bool, xs: &Tensor) -> Tensor {
    training = !training;
    xs.dropout(0.5, !training)
}

#[torchcache]
fn by_is_training(xs: &Tensor, is_training: std::primitive::bool, scale: f64) -> Tensor {
    xs.dropout(0.5, is_training) * scale
}

#[torchcache]
fn by_two(xs: &Tensor, train: bool, _is_training: bool) -> Tensor {
    xs.dropout(0.5, train || _is_training)
}

#[torchcache]
fn by_reference(xs: &Tensor, train: &bool) -> Tensor {
    xs.dropout(0.5, *train)
}

#[torchcache]
fn by_pattern(xs: &Tensor, &training: &bool) -> Tensor {
    xs.dropout(0.5, training)
}

macro_rules! of_macro {
    ($name:ident: $flag:ty) => {
        #[torchcache]
        fn of_macro(xs: &Tensor, $name: $flag) -> Tensor {
            xs.dropout(0.5, $name)
        }
    };
}

of_macro!(train: bool);

/// Arguments of other names and types are plain.
#[torchcache]
fn plain(xs: &Tensor, train: Option<bool>, trained: bool) -> Tensor {
    if train == Some(true) || trained {
        xs.neg()
    } else {
        xs.shallow_clone()
    }
}

#[torchcache]
#[derive(Debug, Default)]
struct InherentDropout {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl InherentDropout {
    fn forward(&self, xs: &Tensor, is_training: bool) -> Tensor {
        self.ran.note(xs);
        xs.dropout(0.5, is_training)
    }

    fn forward_t(&self, xs: &Tensor, training: bool) -> Tensor {
        self.ran.note(xs);
        xs.dropout(0.5, training) * 2
    }
}

/// Calls that alternate between training and not: those in training differ and are counted.
#[track_caller]
fn assert_bypassed(cache: &TorchCache, call: impl Fn(&Tensor, bool) -> Tensor, factor: f64) {
    let xs = random(&[4, 100]);
    let before = cache.stats();
    let masks = [(); 3].map(|()| {
        assert!(same(&call(&xs, false), &(&xs * factor)), "outside training");
        call(&xs, true)
    });
    assert!(!same(&masks[0], &masks[1]) && !same(&masks[1], &masks[2]));
    let stats = cache.stats();
    let (misses, hits) = (stats.misses - before.misses, stats.hits() - before.hits());
    assert_eq!((misses, hits, stats.bypassed - before.bypassed), (4, 8, 3));
}

#[test]
fn training_of_a_function_bypasses_the_cache() {
    assert_bypassed(dropout_cache(), dropout, 1.0);
    assert_bypassed(by_training_cache(), |xs, train| by_training(train, xs), 1.0);
    let scaled = |xs: &Tensor, train| by_is_training(xs, train, 2.0);
    assert_bypassed(by_is_training_cache(), scaled, 2.0);
    assert_bypassed(by_two_cache(), |xs, train| by_two(xs, train, false), 1.0);
    assert_bypassed(by_two_cache(), |xs, train| by_two(xs, false, train), 1.0);
    assert_bypassed(of_macro_cache(), of_macro, 1.0);
    assert_bypassed(
        by_reference_cache(),
        |xs, train| by_reference(xs, &train),
        1.0,
    );
    assert_bypassed(by_pattern_cache(), |xs, train| by_pattern(xs, &train), 1.0);
}

#[test]
fn training_of_an_inherent_method_bypasses_the_cache() {
    let model = InherentDropout::default();
    assert_bypassed(&model.torchcache, |xs, train| model.forward(xs, train), 1.0);
    assert_eq!(model.ran.take(), (4, 16));
    assert_bypassed(
        &model.torchcache,
        |xs, train| model.forward_t(xs, train),
        2.0,
    );
    assert_eq!(model.ran.take(), (4, 16));
}

#[test]
fn other_flags_are_plain_arguments() {
    let xs = random(&[4, 3]);
    for _ in 0..2 {
        assert!(same(&plain(&xs, Some(true), false), &xs.neg()));
        assert!(same(&plain(&xs, None, false), &xs));
        assert!(same(&plain(&xs, Some(false), true), &xs.neg()));
    }
    assert_eq!(counts(plain_cache()), (12, 12, 0));
    assert_eq!(plain_cache().stats().bypassed, 0);
}
