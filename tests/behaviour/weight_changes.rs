//! Changes that no version counter shows, and handles and closures that could be taken for others.
//! Each of these once returned a wrong tensor.

use tch::nn::{Module, ModuleT, OptimizerConfig};
use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Fingerprint, Fingerprinter, Options, TorchCache, torchcache};

use crate::gradients::Net;
use crate::support::{counts, device, random, same, version};

#[torchcache]
#[derive(Debug)]
struct Normed {
    norm: nn::BatchNorm,
    torchcache: TorchCache,
}

#[torchcache]
impl ModuleT for Normed {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        xs.apply_t(&self.norm, train)
    }
}

/// `batch_norm` writes its running statistics without counting a version.
#[test]
fn running_statistics_moved_by_training_are_noticed() {
    let mut vs = nn::VarStore::new(device());
    let norm = nn::batch_norm1d(vs.root(), 4, Default::default());
    vs.freeze();
    let torchcache = TorchCache::default();
    let model = Normed { norm, torchcache };
    let xs = random(&[32, 4]) * 3.0 + 2.0;
    let expected = || xs.apply_t(&model.norm, false);
    assert!(same(&model.forward_t(&xs, false), &expected()));
    model.forward_t(&xs, true);
    assert!(
        same(&model.forward_t(&xs, false), &expected()),
        "trained through the module"
    );
    xs.apply_t(&model.norm, true);
    assert!(
        same(&model.forward_t(&xs, false), &expected()),
        "trained outside the module"
    );
    // Through a `VarStore`, which does not say which variables are statistics.
    let wrapped = Cached::new(nn::func_t(|xs, _| xs * 1.0), &vs, Options::default()).unwrap();
    wrapped.forward(&xs);
    let hash = wrapped.cache().module_hash();
    xs.apply_t(&model.norm, true);
    wrapped.forward(&xs);
    assert_ne!(wrapped.cache().module_hash(), hash);
}

/// `nn::Sgd` moves no version counter, whatever happens to the gradients afterwards.
#[test]
fn a_step_of_sgd_is_noticed_at_any_size_and_order() {
    for (width, freeze) in [(4, false), (4, true), (300, false), (300, true)] {
        let mut vs = nn::VarStore::new(device());
        let model = Net::new(&vs, width, width);
        let mut optimizer = nn::Sgd::default().build(&vs, 0.5).unwrap();
        let xs = random(&[8, width]);
        for step in 0..3 {
            if freeze {
                vs.freeze();
            }
            tch::no_grad(|| {
                let expected = xs.apply(&model.fc);
                for _ in 0..2 {
                    let given = model.forward(&xs);
                    assert!(same(&given, &expected), "width {width}, step {step}");
                }
            });
            vs.unfreeze();
            let loss = xs.apply(&model.fc).square().mean(Kind::Float);
            optimizer.backward_step(&loss);
            if step == 1 {
                optimizer.zero_grad();
            }
        }
        assert_eq!(
            counts(&model.torchcache),
            (24, 24, 0),
            "computed once after each step"
        );
    }
}

#[torchcache]
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) table: nn::Embedding,
    pub(crate) torchcache: TorchCache,
}

#[torchcache]
impl Module for Embedded {
    fn forward(&self, ids: &Tensor) -> Tensor {
        ids.apply(&self.table)
    }
}

/// Only the rows of these ids change, by less than their size, and the gradient is dropped.
#[test]
fn a_step_of_sgd_on_few_rows_of_a_large_table_is_noticed() {
    let mut vs = nn::VarStore::new(device());
    let table = nn::embedding(vs.root(), 30_000, 64, Default::default());
    let torchcache = TorchCache::default();
    let model = Embedded { table, torchcache };
    let mut optimizer = nn::Sgd::default().build(&vs, 0.5).unwrap();
    let ids = Tensor::from_slice(&[3i64, 14_159, 29_999]).to_device(device());
    for step in 0..3 {
        vs.freeze();
        let expected = ids.apply(&model.table);
        for _ in 0..2 {
            assert!(same(&model.forward(&ids), &expected), "step {step}");
        }
        vs.unfreeze();
        let loss = ids.apply(&model.table).square().mean(Kind::Float);
        optimizer.backward_step(&loss);
        optimizer.zero_grad();
    }
    assert_eq!(counts(&model.torchcache), (9, 9, 0), "computed once a step");
}

#[torchcache]
#[derive(Debug)]
struct Projected {
    weight: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Projected {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.matmul(&self.weight)
    }
}

