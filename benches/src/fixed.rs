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
        let calls = vec![
            hits("none", ().into()),
            hits("ResNet-50", (&resnet50).into()),
        ];
        Fixed {
            calls,
            copy: best(passes, || repeated(device, CALLS, || xs.copy())),
        }
    }
}
