//! Functions that take a model: its weights are compared at each call, and hashed where they changed.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tch::nn::{self, OptimizerConfig};
use tch::{Kind, Tensor};
use torchcache::__private::hashed_modules;
use torchcache::{Argument, Fingerprint, Fingerprinter, PlainArgument, TorchCache, torchcache};

use crate::support::{counts, device, logged, random, same};

const WIDTH: i64 = 256;

/// A model that counts how often its weights are hashed.
#[derive(Debug)]
struct Model {
    ws: Tensor,
    hashed: AtomicUsize,
}

impl Model {
    fn new() -> Self {
        Model::of(random(&[WIDTH, WIDTH]))
    }

    fn of(ws: Tensor) -> Self {
        let hashed = AtomicUsize::new(0);
        Model { ws, hashed }
    }

    fn expected(&self, xs: &Tensor) -> Tensor {
        xs.matmul(&self.ws)
    }

    /// How often it was hashed since the last call of this.
    fn take_hashed(&self) -> usize {
        self.hashed.swap(0, SeqCst)
    }
}

impl Fingerprint for Model {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        let before = hashed_modules(f);
        f.field("ws", &self.ws);
        let hashed = hashed_modules(f) - before;
        self.hashed.fetch_add(hashed, SeqCst);
    }
}

impl PlainArgument for &Model {}

/// One function of this kind for each test, with a cache of its own.
macro_rules! encoders {
    ($($name:ident)*) => {$(
        #[torchcache]
        fn $name(model: &Model, xs: &Tensor) -> Tensor {
            model.expected(xs)
        }
    )*};
}

encoders! { encode alternating edited replaced_by_others with_gradients refreshed }

#[test]
fn weights_of_an_argument_are_hashed_once() {
    let (model, xs) = (Model::new(), random(&[4, WIDTH]));
    for _ in 0..5 {
        assert!(same(&encode(&model, &xs), &model.expected(&xs)));
    }
    assert_eq!(model.take_hashed(), 1);
    assert_eq!(counts(encode_cache()), (4, 16, 0));
    // A model of equal weights has the same rows.
    let copy = Model::of(model.ws.copy());
    encode(&copy, &xs);
    assert_eq!(copy.take_hashed(), 1);
    assert_eq!(counts(encode_cache()), (4, 20, 0));
}

#[test]
fn models_that_alternate_are_each_hashed_once() {
    let models = [(); 4].map(|()| Model::new());
    let xs = random(&[2, WIDTH]);
    for _ in 0..3 {
        for model in &models {
            assert!(same(&alternating(model, &xs), &model.expected(&xs)));
        }
    }
    assert_eq!(models.each_ref().map(Model::take_hashed), [1; 4]);
    assert_eq!(counts(alternating_cache()), (8, 16, 0));
    // The weights of four stay alive: a fifth one takes the place of the one used longest ago.
    alternating(&models[0], &xs);
    let fifth = Model::new();
    assert!(same(&alternating(&fifth, &xs), &fifth.expected(&xs)));
    for model in [&models[0], &models[2], &models[3], &models[1]] {
        assert!(same(&alternating(model, &xs), &model.expected(&xs)));
    }
    let hashed = models.each_ref().map(Model::take_hashed);
    assert_eq!((hashed, fifth.take_hashed()), ([0, 1, 0, 0], 1));
}

#[test]
fn each_change_of_the_weights_is_noticed() {
    let (model, xs) = (Model::new(), random(&[2, WIDTH]));
    let changes: [&dyn Fn(); 4] = [
        &|| (),
        &|| {
            let _ = model.ws.shallow_clone().g_add_scalar_(1.0);
        },
        // Without another version.
        &|| {
            let _ = model.ws.data().get(7).fill_(0.5);
        },
        &|| model.ws.shallow_clone().set_data(&random(&[WIDTH, WIDTH])),
    ];
    for (count, change) in (1..).zip(changes) {
        change();
        for _ in 0..2 {
            assert!(same(&edited(&model, &xs), &model.expected(&xs)));
        }
        assert_eq!(model.take_hashed(), 1, "change {count}");
        assert_eq!(counts(edited_cache()), (2 * count, 2 * count, 0));
    }
}

