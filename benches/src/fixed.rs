//! What a call costs however little it carries: one row of 64 bytes that is in memory.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options};

use crate::clock::{best, milliseconds};
use crate::ours::expect;

/// Microseconds a call.
#[derive(Debug)]
pub struct Fixed {
    /// With no weights to watch.
    pub bare: f64,
    /// With those of a ResNet-50.
    pub resnet50: f64,
    /// What it stands beside: one call of libtorch that makes a copy of that row.
    pub copy: f64,
}

impl Fixed {
    /// Times it, the best of `chunks` chunks of a thousand calls.
    pub fn measure(chunks: usize, device: Device) -> Self {
        let xs = Tensor::rand([1, 16], (Kind::Float, device));
        let mut vs = nn::VarStore::new(device);
        tch::vision::resnet::resnet50(&vs.root(), 1000);
        vs.freeze();
        let double = || nn::func(|xs| xs * 2);
        let version = |version| Options::new().version(version);
        let bare = Cached::new(double(), (), version("bare")).expect("good options");
        let watched = Cached::new(double(), &vs, version("watched")).expect("good options");
        let hits = |cache: &Cached<nn::Func<'static>>| {
            drop(cache.forward(&xs));
            let microseconds = microseconds(chunks, device, || cache.forward(&xs));
            expect(&cache.cache().stats(), |stats| stats.misses == 1);
            microseconds
        };
        Fixed {
            bare: hits(&bare),
            resnet50: hits(&watched),
            copy: microseconds(chunks, device, || xs.copy()),
        }
    }
}

fn microseconds(chunks: usize, device: Device, call: impl Fn() -> Tensor) -> f64 {
    const CALLS: usize = 1000;
    let chunk = || (0..CALLS).for_each(|_| drop(std::hint::black_box(call())));
    best(chunks, || milliseconds(device, chunk)) / CALLS as f64 * 1e3
}
