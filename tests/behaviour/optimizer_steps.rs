//! Steps of optimisers, for which libtorch counts no version, on few elements of large weights: without
//! biases or other small weights, which are compared in full.

use tch::nn::{self, Module, Optimizer, OptimizerConfig, VarStore};
use tch::{Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{counts, device, random, same};
use crate::weight_changes::Embedded;

/// What happens between a step and the next call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    /// The gradients stay.
    Nothing,
    /// They are dropped.
    ZeroGrad,
    /// The weights are frozen, and the gradients stay.
    Freeze,
    /// The weights are frozen without gradients.
    FreezeWithoutGradients,
}

const AFTER: [After; 4] = [
    After::Nothing,
    After::ZeroGrad,
    After::Freeze,
    After::FreezeWithoutGradients,
];

impl After {
    fn apply(self, vs: &mut VarStore, optimizer: &mut Optimizer) {
        if matches!(self, After::ZeroGrad | After::FreezeWithoutGradients) {
            optimizer.zero_grad();
        }
        if matches!(self, After::Freeze | After::FreezeWithoutGradients) {
            vs.freeze();
        }
    }
}

/// `x` times a weight alone.
#[torchcache]
#[derive(Debug)]
struct Projection {
    weight: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Projection {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, None::<&Tensor>)
    }
}

impl Projection {
    fn new(vs: &VarStore, outputs: i64, inputs: i64) -> Self {
        Projection {
            weight: vs.root().randn_standard("weight", &[outputs, inputs]),
            torchcache: TorchCache::default(),
        }
    }
}

/// Each step changes what `loss` depends on alone; `loss` gets the number of the step.
#[track_caller]
fn assert_noticed(shape: [i64; 2], after: After, loss: impl Fn(&Tensor, i64) -> Tensor) {
    let mut vs = VarStore::new(device());
    let model = Projection::new(&vs, shape[0], shape[1]);
    let mut optimizer = nn::Sgd::default().build(&vs, 0.5).unwrap();
    let xs = random(&[4, shape[1]]);
    const STEPS: i64 = 6;
    for step in 0..STEPS {
        tch::no_grad(|| {
            let expected = xs.linear(&model.weight, None::<&Tensor>);
            for _ in 0..2 {
                let given = model.forward(&xs);
                assert!(same(&given, &expected), "{shape:?}, {after:?}, step {step}");
            }
        });
        vs.unfreeze();
        optimizer.backward_step(&loss(&model.weight, step));
        after.apply(&mut vs, &mut optimizer);
    }
    let rows = 4 * STEPS as u64;
    assert_eq!(
        counts(&model.torchcache),
        (rows, rows, 0),
        "{shape:?}, {after:?}"
    );
}

/// The input of each step is zero but for one element, as of a bag of words.
#[test]
fn a_step_on_one_column_of_a_weight_is_noticed() {
    for shape in [[64, 30_000], [300, 300], [8, 40_000]] {
        for after in AFTER {
            assert_noticed(shape, after, |weight, step| {
                let column = (step * 7_919 + 1) % shape[1];
                weight.select(1, column).square().sum(Kind::Float)
            });
        }
    }
}

/// As after an activation that leaves half of the units at zero.
#[test]
fn a_step_on_half_of_a_row_is_noticed() {
    for shape in [[64, 30_000], [300, 300], [30_000, 64]] {
        for after in AFTER {
            let used = Tensor::arange(shape[1], (Kind::Float, device())).remainder(2.0);
            assert_noticed(shape, after, |weight, step| {
                let row = weight.select(0, (step * 7_919 + 1) % shape[0]);
                (row * &used).square().sum(Kind::Float)
            });
        }
    }
}

/// Without gradients, only a sample is compared, and one element may not be in it.
#[test]
fn a_step_on_one_element_with_a_gradient_is_noticed() {
    for after in [After::Nothing, After::Freeze] {
        assert_noticed([300, 300], after, |weight, step| {
            let row = weight.select(0, (step * 7 + 1) % 300);
            row.select(0, (step * 11 + 5) % 300) * 3.0
        });
    }
}

/// Gradients stay as they are: of the loss, and of the steps that follow.
#[test]
fn further_steps_with_the_same_gradient_are_noticed() {
    let mut vs = VarStore::new(device());
    let model = Projection::new(&vs, 300, 400);
    let mut optimizer = nn::Sgd::default().build(&vs, 0.5).unwrap();
    let element = model.weight.select(0, 123).select(0, 321);
    (element * 2.0).backward();
    let xs = random(&[4, 400]);
    for step in 0..5 {
        if step == 3 {
            vs.freeze();
        }
        let _guard = tch::no_grad_guard();
        let expected = xs.linear(&model.weight, None::<&Tensor>);
        for _ in 0..2 {
            assert!(same(&model.forward(&xs), &expected), "step {step}");
        }
        optimizer.step();
    }
    assert_eq!(counts(&model.torchcache), (20, 20, 0));
}