#[test]
fn a_model_in_the_memory_of_another_is_noticed() {
    let xs = random(&[2, WIDTH]);
    for count in 1..6 {
        let model = Model::of(Tensor::full(
            [WIDTH, WIDTH],
            count as f64,
            (Kind::Float, device()),
        ));
        // So few elements differ that sampled ones may be equal.
        let _ = model.ws.narrow(0, 100, 1).narrow(1, 33, 1).fill_(0.5);
        let one = Model::of(model.ws.copy());
        let _ = one.ws.narrow(0, 100, 1).narrow(1, 33, 1).fill_(0.25);
        drop(model);
        assert!(same(&replaced_by_others(&one, &xs), &one.expected(&xs)));
        drop(one);
        let other = Model::of(Tensor::full(
            [WIDTH, WIDTH],
            count as f64,
            (Kind::Float, device()),
        ));
        assert!(same(&replaced_by_others(&other, &xs), &other.expected(&xs)));
        assert_eq!(counts(replaced_by_others_cache()).0, 4 * count);
    }
}

#[test]
fn weights_that_are_trained_meanwhile_are_hashed_again() {
    let vs = nn::VarStore::new(device());
    let variables = vs.root();
    let ws = variables.randn_standard("ws", &[WIDTH, WIDTH]);
    let (model, xs) = (Model::of(ws), random(&[2, WIDTH]));
    let call = || tch::no_grad(|| with_gradients(&model, &xs));
    let mut sgd = nn::Sgd::default().build(&vs, 1e-3).unwrap();
    for count in 1..4 {
        for _ in 0..2 {
            assert!(same(&call(), &tch::no_grad(|| model.expected(&xs))));
        }
        assert_eq!(
            (model.take_hashed(), counts(with_gradients_cache()).0),
            (1, 2 * count)
        );
        let (loss, lines) = logged(|| with_gradients(&model, &xs).sum(Kind::Float));
        assert!(loss.requires_grad());
        let warned = lines
            .iter()
            .any(|line| line.contains("`model` requires grad"));
        assert_eq!(warned, count == 1, "{lines:?}");
        sgd.backward_step(&loss);
        model.take_hashed();
    }
}

#[test]
fn a_refresh_hashes_the_weights_again() {
    let (model, xs) = (Model::new(), random(&[2, WIDTH]));
    refreshed(&model, &xs);
    refreshed_cache().refresh();
    refreshed(&model, &xs);
    assert_eq!(
        (model.take_hashed(), counts(refreshed_cache())),
        (2, (2, 2, 0))
    );
}

#[torchcache]
fn trained(model: &Model, xs: &Tensor, train: bool) -> Tensor {
    if train {
        // Through memory that no tensor shows.
        let mut bytes = vec![0.5f32; (WIDTH * WIDTH) as usize];
        bytes[0] = model.ws.double_value(&[0, 0]) as f32 + 1.0;
        model
            .ws
            .data()
            .copy_(&Tensor::from_slice(&bytes).view([WIDTH, WIDTH]));
    }
    model.expected(xs)
}

#[test]
fn a_call_in_training_hashes_the_weights_again() {
    let (model, xs) = (Model::new(), random(&[2, WIDTH]));
    for count in 1..4 {
        for _ in 0..2 {
            assert!(same(&trained(&model, &xs, false), &model.expected(&xs)));
        }
        assert_eq!(
            (model.take_hashed(), counts(trained_cache()).0),
            (1, 2 * count)
        );
        trained(&model, &xs, true);
        model.take_hashed();
    }
}

#[torchcache]
fn counting(model: &Model, xs: &Tensor) -> Tensor {
    let ys = model.expected(xs);
    let _ = model.ws.shallow_clone().g_add_scalar_(1.0);
    ys
}

