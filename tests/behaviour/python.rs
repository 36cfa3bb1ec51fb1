//! What the Python package torchcache 0.6.0 gets wrong, each measured on it, and right here.

use std::path::Path;

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::torchcache;

use crate::support::{self, Scale, device, random, same};

#[torchcache]
fn features(xs: &Tensor) -> Tensor {
    xs * 2
}

/// There 38 of 1,797 rows come back wrong: its hash truncates floats to integers.
#[test]
fn the_digits_data_set_returns_right_rows() {
    let digits = digits();
    assert_eq!(digits.size(), [1797, 64]);
    let expected = &digits * 2;
    for pass in 0..2 {
        for start in (0..1797).step_by(100) {
            let rows = 100.min(1797 - start);
            let batch = digits.narrow(0, start, rows);
            assert!(
                same(&features(&batch), &expected.narrow(0, start, rows)),
                "pass {pass}"
            );
        }
    }
    let distinct = digits.unique_dim(0, true, false, false).0.size()[0] as u64;
    let stats = features::cache().stats();
    assert_eq!(
        (stats.misses, stats.hits()),
        (distinct, 2 * 1797 - distinct)
    );
}

/// The set as the example vendors it: 64 pixels and the label, a row a line.
fn digits() -> Tensor {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it");
    let path = Path::new(&folder).join("../examples/data/digits");
    support::digits(&path).to_device(device())
}

#[torchcache]
fn small_features(xs: &Tensor) -> Tensor {
    xs * 2
}

/// There 272 of 2,000 rows of small features come back wrong.
#[test]
fn small_features_do_not_collide() {
    let xs = random(&[2000, 16]) * 1e-3;
    assert!(same(&small_features(&xs), &(&xs * 2)));
    assert!(same(&small_features(&xs), &(&xs * 2)));
    let stats = small_features::cache().stats();
    assert_eq!((stats.misses, stats.memory_hits), (2000, 2000));
}

#[torchcache]
fn embed(tokens: &Tensor) -> Tensor {
    tokens.unsqueeze(-1).to_kind(Kind::Float) * 0.5
}

/// There the embeddings come back as int64.
#[test]
fn integer_inputs_return_float_outputs() {
    let tokens = Tensor::randint(30_000, [32, 16], (Kind::Int64, device()));
    for _ in 0..2 {
        let ys = embed(&tokens);
        assert_eq!(ys.kind(), Kind::Float);
        assert!(same(
            &ys,
            &(tokens.unsqueeze(-1).to_kind(Kind::Float) * 0.5)
        ));
    }
    let stats = embed::cache().stats();
    assert_eq!((stats.misses, stats.memory_hits), (32, 32));
}

#[torchcache]
fn affine(xs: &Tensor, scale: f64, offset: f64) -> Tensor {
    xs * scale + offset
}

/// There these share a key.
#[test]
fn plain_arguments_are_keyed_apart() {
    let xs = random(&[3, 2]);
    for _ in 0..2 {
        for (scale, offset) in [(2.0, 3.0), (3.0, 2.0), (1.0, 1.0), (2.0, 2.0)] {
            assert!(same(&affine(&xs, scale, offset), &(&xs * scale + offset)));
        }
    }
    let stats = affine::cache().stats();
    assert_eq!((stats.misses, stats.memory_hits), (12, 12));
}

/// There the second instance gets the first one's outputs.
#[test]
fn instances_with_other_fields_have_their_own_rows() {
    let xs = random(&[3, 2]);
    let (one, two) = (Scale::by(1.0), Scale::by(2.0));
    for _ in 0..2 {
        assert!(same(&one.forward(&xs), &xs));
        assert!(same(&two.forward(&xs), &(&xs * 2.0)));
    }
    for model in [one, two] {
        assert_eq!(model.ran.take(), (1, 3));
        assert_eq!(model.cache.stats().memory_hits, 3);
    }
}

/// There updated weights are not noticed. More of this in `identity`.
#[test]
fn an_updated_weight_is_noticed() {
    #[torchcache]
    #[derive(Debug)]
    struct Weighted {
        weight: Tensor,
        torchcache: torchcache::TorchCache,
    }
    #[torchcache]
    impl Module for Weighted {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * &self.weight
        }
    }
    let mut model = Weighted {
        weight: random(&[2]),
        torchcache: Default::default(),
    };
    let xs = random(&[3, 2]);
    let counts = |model: &Weighted| {
        let stats = model.torchcache.stats();
        (stats.misses, stats.memory_hits)
    };
    model.forward(&xs);
    model.forward(&xs);
    assert_eq!(counts(&model), (3, 3));
    let _ = model.weight.g_mul_scalar_(3.0);
    for _ in 0..2 {
        assert!(same(&model.forward(&xs), &(&xs * &model.weight)));
    }
    assert_eq!(counts(&model), (6, 6));
}

#[torchcache]
fn any_batch(xs: &Tensor) -> Tensor {
    xs * 2
}

/// There an empty batch raises.
#[test]
fn an_empty_batch_is_a_batch() {
    let empty = Tensor::zeros([0, 64], (Kind::Float, device()));
    assert_eq!(any_batch(&empty).size(), [0, 64]);
    let stats = any_batch::cache().stats();
    assert_eq!((stats.bypassed, stats.misses, stats.stored), (1, 0, 0));
}

#[torchcache]
fn any_layout(xs: &Tensor) -> Tensor {
    xs * 2
}

/// There non-contiguous input gives wrong output.
#[test]
fn a_strided_input_is_right() {
    let xs = random(&[6, 8]).tr();
    assert!(!xs.is_contiguous());
    let expected = (&xs * 2).contiguous();
    assert!(same(&any_layout(&xs), &expected));
    assert!(same(&any_layout(&xs), &expected));
    assert!(same(&any_layout(&xs.contiguous()), &expected));
    let stats = any_layout::cache().stats();
    assert_eq!((stats.misses, stats.memory_hits), (8, 16));
}
