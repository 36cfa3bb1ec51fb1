//! Changes that no version counter shows, and handles and closures that could be taken for others.
//! Each of these once returned a wrong tensor.

use tch::nn::{Module, ModuleT, OptimizerConfig};
use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Options, TorchCache, torchcache};

use crate::gradients::Net;
use crate::support::{counts, device, random, same};

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