/// `Tensor::data` writes past the version counter, as optimisers do.
#[test]
fn an_unseen_write_to_a_row_of_any_layout_is_noticed() {
    let contiguous = random(&[300, 400]);
    let layouts = [
        contiguous.copy(),
        random(&[400, 300]).tr(),
        random(&[300, 500]).narrow(1, 50, 400),
        random(&[600, 400]).slice(0, 0, 600, 2),
    ];
    for weight in layouts {
        let torchcache = TorchCache::default();
        let model = Projected { weight, torchcache };
        let xs = random(&[4, 300]);
        for row in [0, 150, 299] {
            assert!(same(&model.forward(&xs), &xs.matmul(&model.weight)));
            let _ = model.weight.data().narrow(0, row, 1).fill_(2.0);
            assert!(
                same(&model.forward(&xs), &xs.matmul(&model.weight)),
                "row {row} of {:?}",
                model.weight.stride()
            );
        }
        assert_eq!(counts(&model.torchcache), (16, 8, 0));
    }
}

/// Fine-tuned past the cache by so little that no compared element may show it.
#[test]
fn a_weight_is_hashed_again_after_a_training_step() {
    let mut vs = nn::VarStore::new(device());
    let norm = nn::batch_norm1d(vs.root(), 4, Default::default());
    let weight = vs.root().zeros("weight", &[64, 4096]);
    vs.freeze();
    let model = Trained {
        norm,
        weight,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[8, 4]);
    for step in 1..=4 {
        assert!(same(&model.forward_t(&xs, false), &model.plain(&xs, false)));
        model.forward_t(&xs, true);
        let row = model.weight.data().narrow(0, 20, 1);
        let _ = row.narrow(1, 1_000 + step, 1).fill_(step as f64);
        assert!(
            same(&model.forward_t(&xs, false), &model.plain(&xs, false)),
            "step {step}"
        );
    }
}

#[torchcache]
#[derive(Debug)]
struct Trained {
    norm: nn::BatchNorm,
    weight: Tensor,
    torchcache: TorchCache,
}

impl Trained {
    fn plain(&self, xs: &Tensor, _train: bool) -> Tensor {
        xs + self.weight.sum(Kind::Float)
    }
}

#[torchcache]
impl ModuleT for Trained {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        self.plain(xs, train)
    }
}

/// An activation whose name and numbers are given, behind a pointer.
#[derive(Debug)]
struct Affine {
    is_scale: bool,
    number: f64,
}

impl Fingerprint for Affine {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.field(if self.is_scale { "scale" } else { "shift" }, &self.number);
    }
}

#[torchcache]
#[derive(Debug)]
struct Activated {
    affine: Affine,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Activated {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let Affine { is_scale, number } = self.affine;
        if is_scale { xs * number } else { xs + number }
    }
}

#[test]
fn another_name_of_an_equal_value_is_noticed() {
    let affine = |is_scale| Affine {
        is_scale,
        number: 3.0,
    };
    let mut model = Activated {
        affine: affine(true),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 2]);
    assert!(same(&model.forward(&xs), &(&xs * 3)));
    model.affine = affine(false);
    assert!(same(&model.forward(&xs), &(&xs + 3)));
    assert_eq!(counts(&model.torchcache), (4, 0, 0));
}

/// Its weights move on, and another instance gets the old ones: their rows are apart.
#[test]
fn an_instance_with_earlier_weights_of_another_shares_nothing() {
    let model = |weight: &Tensor| Projected {
        weight: weight.shallow_clone(),
        torchcache: TorchCache::default(),
    };
    let (old, new) = (random(&[4, 4]), random(&[4, 4]));
    let (xs, mut first) = (random(&[8, 4]), model(&old));
    first.forward(&xs);
    first.weight = new.shallow_clone();
    first.forward(&xs);
    let second = model(&old);
    assert!(same(&second.forward(&xs), &xs.matmul(&old)));
    second.torchcache.clear();
    assert!(same(&first.forward(&xs), &xs.matmul(&new)));
    assert_eq!(counts(&first.torchcache), (16, 8, 0), "it was not cleared");
}

trait Layer: Fingerprint + std::fmt::Debug + Send {
    fn apply(&self, xs: &Tensor) -> Tensor;
}

#[derive(Debug)]
struct Twice;

#[derive(Debug)]
struct Thrice;

macro_rules! layers {
    ($($layer:ident $factor:expr;)*) => {$(
        impl Layer for $layer {
            fn apply(&self, xs: &Tensor) -> Tensor {
                xs * $factor
            }
        }

        impl Fingerprint for $layer {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.plain(stringify!($layer), &[], self);
            }
        }
    )*};
}

layers! {
    Twice 2;
    Thrice 3;
}

#[torchcache]
#[derive(Debug)]
struct Boxed {
    layer: Box<dyn Layer>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Boxed {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.layer.apply(xs)
    }
}

#[test]
fn another_type_behind_a_pointer_is_noticed() {
    let mut model = Boxed {
        layer: Box::new(Twice),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 2]);
    assert!(same(&model.forward(&xs), &(&xs * 2)));
    model.layer = Box::new(Thrice);
    assert!(same(&model.forward(&xs), &(&xs * 3)));
}

