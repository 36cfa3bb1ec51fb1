//! What the Python package torchcache 0.6.0 returns wrong, each measured on it, and right here.
//!
//! It also gives a second instance the outputs of the first one, and does not notice changed
//! weights: the tests in `identity` cover these.

use std::path::Path;

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::torchcache;

use crate::support::{self, Scale, counts, device, random, same};

/// The 1,797 digits, which the transfer learning example has: 64 pixels a row.
fn digits() -> Tensor {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it");
    let digits = support::digits(&Path::new(&folder).join("../examples/data/digits"));
    assert_eq!(digits.size(), [1797, 64]);
    digits.to_device(device())
}

/// The package returns 38 of 1,797 rows wrong: its hash truncates floats to integers.
#[test]
fn the_digits_data_set_returns_right_rows() {
    let (model, digits) = (Scale::by(121.0), digits());
    for pass in 0..2 {
        for batch in digits.split(100, 0) {
            assert!(
                same(&model.forward(&batch), &(&batch * 121.0)),
                "pass {pass}"
            );
        }
    }
    let distinct = digits.unique_dim(0, true, false, false).0.size()[0] as u64;
    let stats = model.cache.stats();
    assert_eq!(
        (stats.misses, stats.hits()),
        (distinct, 2 * 1797 - distinct)
    );
    assert_eq!(model.ran.take().1, distinct as i64);
}

/// The package returns all hits in one buffer, which the next call overwrites: of the digits, 1,701
/// of 1,797 rows are wrong where results are kept.
#[test]
fn later_calls_leave_kept_results_unchanged() {
    let (model, digits) = (Scale::by(122.0), digits());
    let pass = || -> Vec<_> {
        let batches = digits.split(100, 0);
        batches.iter().map(|batch| model.forward(batch)).collect()
    };
    for kept in [pass(), pass()] {
        assert!(same(&Tensor::cat(&kept, 0), &(&digits * 122.0)));
    }
    let stats = model.cache.stats();
    assert_eq!(stats.misses + stats.hits(), 2 * 1797);
    assert!(stats.hits() >= 1797, "the second pass hits");
}

/// The package returns 272 of 2,000 rows of small values wrong: their hashes collide. So they do for
/// any layout; that it is wrong for inputs that are not contiguous is this collision.
#[test]
fn small_features_do_not_collide() {
    let (model, xs) = (Scale::by(123.0), random(&[2000, 16]) * 1e-3);
    let transposed = xs.tr().contiguous().tr();
    assert!(!transposed.is_contiguous());
    for xs in [&xs, &xs, &transposed] {
        assert!(same(&model.forward(xs), &(xs * 123.0).contiguous()));
    }
    assert_eq!(counts(&model.cache), (2000, 4000, 0));
}

#[torchcache]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.unsqueeze(-1).to_kind(Kind::Float) * 0.5
}

/// The package returns the embeddings as int64.
#[test]
fn integer_inputs_return_float_outputs() {
    let tokens = Tensor::randint(30_000, [32, 16], (Kind::Int64, device()));
    let expected = tokens.unsqueeze(-1).to_kind(Kind::Float) * 0.5;
    for _ in 0..2 {
        assert!(same(&embed(&tokens), &expected));
    }
    assert_eq!(counts(embed_cache()), (32, 32, 0));
}

#[torchcache]
fn affine(xs: &Tensor, scale: f64, offset: f64) -> Tensor {
    xs * scale + offset
}

/// In the package these share a key.
#[test]
fn plain_arguments_are_keyed_apart() {
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        for (scale, offset) in [(2.0, 3.0), (3.0, 2.0), (1.0, 1.0), (2.0, 2.0)] {
            assert!(same(&affine(&xs, scale, offset), &(&xs * scale + offset)));
        }
    }
    assert_eq!(counts(affine_cache()), (12, 12, 0));
}

/// The package raises an error where an empty batch is the first call of an instance.
#[test]
fn an_empty_batch_may_be_the_first_call() {
    let (model, empty) = (Scale::by(124.0), random(&[0, 64]));
    assert_eq!(model.forward(&empty).size(), [0, 64]);
    let stats = model.cache.stats();
    assert_eq!((stats.bypassed, stats.misses, stats.stored), (1, 0, 0));
}
