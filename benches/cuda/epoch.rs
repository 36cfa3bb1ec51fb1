//! The first epoch, in which every row is computed and stored, next to the forward alone. Batches with and
//! without the cache take turns.

use tch::Device;
use tch::nn::{self, ModuleT};
use torchcache::{Cached, Options};
use torchcache_benches::clock::milliseconds;
use torchcache_benches::figures::median;
use torchcache_benches::ours::expect;

use crate::figure::{Figure, Report};
use crate::setting::Setting;

pub(crate) fn measure(setting: Setting, report: &mut Report<'_>) {
    for (tier, device) in [
        ("on the device", None),
        ("in host memory", Some(Device::Cpu)),
    ] {
        let mut vs = nn::VarStore::new(setting.device);
        let net = tch::vision::resnet::resnet50_no_final_layer(&vs.root());
        vs.freeze();
        let options = Options::builder()
            .memory_cache_device(device)
            .version(tier)
            .build();
        let cached = Cached::new(net, &vs, options.expect("valid options"));
        let cached = cached.expect("one module");
        // The first call of each hashes the weights, and has cuDNN choose its kernels.
        drop(cached.module().forward_t(&setting.images(), false));
        drop(cached.forward_t(&setting.images(), false));
        let batches = setting.passes + 1;
        let blocks: Vec<[f64; 2]> = (0..batches)
            .map(|_| {
                let images = setting.images();
                let with = || cached.forward_t(&images, false);
                let without = || cached.module().forward_t(&images, false);
                [
                    milliseconds(setting.device, with),
                    milliseconds(setting.device, without),
                ]
            })
            .collect();
        expect(&cached.cache().stats(), |stats| {
            stats.misses == (batches as i64 + 1) as u64 * setting.batch as u64
        });
        let [with, without] = [0, 1].map(|side| {
            let blocks = blocks.iter().map(|block| block[side]);
            median(blocks).expect("there are batches")
        });
        report.add(
            Figure::milliseconds(
                format!(
                    "batch of {} images that is computed, ResNet-50, rows {tier}",
                    setting.batch
                ),
                with,
            )
            .next_to("its forward", without)
            .at_most_times(1.03),
        );
    }
}
