//! The fixed cost of a call: one row of 64 bytes, served from memory.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options, Weights};

use crate::clock::{best, repeated};
use crate::ours::expect;

/// Calls of a pass.
const CALLS: usize = 100;

/// Milliseconds a call.
#[derive(Debug)]
pub struct Fixed {
    /// By the weights to watch.
    pub calls: Vec<(&'static str, f64)>,
    /// For comparison: one call of libtorch that copies the row.
    pub copy: f64,
}

impl Fixed {
    /// Measures all calls, best of `passes`.
    pub fn measure(device: Device, passes: usize) -> Self {
        let xs = Tensor::rand([1, 16], (Kind::Float, device));
        let hits = |name: &'static str, weights: Weights| {
            let options = Options::builder().version(name).build();
            let double = nn::func(|xs| xs * 2);
            let cache = Cached::new(double, weights, options.expect("valid options"));
            let cache = cache.expect("good options");
            let _guard = tch::no_grad_guard();
            drop(cache.forward(&xs));
            let took = best(passes, || repeated(device, CALLS, || cache.forward(&xs)));
            expect(&cache.cache().stats(), |stats| stats.misses == 1);
            (name, took)
        };
        let mut resnet50 = nn::VarStore::new(device);
        tch::vision::resnet::resnet50(&resnet50.root(), 1000);
        resnet50.freeze();
        let mut bert = bert_base(device);
        let trained = hits("BERT-base in training, without gradients", (&bert).into());
        bert.freeze();
        let calls = vec![
            hits("none", ().into()),
            hits("ResNet-50", (&resnet50).into()),
            hits("BERT-base", (&bert).into()),
            trained,
        ];
        Fixed {
            calls,
            copy: best(passes, || repeated(device, CALLS, || xs.copy())),
        }
    }
}

/// The weights of BERT-base: 110 million floats.
fn bert_base(device: Device) -> nn::VarStore {
    let vs = nn::VarStore::new(device);
    let linear = |path: nn::Path<'_>, inputs: i64, outputs: i64| {
        nn::linear(path, inputs, outputs, Default::default());
    };
    let embeddings = vs.root() / "embeddings";
    for (name, rows) in [("words", 30_522), ("positions", 512), ("types", 2)] {
        nn::embedding(&embeddings / name, rows, 768, Default::default());
    }
    for layer in 0..12 {
        let layer = vs.root() / "layers" / layer;
        for name in ["query", "key", "value", "output"] {
            linear(&layer / name, 768, 768);
        }
        linear(&layer / "up", 768, 3072);
        linear(&layer / "down", 3072, 768);
        for name in ["attention_norm", "output_norm"] {
            nn::layer_norm(&layer / name, vec![768], Default::default());
        }
    }
    linear(vs.root() / "pooler", 768, 768);
    vs
}
