//! What the module hash depends on: code, fields, weights and options.

use std::collections::HashMap;

use tch::nn::Module;
use tch::{Kind, Tensor, nn};
use torchcache::{Fingerprint, TorchCache, torchcache};

use crate::support::{Ran, Scale, device, random, same};

#[torchcache]
#[derive(Debug)]
struct Layers {
    conv: nn::Conv2D,
    norm: nn::BatchNorm,
    layer_norm: nn::LayerNorm,
    group_norm: nn::GroupNorm,
    up: nn::ConvTranspose2D,
    fc: nn::Linear,
    #[torchcache(skip)]
    ran: Ran,
    #[torchcache(skip)]
    label: &'static str,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Layers {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        uncached(self, xs)
    }
}

/// Weights derived from `seed`. Tests use different seeds, because equal identities share rows.
fn layers(stride: i64, seed: f64) -> (nn::VarStore, Layers) {
    let mut vs = nn::VarStore::new(device());
    let root = vs.root();
    let conv = nn::ConvConfig {
        stride,
        padding: 1,
        ..Default::default()
    };
    let side = if stride == 1 { 6 } else { 3 };
    let layers = Layers {
        conv: nn::conv2d(&root / "conv", 2, 4, 3, conv),
        norm: nn::batch_norm2d(&root / "norm", 4, Default::default()),
        layer_norm: nn::layer_norm(&root / "layer_norm", vec![side, side], Default::default()),
        group_norm: nn::group_norm(&root / "group_norm", 2, 4, Default::default()),
        up: nn::conv_transpose2d(&root / "up", 4, 2, 1, Default::default()),
        fc: nn::linear(&root / "fc", 2 * side * side, 3, Default::default()),
        ran: Ran::default(),
        label: "first",
        torchcache: TorchCache::default(),
    };
    vs.freeze();
    for mut variable in vs.variables().into_values() {
        let count = variable.numel() as i64;
        let values = Tensor::arange(count, (Kind::Float, device())) / count as f64 + seed;
        variable.copy_(&values.view(variable.size().as_slice()));
    }
    (vs, layers)
}

/// The output that the layers compute now, without the cache.
fn uncached(layers: &Layers, xs: &Tensor) -> Tensor {
    xs.apply(&layers.conv)
        .apply_t(&layers.norm, false)
        .apply(&layers.layer_norm)
        .apply(&layers.group_norm)
        .apply(&layers.up)
        .flat_view()
        .apply(&layers.fc)
}

#[test]
fn undoing_a_weight_edit_makes_old_rows_valid_again() {
    let (vs, model) = layers(1, 0.1);
    let xs = random(&[4, 2, 6, 6]);
    let first = model.forward(&xs);
    let hash = model.torchcache.module_hash().unwrap();
    assert_eq!(hash.len(), 64);
    assert_eq!(model.ran.take(), (1, 4));
    let mut variables: Vec<_> = vs.variables().into_iter().collect();
    variables.sort_by(|left, right| left.0.cmp(&right.0));
    assert_eq!(variables.len(), 14, "weights and running statistics");
    for (name, mut variable) in variables {
        let before = variable.copy();
        let _ = variable.g_add_scalar_(0.5);
        let edited = model.forward(&xs);
        assert_eq!(model.ran.take(), (1, 4), "{name}");
        assert!(same(&edited, &uncached(&model, &xs)), "{name}");
        assert_ne!(model.torchcache.module_hash().unwrap(), hash, "{name}");
        variable.copy_(&before);
        assert!(same(&model.forward(&xs), &first), "{name}");
        assert_eq!(model.ran.take(), (0, 0), "{name}: old rows are valid again");
        assert_eq!(model.torchcache.module_hash().unwrap(), hash, "{name}");
    }
}

#[test]
fn swapping_weights_changes_the_identity() {
    let (mut vs, model) = layers(1, 0.2);
    let xs = random(&[3, 2, 6, 6]);
    model.forward(&xs);
    let hash = model.torchcache.module_hash();
    model.ran.take();
    // Rounds every weight, and leaves version, kind, shape and perhaps the address as they were.
    vs.half();
    vs.float();
    let rounded = model.forward(&xs);
    assert_eq!(model.ran.take(), (1, 3));
    assert!(same(&rounded, &uncached(&model, &xs)));
    assert_ne!(model.torchcache.module_hash(), hash);
}

#[test]
fn instances_with_equal_weights_share_rows() {
    let ((_, first), (_, mut second)) = (layers(1, 0.3), layers(1, 0.3));
    let xs = random(&[3, 2, 6, 6]);
    first.forward(&xs);
    second.label = "another label, which is skipped";
    second.forward(&xs);
    assert_eq!(second.ran.take(), (0, 0));
    assert_eq!(
        first.torchcache.module_hash(),
        second.torchcache.module_hash()
    );
}