/// What an optimiser keeps of earlier gradients moves weights where the present gradient does not: it is
/// elsewhere and too small, or zero.
#[test]
fn a_step_by_earlier_gradients_alone_is_noticed() {
    let nesterov: Build = |vs| nn::sgd(0.9, 0.0, 0.0, true).build(vs, 0.5).unwrap();
    for (name, build) in [OPTIMIZERS[1], OPTIMIZERS[2], ("Nesterov", nesterov)] {
        for is_zero in [false, true] {
            let vs = VarStore::new(device());
            let model = Projection::new(&vs, 300, 400);
            let mut optimizer = build(&vs);
            let column = |number| model.weight.select(1, number).sum(Kind::Float);
            optimizer.backward_step(&column(321));
            optimizer.zero_grad();
            column(5).backward();
            let factor = if is_zero { 0.0 } else { 1e-30 };
            let _ = model.weight.grad().g_mul_scalar_(factor);
            let xs = random(&[4, 400]);
            for step in 0..3 {
                let before = model.weight.copy();
                let _guard = tch::no_grad_guard();
                let expected = xs.linear(&model.weight, None::<&Tensor>);
                for _ in 0..2 {
                    let given = model.forward(&xs);
                    assert!(same(&given, &expected), "{name}, {is_zero}, step {step}");
                }
                optimizer.step();
                let moved = model.weight.ne_tensor(&before).any_dim(0, false);
                assert!(bool::try_from(moved.get(321)).unwrap(), "{name}");
                let moved = i64::try_from(moved.sum(Kind::Int64)).unwrap();
                assert_eq!(moved, 1, "{name}: one column");
            }
            assert_eq!(counts(&model.torchcache), (12, 12, 0), "{name}, {is_zero}");
        }
    }
}

type Build = fn(&VarStore) -> Optimizer;

const OPTIMIZERS: [(&str, Build); 5] = [
    ("SGD", |vs| nn::Sgd::default().build(vs, 0.5).unwrap()),
    ("momentum", |vs| {
        nn::sgd(0.9, 0.0, 0.0, false).build(vs, 0.5).unwrap()
    }),
    ("Adam", |vs| nn::Adam::default().build(vs, 0.01).unwrap()),
    ("AdamW", |vs| nn::AdamW::default().build(vs, 0.01).unwrap()),
    ("RMSprop", |vs| {
        nn::RmsProp::default().build(vs, 0.01).unwrap()
    }),
];

/// A table of embeddings and nothing else, of which each step changes the rows of two ids.
#[test]
fn a_step_of_any_optimizer_on_a_pure_embedding_is_noticed() {
    for (name, build) in OPTIMIZERS {
        for after in AFTER {
            let mut vs = VarStore::new(device());
            let model = Embedded {
                table: nn::embedding(vs.root(), 20_000, 48, Default::default()),
                torchcache: TorchCache::default(),
            };
            let mut optimizer = build(&vs);
            let ids = Tensor::from_slice(&[0i64, 9_999, 19_999]).to_device(device());
            for step in 0..3 {
                tch::no_grad(|| {
                    let expected = ids.apply(&model.table);
                    for _ in 0..2 {
                        let given = model.forward(&ids);
                        assert!(same(&given, &expected), "{name}, {after:?}, step {step}");
                    }
                });
                vs.unfreeze();
                let trained = ids.narrow(0, step % 2, 2).apply(&model.table);
                optimizer.backward_step(&trained.square().mean(Kind::Float));
                after.apply(&mut vs, &mut optimizer);
            }
            assert_eq!(counts(&model.torchcache), (9, 9, 0), "{name}, {after:?}");
        }
    }
}

/// A vector of weights, as of a logistic regression over sparse features.
#[torchcache]
#[derive(Debug)]
struct Weighed {
    weight: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Weighed {
    fn forward(&self, xs: &Tensor) -> Tensor {
        (xs * &self.weight).sum_dim_intlist(1, false, Kind::Float)
    }
}

#[test]
fn a_step_on_one_element_of_a_vector_is_noticed() {
    for after in AFTER {
        let mut vs = VarStore::new(device());
        let model = Weighed {
            weight: vs.root().randn_standard("weight", &[100_000]),
            torchcache: TorchCache::default(),
        };
        let mut optimizer = nn::Sgd::default().build(&vs, 0.5).unwrap();
        let xs = random(&[2, 100_000]);
        for step in 0..4 {
            tch::no_grad(|| {
                let expected = (&xs * &model.weight).sum_dim_intlist(1, false, Kind::Float);
                for _ in 0..2 {
                    assert!(
                        same(&model.forward(&xs), &expected),
                        "{after:?}, step {step}"
                    );
                }
            });
            vs.unfreeze();
            optimizer.backward_step(&(model.weight.select(0, 77_777) * 5.0));
            after.apply(&mut vs, &mut optimizer);
        }
        assert_eq!(counts(&model.torchcache), (8, 8, 0), "{after:?}");
    }
}
