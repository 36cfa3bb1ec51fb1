//! What the Python package torchcache 0.6.0 returns wrong, each measured on it, and right here.
//!
//! It also gives a second instance the outputs of the first one, and does not notice changed
//! weights: the tests in `identity` cover these.

use std::path::Path;

use tch::{Kind, Tensor};
use torchcache::torchcache;

use crate::support::{self, device, random, same};

/// The 1,797 digits, which the transfer learning example has: 64 pixels a row.
fn digits() -> Tensor {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it");
    let digits = support::digits(&Path::new(&folder).join("../examples/data/digits"));
    assert_eq!(digits.size(), [1797, 64]);
    digits.to_device(device())
}

#[torchcache]
fn features(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The package returns 38 of 1,797 rows wrong: its hash truncates floats to integers.
#[test]
fn the_digits_data_set_returns_right_rows() {
    let digits = digits();
    for pass in 0..2 {
        for batch in digits.split(100, 0) {
            assert!(same(&features(&batch), &(&batch * 2)), "pass {pass}");
        }
    }
    let distinct = digits.unique_dim(0, true, false, false).0.size()[0] as u64;
    let stats = features::cache().stats();
    assert_eq!(
        (stats.misses, stats.hits()),
        (distinct, 2 * 1797 - distinct)
    );
}

#[torchcache]
fn kept_features(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The package returns all hits in one buffer, which the next call overwrites: of the digits, 1,701
/// of 1,797 rows are wrong where results are kept.
#[test]
fn later_calls_leave_kept_results_unchanged() {
    let digits = digits();
    let pass = || -> Vec<_> { digits.split(100, 0).iter().map(kept_features).collect() };
    for kept in [pass(), pass()] {
        assert!(same(&Tensor::cat(&kept, 0), &(&digits * 2)));
    }
    let stats = kept_features::cache().stats();
    assert_eq!(stats.misses + stats.hits(), 2 * 1797);
    assert!(stats.hits() >= 1797, "the second pass hits");
}

#[torchcache]
fn small_features(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The package returns 272 of 2,000 rows of small values wrong: their hashes collide. So they do for
/// any layout; that it is wrong for inputs that are not contiguous is this collision.
#[test]
fn small_features_do_not_collide() {
    let xs = random(&[2000, 16]) * 1e-3;
    let transposed = xs.tr().contiguous().tr();
    assert!(!transposed.is_contiguous());
    for xs in [&xs, &xs, &transposed] {
        assert!(same(&small_features(xs), &(xs * 2).contiguous()));
    }
    let stats = small_features::cache().stats();
    assert_eq!((stats.misses, stats.memory.hits), (2000, 4000));
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
    let stats = embed::cache().stats();
    assert_eq!((stats.misses, stats.memory.hits), (32, 32));
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
    let stats = affine::cache().stats();
    assert_eq!((stats.misses, stats.memory.hits), (12, 12));
}

#[torchcache]
fn any_batch(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The package raises an error where an empty batch is the first call of an instance.
#[test]
fn an_empty_batch_may_be_the_first_call() {
    let empty = Tensor::zeros([0, 64], (Kind::Float, device()));
    assert_eq!(any_batch(&empty).size(), [0, 64]);
    let stats = any_batch::cache().stats();
    assert_eq!((stats.bypassed, stats.misses, stats.stored), (1, 0, 0));
}
