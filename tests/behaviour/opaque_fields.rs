//! Fields whose code or weights cannot be read: function pointers, closures, layers with private weights.

use std::fmt::Debug;
use std::sync::Arc;

use tch::nn::{Module, ModuleT, RNN};
use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Fingerprint, Named, Options, TorchCache, torchcache};

use crate::support::{counts, device, random, same};

type Function = fn(&Tensor) -> Tensor;
type Boxed = Box<dyn Fn(&Tensor) -> Tensor + Send>;
type Shared = Arc<Named<dyn Fn(&Tensor) -> Tensor + Send + Sync>>;

trait Activation: Fingerprint + Debug + Send {
    fn activate(&self, xs: &Tensor) -> Tensor;
}

#[torchcache]
#[derive(Debug)]
struct Activated<A> {
    activation: A,
    torchcache: TorchCache,
}

#[torchcache]
impl<A: Activation> Module for Activated<A> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.activation.activate(xs)
    }
}

macro_rules! activations {
    ($($type:ty, |$value:ident, $xs:ident| $result:expr;)*) => {$(
        impl Activation for $type {
            fn activate(&self, $xs: &Tensor) -> Tensor {
                let $value = self;
                $result
            }
        }
    )*};
}

/// A field of a generic type.
#[derive(Debug, Fingerprint)]
struct Holder<F>(Named<F>);

activations! {
    Named<Function>, |f, xs| f(xs);
    Named<Boxed>, |f, xs| f(xs);
    Option<Named<Function>>, |f, xs| match f {
        Some(f) => f(xs),
        None => xs.shallow_clone(),
    };
    [Named<Function>; 2], |both, xs| both[1](&both[0](xs));
    Shared, |f, xs| f(xs);
    Named<nn::Func<'static>>, |f, xs| xs.apply(f);
    Named<nn::FuncT<'static>>, |f, xs| f.forward_t(xs, false);
    Holder<Function>, |f, xs| f.0(xs);
}

/// Two modules share rows if and only if their names are equal, and notice another name.
#[track_caller]
fn assert_told_apart<A: Activation>(make: impl Fn(bool) -> A) {
    let model = |tanh| Activated {
        activation: make(tanh),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[3, 2]);
    let (mut first, second, third) = (model(false), model(true), model(false));
    assert!(same(&first.forward(&xs), &xs.relu()));
    assert!(same(&second.forward(&xs), &xs.tanh()));
    assert!(same(&third.forward(&xs), &xs.relu()));
    assert_eq!(counts(&third.torchcache), (0, 3, 0));
    first.activation = make(true);
    assert!(same(&first.forward(&xs), &xs.tanh()));
    assert_eq!(counts(&first.torchcache), (3, 3, 0));
}

fn name(tanh: bool) -> &'static str {
    if tanh { "tanh" } else { "relu" }
}

fn function(tanh: bool) -> Function {
    if tanh { Tensor::tanh } else { Tensor::relu }
}

#[test]
fn named_functions_are_told_apart_by_their_names() {
    assert_told_apart(|tanh| Named::new(name(tanh), function(tanh)));
    assert_told_apart(|tanh| Some(Named::new(name(tanh), function(tanh))));
    let copy: Function = Tensor::shallow_clone;
    assert_told_apart(|tanh| {
        [
            Named::new("copy", copy),
            Named::new(name(tanh), function(tanh)),
        ]
    });
}

#[test]
fn named_closures_are_told_apart_by_their_names() {
    let closure = |tanh| move |xs: &Tensor| function(tanh)(xs);
    assert_told_apart(|tanh| -> Named<Boxed> { Named::new(name(tanh), Box::new(closure(tanh))) });
    assert_told_apart(|tanh| -> Shared { Arc::new(Named::new(name(tanh), closure(tanh))) });
    assert_told_apart(|tanh| Named::new(name(tanh), nn::func(closure(tanh))));
    let closure_t = |tanh| move |xs: &Tensor, _: bool| function(tanh)(xs);
    assert_told_apart(|tanh| Named::new(name(tanh), nn::func_t(closure_t(tanh))));
    assert_told_apart(|tanh| Holder(Named::new(name(tanh), function(tanh))));
}

#[test]
fn a_named_value_shows_its_name() {
    let named = Named::new(format!("times {}", 2), |xs: &Tensor| xs * 2);
    assert_eq!(format!("{named:?}"), "Named(\"times 2\")");
    assert_eq!(named.name(), "times 2");
    let xs = random(&[2]);
    assert!(same(&named.clone()(&xs), &named.into_inner()(&xs)));
}

#[torchcache]
fn activated(xs: &Tensor, activation: Named<Function>) -> Tensor {
    activation(xs)
}

#[test]
fn a_named_function_is_a_plain_argument() {
    let xs = random(&[2, 3]);
    for _ in 0..2 {
        for tanh in [false, true] {
            let expected = function(tanh)(&xs);
            let ys = activated(&xs, Named::new(name(tanh), function(tanh)));
            assert!(same(&ys, &expected));
        }
    }
    assert_eq!(counts(activated_cache()), (4, 4, 0));
}

/// A layer with private weights in a `Cached` without a cache of its own.
#[torchcache]
#[derive(Debug)]
struct WrappedLstm {
    lstm: Cached<nn::LSTM>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for WrappedLstm {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.lstm.module().seq(xs).0
    }
}

#[test]
fn private_weights_are_known_to_a_wrapper_in_a_field() {
    let mut vs = nn::VarStore::new(device());
    let lstm = nn::lstm(vs.root(), 3, 4, Default::default());
    vs.freeze();
    let options = Options::builder().enabled(false).version("lstm").build();
    let model = WrappedLstm {
        lstm: Cached::new(lstm, &vs, options.unwrap()).unwrap(),
        torchcache: TorchCache::default(),
    };
    let xs = Tensor::randn([2, 5, 3], (Kind::Float, device()));
    for _ in 0..2 {
        assert!(same(&model.forward(&xs), &model.lstm.module().seq(&xs).0));
        assert!(same(&model.forward(&xs), &model.lstm.module().seq(&xs).0));
        for mut variable in vs.variables().into_values() {
            let _ = variable.g_add_scalar_(0.5);
        }
    }
    assert_eq!(counts(&model.torchcache), (4, 4, 0));
}