#[test]
fn layer_configuration_is_part_of_the_identity() {
    let ((_, one), (_, two)) = (layers(1, 0.4), layers(2, 0.4));
    let hash = |model: &Layers| {
        model.forward(&random(&[1, 2, 6, 6]));
        model.torchcache.module_hash()
    };
    assert_ne!(hash(&one), hash(&two));
    // Same weights, another epsilon: only the private configuration differs.
    #[torchcache]
    #[derive(Debug)]
    struct Norm {
        norm: nn::LayerNorm,
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Module for Norm {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.apply(&self.norm)
        }
    }
    let norm = |eps, elementwise_affine| {
        let mut vs = nn::VarStore::new(device());
        let config = nn::LayerNormConfig {
            eps,
            elementwise_affine,
            ..Default::default()
        };
        let norm = nn::layer_norm(vs.root(), vec![4], config);
        vs.freeze();
        Norm {
            norm,
            torchcache: TorchCache::default(),
        }
    };
    let xs = random(&[2, 4]);
    for affine in [true, false] {
        let (mut model, other) = (norm(1e-5, affine), norm(10.0, affine));
        model.forward(&xs);
        assert!(same(&other.forward(&xs), &xs.apply(&other.norm)));
        // The whole layer replaced in place.
        model.norm = other.norm;
        assert!(
            same(&model.forward(&xs), &xs.apply(&model.norm)),
            "affine: {affine}"
        );
    }
}

#[test]
fn plain_fields_are_part_of_the_identity() {
    let (two, three) = (Scale::by(2.0), Scale::by(3.0));
    let xs = random(&[4, 2]);
    assert!(same(&two.forward(&xs), &(&xs * 2.0)));
    assert!(same(&three.forward(&xs), &(&xs * 3.0)));
    let mut changed = two;
    changed.factor = 5.0;
    assert!(
        same(&changed.forward(&xs), &(&xs * 5.0)),
        "read at every call"
    );
    changed.factor = 2.0;
    changed.ran.take();
    assert!(same(&changed.forward(&xs), &(&xs * 2.0)));
    assert_eq!(changed.ran.take(), (0, 0));
}

#[derive(Debug, Clone, Copy, Fingerprint)]
enum Activation {
    Relu,
    Leaky { slope: f64 },
}

#[derive(Debug, Fingerprint)]
struct Config {
    activation: Activation,
    scales: Vec<f64>,
    names: HashMap<String, Option<u8>>,
}

#[torchcache]
#[derive(Debug)]
struct Configured {
    config: Config,
    vs: nn::VarStore,
    #[torchcache(skip)]
    layers: nn::Sequential,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Configured {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let ys = xs.apply(&self.layers) * self.config.scales[0];
        match self.config.activation {
            Activation::Relu => ys.relu(),
            Activation::Leaky { slope } => ys.maximum(&(&ys * slope)),
        }
    }
}

#[test]
fn fingerprint_derives_and_var_stores_are_part_of_identity() {
    let mut vs = nn::VarStore::new(device());
    let layers = nn::seq().add(nn::linear(vs.root() / "a", 3, 3, Default::default()));
    vs.freeze();
    let config = Config {
        activation: Activation::Relu,
        scales: vec![1.0],
        names: HashMap::new(),
    };
    let mut model = Configured {
        config,
        vs,
        layers,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 3]);
    let mut seen = Vec::new();
    let mut hash = |model: &Configured| {
        let ys = model.forward(&xs);
        assert!(same(&ys, &model.forward(&xs)));
        let hash = model.torchcache.module_hash().unwrap();
        assert!(!seen.contains(&hash));
        seen.push(hash);
    };
    hash(&model);
    model.config.activation = Activation::Leaky { slope: 0.1 };
    hash(&model);
    model.config.activation = Activation::Leaky { slope: 0.2 };
    hash(&model);
    model.config.scales.push(2.0);
    hash(&model);
    model.config.names.insert("a".into(), Some(1));
    hash(&model);
    let _ = model.vs.variables()["a.weight"].shallow_clone().fill_(0.5);
    hash(&model);
}

#[test]
fn persistent_module_hash_is_the_identity() {
    #[torchcache(persistent_module_hash = "by-name")]
    #[derive(Debug)]
    struct Named {
        factor: f64,
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Named {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.factor
        }
    }
    let named = |factor| Named {
        factor,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 2]);
    let first = named(2.0);
    first.forward(&xs);
    assert_eq!(first.torchcache.module_hash().as_deref(), Some("by-name"));
    assert!(
        same(&named(3.0).forward(&xs), &(&xs * 2.0)),
        "the name alone identifies the rows"
    );
}

#[test]
fn a_handle_moved_to_another_module_is_that_modules() {
    #[torchcache(subsample_count = 1)]
    #[derive(Debug, Default)]
    struct Double {
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Module for Double {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 2
        }
    }
    #[torchcache]
    #[derive(Debug)]
    struct Triple {
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Module for Triple {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 3
        }
    }
    let row = |last: f32| {
        Tensor::from_slice(&[1.0, last])
            .view([1, 2])
            .to_device(device())
    };
    let double = Double::default();
    assert!(same(&double.forward(&row(2.0)), &(row(2.0) * 2)));
    let triple = Triple {
        torchcache: double.torchcache,
    };
    // Neither the first row, nor the first element of a row, is a hit.
    for last in [2.0, 3.0] {
        assert!(same(&triple.forward(&row(last)), &(row(last) * 3)));
    }
    assert_eq!(triple.torchcache.stats().misses, 3, "of both modules");
    assert_eq!(
        triple.torchcache.effective_options().subsample_count(),
        None
    );
}