#[test]
fn rows_of_a_forward_that_changes_its_argument_are_not_kept() {
    for model in [Model::new(), Model::of(random(&[WIDTH, 2]))] {
        let xs = random(&[2, WIDTH]);
        let (_, lines) = logged(|| {
            for _ in 0..3 {
                let expected = model.expected(&xs);
                assert!(same(&counting(&model, &xs), &expected));
            }
        });
        let text = "argument `model` changed while the forward ran";
        let warned = lines.iter().filter(|line| line.contains(text)).count();
        assert!(warned <= 1, "{lines:?}");
    }
    let stats = counting_cache().stats();
    assert_eq!((stats.bypassed, stats.misses, stats.hits()), (6, 12, 0));
}

/// Weights that threads may share.
#[derive(Debug)]
struct Weights {
    vs: nn::VarStore,
    hashed: AtomicUsize,
}

impl Weights {
    fn expected(&self, xs: &Tensor) -> Tensor {
        xs.matmul(&self.vs.variables()["ws"])
    }
}

impl Fingerprint for Weights {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        let before = hashed_modules(f);
        f.field("vs", &self.vs);
        self.hashed.fetch_add(hashed_modules(f) - before, SeqCst);
    }
}

impl PlainArgument for &Weights {}

#[torchcache]
fn in_threads(weights: &Weights, xs: &Tensor) -> Tensor {
    weights.expected(xs)
}

#[test]
fn threads_that_have_one_model_hash_it_once() {
    const THREADS: usize = 8;
    let mut vs = nn::VarStore::new(device());
    vs.root().randn_standard("ws", &[2048, WIDTH]);
    vs.freeze();
    let weights = &Weights {
        vs,
        hashed: AtomicUsize::new(0),
    };
    let barrier = &Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(move || {
                let xs = random(&[1, 2048]);
                let expected = weights.expected(&xs);
                barrier.wait();
                assert!(same(&in_threads(weights, &xs), &expected));
            });
        }
    });
    assert_eq!(weights.hashed.load(SeqCst), 1);
}

/// Modules of one type with nothing that is compared but their address.
#[derive(Debug, Fingerprint)]
struct Script {
    module: tch::CModule,
    table: Tensor,
}

impl PlainArgument for &Script {}

#[torchcache]
fn scripted(script: &Script, xs: &Tensor) -> Tensor {
    script.module.forward_ts(&[xs]).unwrap() + script.table.get(0)
}

#[test]
fn loaded_modules_are_hashed_at_each_call() {
    let xs = random(&[3, WIDTH]);
    let table = random(&[WIDTH, WIDTH]);
    // So often that one gets the address of another.
    for factor in 1..=40 {
        let mut module = tch::CModule::create_by_tracing(
            "Factor",
            "forward",
            &[random(&[2, WIDTH])],
            &mut |inputs| vec![&inputs[0] * factor],
        )
        .unwrap();
        module.to(device(), Kind::Float, false);
        let script = Script {
            module,
            table: table.shallow_clone(),
        };
        for _ in 0..2 {
            assert!(same(
                &scripted(&script, &xs),
                &(&xs * factor + table.get(0))
            ));
        }
    }
    assert_eq!(counts(scripted_cache()), (120, 120, 0));
}

/// A generic module and one with a cache, as they are.
#[torchcache]
#[derive(Debug)]
struct Block<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: nn::Module> nn::Module for Block<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.apply(&self.inner) * 2
    }
}

#[torchcache]
fn through_block(
    block: &Block<nn::Linear>,
    xs: &Tensor,
    skipped: Option<&Block<nn::Linear>>,
) -> Tensor {
    let ys = xs.apply(block);
    skipped.map_or(ys.shallow_clone(), |skipped| ys + xs.apply(skipped))
}

