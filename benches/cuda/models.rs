//! Hits of whole models in each kind and under autocast, next to their forward.

use tch::Kind;
use tch::nn::{self, ModuleT};
use tch::vision::resnet::resnet50_no_final_layer;
use torchcache::{Cached, Options};
use torchcache_benches::clock::{best, repeated};
use torchcache_benches::ours::expect;

use crate::figure::{Figure, Report};
use crate::setting::Setting;
use crate::vit::Vit;

/// Calls of a pass.
const CALLS: usize = 5;

const KINDS: [(Kind, &str); 3] = [
    (Kind::Float, "fp32"),
    (Kind::BFloat16, "bf16"),
    (Kind::Half, "fp16"),
];

pub(crate) fn measure(setting: Setting, report: &mut Report<'_>) {
    of_each_kind(setting, report, "ResNet-50", resnet50_no_final_layer);
    of_each_kind(setting, report, "ViT-B/16", |path| {
        Vit::base(path, setting.side)
    });
}

fn of_each_kind<M: ModuleT>(
    setting: Setting,
    report: &mut Report<'_>,
    name: &str,
    build: impl Fn(&nn::Path<'_>) -> M,
) {
    for (kind, kind_name) in KINDS {
        let model = format!("{name}, {kind_name}");
        let mut vs = nn::VarStore::new(setting.device);
        let net = build(&vs.root());
        vs.set_kind(kind);
        one(setting, report, &model, (net, vs), false);
    }
    let model = format!("{name}, fp32 under autocast");
    let vs = nn::VarStore::new(setting.device);
    one(setting, report, &model, (build(&vs.root()), vs), true);
}

fn one<M: ModuleT>(
    setting: Setting,
    report: &mut Report<'_>,
    model: &str,
    (net, mut vs): (M, nn::VarStore),
    autocast: bool,
) {
    vs.freeze();
    let options = Options::builder().memory_cache_device(None).version(model);
    let cached = Cached::new(net, &vs, options.build().expect("valid options"));
    let cached = cached.expect("one module");
    let images = setting.images().to_kind(vs.kind());
    let measure = || {
        let first = cached.forward_t(&images, false);
        let forward = || {
            repeated(setting.device, 1, || {
                cached.module().forward_t(&images, false)
            })
        };
        let forward = best(setting.passes.div_ceil(4), forward);
        let hits = || repeated(setting.device, CALLS, || cached.forward_t(&images, false));
        let hit = best(setting.passes, hits);
        let again = cached.forward_t(&images, false);
        assert_eq!(again.kind(), first.kind(), "{model}");
        assert!(again.equal(&first), "{model}: a hit differs");
        (hit, forward)
    };
    let (hit, forward) = match autocast {
        true => tch::autocast(true, measure),
        false => measure(),
    };
    expect(&cached.cache().stats(), |stats| {
        (stats.misses, stats.bypassed) == (setting.batch as u64, 0)
    });
    report.add(
        Figure::milliseconds(format!("hit of {} images, {model}", setting.batch), hit)
            .next_to("its forward", forward),
    );
}
