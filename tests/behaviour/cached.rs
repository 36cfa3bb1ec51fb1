//! `Cached`: modules that cannot be annotated.

use tch::nn::{Module, ModuleT};
use tch::{CModule, Tensor, nn};
use torchcache::{Cached, Options, Problem};

use crate::support::{device, random, same};

fn resnet() -> (nn::VarStore, Cached<nn::FuncT<'static>>) {
    let mut vs = nn::VarStore::new(device());
    let net = tch::vision::resnet::resnet18_no_final_layer(&vs.root());
    vs.freeze();
    let net = Cached::new(net, &vs, Options::new()).unwrap();
    (vs, net)
}

#[test]
fn a_vision_model_is_cached_and_its_weights_are_watched() {
    let (vs, net) = resnet();
    let xs = random(&[3, 3, 32, 32]);
    let ys = net.forward(&xs);
    assert_eq!(ys.size(), [3, 512]);
    assert!(same(&net.forward_t(&xs, false), &ys));
    assert_eq!(
        (net.cache().stats().memory_hits, net.cache().stats().misses),
        (3, 3)
    );
    let _ = vs.variables()["conv1.weight"]
        .shallow_clone()
        .g_mul_scalar_(2.0);
    assert!(!same(&net.forward(&xs), &ys));
    assert_eq!(net.cache().stats().misses, 6);
    let hits = net.cache().stats().hits();
    net.forward_t(&xs, true);
    assert_eq!(
        (net.cache().stats().hits(), net.cache().stats().bypassed),
        (hits, 1),
        "training"
    );
}

#[test]
fn closures_made_in_different_places_do_not_share() {
    let two = Cached::new(nn::func(|xs| xs * 2), (), Options::new()).unwrap();
    let three = Cached::new(nn::func(|xs| xs * 3), (), Options::new()).unwrap();
    let xs = random(&[2, 2]);
    assert!(same(&two.forward(&xs), &(&xs * 2)));
    assert!(same(&three.forward(&xs), &(&xs * 3)));
    assert_ne!(two.cache().module_hash(), three.cache().module_hash());
}

#[test]
fn eval_makes_it_a_module_to_apply_and_add() {
    let mut vs = nn::VarStore::new(device());
    let linear = nn::linear(vs.root(), 3, 2, Default::default());
    vs.freeze();
    let cached = Cached::new(linear, &vs, Options::new()).unwrap().eval();
    let net = nn::seq().add_fn(|xs| xs * 2).add(cached);
    let xs = random(&[4, 3]);
    assert!(same(&xs.apply(&net), &net.forward(&xs)));
}

#[test]
fn a_torchscript_file_stands_for_its_module() {
    let directory = tempfile::tempdir().unwrap();
    let build = |factor: f64, name: &str| {
        let path = directory.path().join(name);
        let mut scale = |inputs: &[Tensor]| vec![&inputs[0] * factor];
        let module = CModule::create_by_tracing("M", "forward", &[random(&[1, 2])], &mut scale);
        module.unwrap().save(&path).unwrap();
        let module = CModule::load_on_device(&path, device()).unwrap();
        Cached::new(module, &path, Options::new().version("1")).unwrap()
    };
    let xs = random(&[2, 2]);
    let (two, three) = (build(2.0, "two.pt"), build(3.0, "three.pt"));
    assert!(same(&two.forward(&xs), &(&xs * 2.0)));
    assert!(same(&three.forward(&xs), &(&xs * 3.0)));
    assert!(same(&two.forward(&xs), &(&xs * 2.0)));
    assert_eq!(two.cache().stats().memory_hits, 2);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let missing = std::path::Path::new("no/such/file.pt");
    let error = Cached::new(nn::func(Tensor::shallow_clone), missing, Options::new()).unwrap_err();
    assert!(matches!(error.problem(), Problem::Weights { .. }));
    assert!(error.to_string().contains("no/such/file.pt"), "{error}");
}