#[test]
fn an_annotated_module_is_an_argument_without_more() {
    let mut vs = nn::VarStore::new(device());
    let block = |name| Block {
        inner: nn::linear(vs.root() / name, WIDTH, WIDTH, Default::default()),
        torchcache: TorchCache::default(),
    };
    let [first, second] = ["first", "second"].map(block);
    vs.freeze();
    let xs = random(&[2, WIDTH]);
    let expected = |block: &Block<nn::Linear>| xs.apply(&block.inner) * 2;
    for _ in 0..2 {
        assert!(same(&through_block(&first, &xs, None), &expected(&first)));
        assert!(same(&through_block(&second, &xs, None), &expected(&second)));
        let both = expected(&first) + expected(&second);
        assert!(same(&through_block(&first, &xs, Some(&second)), &both));
    }
    assert_eq!(counts(through_block_cache()), (6, 6, 0));
    let _ = tch::no_grad(|| first.inner.ws.shallow_clone().g_add_scalar_(0.5));
    assert!(same(&through_block(&first, &xs, None), &expected(&first)));
    assert_eq!(counts(through_block_cache()), (8, 6, 0));
}

#[torchcache]
fn through_wrapped(xs: &Tensor, net: &torchcache::Cached<nn::Sequential>) -> Tensor {
    xs.apply(net.module())
}

#[test]
fn wrapped_modules_are_told_apart() {
    let xs = random(&[2, WIDTH]);
    let nets = [1.0, 2.0].map(|factor| {
        let mut vs = nn::VarStore::new(device());
        let linear = nn::linear(vs.root(), WIDTH, WIDTH, Default::default());
        vs.freeze();
        let net = nn::seq().add(linear).add_fn(move |xs| xs * factor);
        torchcache::Cached::new(net, &vs, crate::support::version(&factor.to_string())).unwrap()
    });
    for _ in 0..3 {
        for net in &nets {
            assert!(same(&through_wrapped(&xs, net), &xs.apply(net.module())));
        }
    }
    assert_eq!(counts(through_wrapped_cache()), (4, 8, 0));
}

#[torchcache]
fn restoring(model: &Model, xs: &Tensor) -> Tensor {
    let before = model.ws.copy();
    let _ = model.ws.shallow_clone().g_add_scalar_(1.0);
    let ys = model.expected(xs);
    model.ws.shallow_clone().copy_(&before);
    ys
}

#[test]
fn rows_of_weights_that_were_there_for_a_while_are_not_kept() {
    for ws in [random(&[WIDTH, WIDTH]), random(&[WIDTH, 2])] {
        let (model, xs) = (Model::of(ws), random(&[3, WIDTH]));
        for _ in 0..2 {
            restoring(&model, &xs);
        }
    }
    let stats = restoring_cache().stats();
    assert_eq!(
        (stats.bypassed, stats.stored, stats.hits()),
        (4, 0, 0),
        "{stats}"
    );
}

#[torchcache]
fn opaque(model: &Model, xs: &Tensor) -> Tensor {
    xs.matmul(&model.ws.to_dense(None::<tch::Kind>, false))
}

#[test]
fn weights_without_an_address_are_told_from_others() {
    if device() != tch::Device::Cpu {
        return;
    }
    let models = [(); 2].map(|()| Model::of(random(&[WIDTH, WIDTH]).to_mkldnn()));
    let xs = random(&[3, WIDTH]);
    for _ in 0..2 {
        for model in &models {
            let expected = xs.matmul(&model.ws.to_dense(None::<tch::Kind>, false));
            assert!(same(&opaque(model, &xs), &expected));
        }
    }
    assert_eq!(counts(opaque_cache()), (6, 6, 0));
}

#[torchcache]
fn distilled(teacher: &Model, student: &Model, xs: &Tensor) -> Tensor {
    teacher.expected(xs) - student.expected(xs)
}

