//! Calls that would silently lose a gradient are refused or bypass the cache.

use tch::nn::{Module, ModuleT};
use tch::{Tensor, nn};
use torchcache::{
    Error, ErrorKind, Fingerprint, Fingerprinter, PlainArgument, TorchCache, torchcache,
};

use crate::support::{Ran, Scale, assert_panics, device, logged, panic_of, random, same, warnings};

/// A counted linear layer.
#[torchcache]
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) fc: nn::Linear,
    #[torchcache(skip)]
    ran: Ran,
    pub(crate) torchcache: TorchCache,
}

impl Net {
    pub(crate) fn new(vs: &nn::VarStore, inputs: i64, outputs: i64) -> Self {
        Net {
            fc: nn::linear(vs.root() / "fc", inputs, outputs, Default::default()),
            ran: Ran::default(),
            torchcache: TorchCache::default(),
        }
    }
}

#[torchcache]
impl Module for Net {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs.apply(&self.fc)
    }
}

#[test]
fn a_trainable_parameter_is_an_error() {
    let mut vs = nn::VarStore::new(device());
    let net = Net::new(&vs, 3, 2);
    let xs = random(&[4, 3]);
    let text = "gradients::Net: parameter `fc.ws` requires grad";
    assert_panics(&[text, "vs.freeze()", "tch::no_grad"], || net.forward(&xs));
    assert_eq!(net.ran.take(), (0, 0));

    vs.freeze();
    assert!(same(&net.forward(&xs), &xs.apply(&net.fc)));
    vs.unfreeze();
    panic_of(|| net.forward(&xs));
    let _guard = tch::no_grad_guard();
    assert!(
        same(&net.forward(&xs), &xs.apply(&net.fc)),
        "rows of the frozen module are hits"
    );
    assert_eq!(net.ran.take(), (1, 4));
}

#[test]
fn an_input_that_requires_grad_bypasses_with_one_warning() {
    let model = Scale::by(2.0);
    let xs = random(&[4, 3]).set_requires_grad(true);
    let (_, lines) = logged(|| {
        for _ in 0..3 {
            model.forward(&xs).sum(tch::Kind::Float).backward();
        }
    });
    assert_eq!(xs.grad().double_value(&[0, 0]), 6.0, "gradients flow");
    assert_eq!(model.ran.take(), (3, 12));
    assert_eq!(model.cache.stats().bypassed, 3);
    assert_eq!(warnings(&lines, ""), 1, "{lines:?}");
    assert_eq!(
        warnings(&lines, "argument `xs` requires grad"),
        1,
        "{lines:?}"
    );

    // While no gradients are recorded, the same input is cached.
    let _guard = tch::no_grad_guard();
    model.forward(&xs);
    model.forward(&xs);
    assert_eq!(model.ran.take(), (1, 4));
}

#[torchcache]
#[derive(Debug)]
struct Versioned {
    weight: Tensor,
    torchcache_version: Option<String>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Versioned {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * &self.weight
    }
}

#[test]
fn an_option_changed_with_a_refused_call_applies_to_the_next() {
    let mut model = Versioned {
        weight: random(&[3]),
        torchcache_version: None,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[4, 3]);
    let _ = model.forward(&xs);
    let hash = model.torchcache.module_hash();
    model.torchcache_version = Some("2".into());
    model.weight = model.weight.set_requires_grad(true);
    panic_of(|| model.forward(&xs));
    model.weight = model.weight.set_requires_grad(false);
    let _ = model.forward(&xs);
    assert_eq!(model.torchcache.effective_options().version(), "2");
    assert_ne!(model.torchcache.module_hash(), hash);
}

#[torchcache]
#[derive(Debug)]
struct Hidden {
    #[torchcache(skip)]
    layers: nn::Sequential,
    torchcache: TorchCache,
}

#[torchcache]
impl Hidden {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        Ok(xs.apply(&self.layers))
    }
}

#[test]
fn trainable_weights_in_a_skipped_field_are_an_error() {
    let vs = nn::VarStore::new(device());
    let layers = nn::seq().add(nn::linear(vs.root(), 3, 2, Default::default()));
    let model = Hidden {
        layers,
        torchcache: TorchCache::default(),
    };
    let error = model.forward(&random(&[4, 3])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequiresGrad, "{error}");
    tch::no_grad(|| model.forward(&random(&[4, 3])).unwrap());
}

#[torchcache]
#[derive(Debug, Default)]
struct Dropout {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl ModuleT for Dropout {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.ran.note(xs);
        xs.dropout(0.5, train)
    }
}

#[test]
fn training_bypasses_the_cache() {
    let model = Dropout::default();
    let xs = random(&[40, 30]);
    assert!(!same(
        &model.forward_t(&xs, true),
        &model.forward_t(&xs, true)
    ));
    assert_eq!(model.ran.take(), (2, 80));
    assert!(same(&model.forward_t(&xs, false), &xs));
    assert!(same(&model.forward_t(&xs, false), &xs));
    assert_eq!(model.ran.take(), (1, 40));
    assert!(
        !same(&model.forward_t(&xs, true), &xs),
        "training returns no cached rows"
    );
    assert_eq!(model.torchcache.stats().bypassed, 3);
}

/// A plain argument with a tensor of its own.
#[derive(Debug, Clone, Fingerprint)]
struct Gain {
    factors: Vec<(String, Gains)>,
}

#[derive(Debug)]
struct Gains(Tensor);

impl Clone for Gains {
    fn clone(&self) -> Self {
        Gains(self.0.shallow_clone())
    }
}

impl Fingerprint for Gains {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.tensor(&self.0);
    }
}

impl PlainArgument for Gain {}

#[torchcache]
fn amplified(xs: &Tensor, gain: Gain) -> Tensor {
    xs * &gain.factors[0].1.0
}

#[test]
fn a_plain_argument_that_requires_grad_bypasses_the_cache() {
    let factor = Tensor::from_slice(&[2.0f32]).to_device(device());
    let factor = factor.set_requires_grad(true);
    let gain = Gain {
        factors: vec![("factor".into(), Gains(factor.shallow_clone()))],
    };
    let xs = random(&[4, 3]);
    let expected = tch::no_grad(|| &xs * &factor);
    for _ in 0..2 {
        tch::no_grad(|| assert!(same(&amplified(&xs, gain.clone()), &expected)));
        let (output, lines) = logged(|| amplified(&xs, gain.clone()));
        assert!(output.requires_grad());
        assert!(same(&output.detach(), &expected));
        assert!(warnings(&lines, "requires grad") <= 1, "{lines:#?}");
    }
    let stats = amplified_cache().stats();
    assert_eq!((stats.misses, stats.memory.hits, stats.bypassed), (4, 4, 2));
}
