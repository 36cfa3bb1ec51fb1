//! The fixed cost of a call: one row of 64 bytes, served from memory.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options};

use crate::clock::{best, repeated};
use crate::ours::expect;

/// Calls of a pass.
const CALLS: usize = 100;

/// Milliseconds a call.
#[derive(Debug)]
pub struct Fixed {
    /// With no weights to watch.
    pub bare: f64,
    /// With the weights of a ResNet-50 to watch.
    pub resnet50: f64,
    /// For comparison: one call of libtorch that copies the row.
    pub copy: f64,
}

impl Fixed {
    /// Measures all three, best of `passes`.
    pub fn measure(device: Device, passes: usize) -> Self {
        let xs = Tensor::rand([1, 16], (Kind::Float, device));
        let mut vs = nn::VarStore::new(device);
        tch::vision::resnet::resnet50(&vs.root(), 1000);
        vs.freeze();
        let double = || nn::func(|xs| xs * 2);
        let version = |version| {
            Options::builder()
                .version(version)
                .build()
                .expect("valid options")
        };
        let bare = Cached::new(double(), (), version("bare")).expect("good options");
        let watched = Cached::new(double(), &vs, version("watched")).expect("good options");
        let hits = |cache: &Cached<nn::Func<'static>>| {
            drop(cache.forward(&xs));
            let took = best(passes, || repeated(device, CALLS, || cache.forward(&xs)));
            expect(&cache.cache().stats(), |stats| stats.misses == 1);
            took
        };
        Fixed {
            bare: hits(&bare),
            resnet50: hits(&watched),
            copy: best(passes, || repeated(device, CALLS, || xs.copy())),
        }
    }
}