/// Variables under exchanged names: what `forward` finds under a name differs.
#[test]
fn exchanged_names_of_a_var_store_are_noticed() {
    let vs = nn::VarStore::new(device());
    vs.root().var_copy("first", &random(&[3]));
    vs.root().var_copy("second", &random(&[3]));
    let mut vs = vs;
    vs.freeze();
    let variables = vs.variables_.clone();
    let find = move || variables.lock().unwrap().named_variables["first"].shallow_clone();
    let net = nn::func(move |xs| xs * find());
    let net = Cached::new(net, &vs, version("exchanged")).unwrap();
    let xs = random(&[2, 3]);
    let exchange = || {
        let mut variables = vs.variables_.lock().unwrap();
        let named = &mut variables.named_variables;
        let [Some(first), Some(second)] = named.get_disjoint_mut(["first", "second"]) else {
            unreachable!("both were made");
        };
        std::mem::swap(first, second);
    };
    for _ in 0..2 {
        let expected = &xs * &vs.variables()["first"];
        assert!(same(&net.forward(&xs), &expected));
        exchange();
    }
    assert_eq!(net.cache().stats().misses, 4);
}

#[torchcache]
#[derive(Debug)]
struct Convolved {
    conv: nn::Conv2D,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Convolved {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.conv)
    }
}

#[test]
fn another_stride_with_the_same_weights_is_noticed() {
    let mut vs = nn::VarStore::new(device());
    let conv = |name: &str, stride| {
        let config = nn::ConvConfig {
            stride,
            ..Default::default()
        };
        nn::conv2d(vs.root() / name, 2, 4, 3, config)
    };
    let (first, mut second) = (conv("first", 1), conv("second", 2));
    vs.freeze();
    let torchcache = TorchCache::default();
    let mut model = Convolved {
        conv: first,
        torchcache,
    };
    let xs = random(&[2, 2, 9, 9]);
    assert_eq!(model.forward(&xs).size(), [2, 4, 7, 7]);
    second.ws = model.conv.ws.shallow_clone();
    second.bs = model.conv.bs.as_ref().map(Tensor::shallow_clone);
    model.conv = second;
    assert_eq!(model.forward(&xs).size(), [2, 4, 4, 4]);
}

#[torchcache]
struct Wrap<F> {
    #[torchcache(skip)]
    function: F,
    cache: TorchCache,
}

#[torchcache]
impl<F: Fn(&Tensor) -> Tensor> Wrap<F> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        (self.function)(xs)
    }
}

fn wrap<F: Fn(&Tensor) -> Tensor>(function: F) -> Wrap<F> {
    let cache = TorchCache::default();
    Wrap { function, cache }
}

#[test]
fn closures_of_one_function_do_not_share() {
    let two = wrap(|xs: &Tensor| xs * 2);
    let three = wrap(|xs: &Tensor| xs * 3);
    let xs = random(&[2, 2]);
    for _ in 0..2 {
        assert!(same(&two.forward(&xs), &(&xs * 2)));
        assert!(same(&three.forward(&xs), &(&xs * 3)));
    }
    assert_eq!(
        (counts(&two.cache), counts(&three.cache)),
        ((2, 2, 0), (2, 2, 0))
    );
}

/// Two weights, which may be one tensor.
#[torchcache]
#[derive(Debug)]
struct Tied {
    input: Tensor,
    output: Tensor,
    torchcache: TorchCache,
}

impl Tied {
    fn compute(&self, xs: &Tensor) -> Tensor {
        xs.matmul(&self.input).matmul(&self.output.tr())
    }
}

#[torchcache]
impl Module for Tied {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.compute(xs)
    }
}

#[test]
fn weights_that_share_memory_are_watched_each() {
    for width in [4, 300] {
        let weight = random(&[width, width]);
        let mut model = Tied {
            input: weight.shallow_clone(),
            output: weight.shallow_clone(),
            torchcache: TorchCache::default(),
        };
        let xs = random(&[3, width]);
        type Step = fn(&mut Tied);
        let steps: [(&str, Step); 7] = [
            ("tied", |_| {}),
            ("tied and scaled", |model| {
                let _ = model.input.g_mul_scalar_(2.0);
            }),
            ("untied", |model| model.output = model.input.copy()),
            ("untied and scaled", |model| {
                let _ = model.output.g_mul_scalar_(2.0);
            }),
            ("a view", |model| model.output = model.input.tr()),
            ("written through the view", |model| {
                let _ = model.output.data().narrow(0, 2, 1).fill_(0.25);
            }),
            ("exchanged", |model| {
                std::mem::swap(&mut model.input, &mut model.output);
            }),
        ];
        for (step, run) in steps {
            run(&mut model);
            for _ in 0..2 {
                let expected = model.compute(&xs);
                assert!(same(&model.forward(&xs), &expected), "{width}: {step}");
            }
        }
        let stats = model.torchcache.stats();
        assert_eq!(stats.hits() + stats.misses, 7 * 2 * 3);
        assert!(stats.misses >= 6 * 3, "{stats}");
    }
}