#[test]
fn a_model_in_training_leaves_what_is_known_of_another() {
    let vs = nn::VarStore::new(device());
    let student = Model::of(vs.root().randn_standard("ws", &[WIDTH, WIDTH]));
    let (teacher, xs) = (Model::new(), random(&[2, WIDTH]));
    tch::no_grad(|| distilled(&teacher, &student, &xs));
    assert_eq!([&teacher, &student].map(Model::take_hashed), [1, 1]);
    for _ in 0..3 {
        assert!(distilled(&teacher, &student, &xs).requires_grad());
    }
    assert_eq!([&teacher, &student].map(Model::take_hashed), [0, 0]);
    tch::no_grad(|| distilled(&teacher, &student, &xs));
    assert_eq!([&teacher, &student].map(Model::take_hashed), [0, 1]);
}

#[torchcache]
fn flagged(model: &Model, xs: &Tensor, train: bool) -> Tensor {
    model.expected(xs) * if train { 2.0 } else { 1.0 }
}

#[test]
fn a_call_in_training_reads_no_weights() {
    let (model, xs) = (Model::new(), random(&[2, WIDTH]));
    for _ in 0..3 {
        flagged(&model, &xs, true);
    }
    assert_eq!(model.take_hashed(), 0);
}

/// A cached module that a function calls: its code is in the keys with its weights.
#[torchcache(enabled = false)]
#[derive(Debug, Clone)]
struct Doubler {
    factor: f64,
    torchcache: TorchCache,
}

#[torchcache]
impl Doubler {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.factor
    }

    #[torchcache]
    fn decode(&self, xs: &Tensor) -> Tensor {
        xs * self.factor + 1
    }
}

#[torchcache(persistent = true)]
fn calling(module: &Doubler, xs: &Tensor) -> Tensor {
    module.decode(xs) + module.forward(xs)
}

#[test]
fn the_first_call_of_a_function_over_a_cached_module_finds_its_rows() {
    let module = Doubler {
        factor: 2.0,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[3, 7]);
    for _ in 0..2 {
        assert!(same(
            &calling(&module.clone(), &xs),
            &(&xs * 2.0 + 1 + &xs * 2.0)
        ));
    }
    assert_eq!(counts(calling_cache()), (3, 3, 0));
}

/// More models than are kept of a place.
#[derive(Argument)]
struct Layers<'a> {
    xs: &'a Tensor,
    #[argument(plain)]
    first: &'a Model,
    #[argument(plain)]
    others: [&'a Model; 5],
}

#[torchcache]
fn through_layers(layers: Layers, last: &Model) -> Tensor {
    let others = layers.others.iter();
    let ys = others.fold(layers.first.expected(layers.xs), |ys, model| {
        model.expected(&ys)
    });
    last.expected(&ys)
}

#[test]
fn rows_of_many_models_are_kept() {
    let models = [(); 7].map(|()| Model::new());
    let [first, others @ .., last] = &models;
    let xs = random(&[2, WIDTH]);
    for _ in 0..3 {
        let layers = Layers {
            xs: &xs,
            first,
            others: others.each_ref(),
        };
        through_layers(layers, last);
    }
    let stats = through_layers_cache().stats();
    assert_eq!(
        (stats.bypassed, stats.misses, stats.hits()),
        (0, 2, 4),
        "{stats}"
    );
    assert_eq!(models.each_ref().map(Model::take_hashed), [1; 7]);
}

#[torchcache]
fn of_frozen(model: &Model, xs: &Tensor) -> Tensor {
    model.expected(xs)
}

#[test]
fn a_model_that_was_frozen_is_hashed_again_after_its_training() {
    let mut vs = nn::VarStore::new(device());
    let model = Model::of(vs.root().randn_standard("ws", &[WIDTH, WIDTH]));
    let xs = random(&[2, WIDTH]);
    for _ in 0..2 {
        vs.freeze();
        for _ in 0..2 {
            assert!(same(&of_frozen(&model, &xs), &model.expected(&xs)));
        }
        assert_eq!(model.take_hashed(), 1);
        vs.unfreeze();
        assert!(of_frozen(&model, &xs).requires_grad());
        model.take_hashed();
    }
}
