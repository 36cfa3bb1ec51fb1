//! What a call costs however little it carries: one row of 64 bytes that is in memory.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options};

use crate::micro::Micro;
use crate::ours::expect;

/// Milliseconds a call.
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
    /// Times it.
    pub fn measure(micro: &mut Micro, device: Device) -> Self {
        let xs = Tensor::rand([1, 16], (Kind::Float, device));
        let mut vs = nn::VarStore::new(device);
        tch::vision::resnet::resnet50(&vs.root(), 1000);
        vs.freeze();
        let double = || nn::func(|xs| xs * 2);
        let version = |version| Options::new().version(version);
        let bare = Cached::new(double(), (), version("bare")).expect("good options");
        let watched = Cached::new(double(), &vs, version("watched")).expect("good options");
        let mut hits = |name, cache: &Cached<nn::Func<'static>>| {
            drop(cache.forward(&xs));
            let took = micro.whole("fixed cost", name, || cache.forward(&xs));
            expect(&cache.cache().stats(), |stats| stats.misses == 1);
            took
        };
        Fixed {
            bare: hits("no weights", &bare),
            resnet50: hits("ResNet-50", &watched),
            copy: micro.whole("fixed cost", "copy by libtorch", || xs.copy()),
        }
    }
}
