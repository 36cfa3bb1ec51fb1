//! A hit of a model of the size of BERT-base, next to its forward: frozen, not frozen, and trained.

use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use torchcache::{Cached, Options};

use crate::clock::{best, repeated};
use crate::ours::expect;

/// Calls of a pass.
const CALLS: usize = 20;

/// The length of a sentence.
const TOKENS: i64 = 128;

/// Milliseconds a call of one sentence.
#[derive(Debug)]
pub struct Bert {
    /// Of hits, by the state of the weights.
    pub hits: Vec<(&'static str, f64)>,
    /// Of the forward.
    pub forward: f64,
}

/// The weights, 110 million floats.
#[derive(Debug)]
struct Model {
    words: nn::Embedding,
    positions: nn::Embedding,
    layers: Vec<Layer>,
    pooler: nn::Linear,
}

#[derive(Debug)]
struct Layer {
    /// Of query, key, value and output.
    attention: [nn::Linear; 4],
    attention_norm: nn::LayerNorm,
    up: nn::Linear,
    down: nn::Linear,
    output_norm: nn::LayerNorm,
}

impl Model {
    fn new(vs: &nn::VarStore) -> Self {
        let root = vs.root();
        let linear = |path: nn::Path<'_>, inputs, outputs| {
            nn::linear(path, inputs, outputs, Default::default())
        };
        let layer = |number: i64| {
            let path = &root / number;
            let norm = |name| nn::layer_norm(&path / name, vec![768], Default::default());
            Layer {
                attention: ["query", "key", "value", "output"]
                    .map(|name| linear(&path / name, 768, 768)),
                attention_norm: norm("attention_norm"),
                up: linear(&path / "up", 768, 3072),
                down: linear(&path / "down", 3072, 768),
                output_norm: norm("output_norm"),
            }
        };
        Model {
            words: nn::embedding(&root / "words", 30_522, 768, Default::default()),
            positions: nn::embedding(&root / "positions", 512, 768, Default::default()),
            layers: (0..12).map(layer).collect(),
            pooler: linear(&root / "pooler", 768, 768),
        }
    }
}

impl Module for Model {
    fn forward(&self, ids: &Tensor) -> Tensor {
        let places = Tensor::arange(ids.size()[1], (Kind::Int64, ids.device()));
        let embedded = ids.apply(&self.words) + places.apply(&self.positions);
        let layers = self.layers.iter();
        let encoded = layers.fold(embedded, |xs, layer| layer.forward(&xs));
        encoded.select(1, 0).apply(&self.pooler).tanh()
    }
}

impl Layer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        let [query, key, value, output] = &self.attention;
        let heads = |linear: &nn::Linear| {
            let heads = xs.apply(linear).view([xs.size()[0], -1, 12, 64]);
            heads.transpose(1, 2)
        };
        let scores = heads(query).matmul(&heads(key).transpose(-2, -1)) / 8.0;
        let mixed = scores.softmax(-1, Kind::Float).matmul(&heads(value));
        let mixed = mixed.transpose(1, 2).contiguous().view_as(xs);
        let attended = (xs + mixed.apply(output)).apply(&self.attention_norm);
        let fed = attended.apply(&self.up).gelu("none").apply(&self.down);
        (attended + fed).apply(&self.output_norm)
    }
}

impl Bert {
    /// Measures all calls, best of `passes`.
    pub fn measure(device: Device, passes: usize) -> Self {
        let mut vs = nn::VarStore::new(device);
        let options = Options::builder().version("BERT-base").build();
        let cached = Cached::new(Model::new(&vs), &vs, options.expect("valid options"));
        let cached = cached.expect("one model");
        let ids = Tensor::randint(30_000, [1, TOKENS], (Kind::Int64, device));
        let hits = |name: &'static str| {
            let _guard = tch::no_grad_guard();
            drop(cached.forward(&ids));
            let before = cached.cache().stats().misses;
            let took = best(passes, || repeated(device, CALLS, || cached.forward(&ids)));
            expect(&cached.cache().stats(), |stats| stats.misses == before);
            (name, took)
        };
        let forward = || repeated(device, 1, || cached.module().forward(&ids));
        let forward = tch::no_grad(|| best(passes.div_ceil(6), forward));
        let mut all = vec![hits("not frozen")];
        let mut optimizer = nn::Sgd::default().build(&vs, 1e-3).expect("an optimizer");
        let loss = cached.module().forward(&ids).square().sum(Kind::Float);
        optimizer.backward_step(&loss);
        all.push(hits("trained, with gradients"));
        optimizer.zero_grad();
        all.push(hits("trained, gradients dropped"));
        vs.freeze();
        all.push(hits("frozen"));
        Bert { hits: all, forward }
    }
}
