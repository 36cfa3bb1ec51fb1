//! Hits of whole models in each kind and under autocast, next to their forward; in bf16 also next to the Python package
//! and to the device's bandwidth.

use tch::Kind;
use tch::nn::{self, ModuleT};
use tch::vision::resnet::resnet50_no_final_layer;
use torchcache::{Cached, Options};
use torchcache_benches::clock::{best, repeated};
use torchcache_benches::figures::Served;
use torchcache_benches::ours::expect;
use torchcache_benches::peer::{Answers, Peer};

use crate::figure::{Figure, Report};
use crate::limits::copy_on_device;
use crate::setting::Setting;
use crate::vit::Vit;

/// Bytes of an element of bf16.
const ELEMENT: i64 = 2;

/// Calls of a pass.
const CALLS: usize = 5;

const KINDS: [(Kind, &str); 3] = [
    (Kind::Float, "fp32"),
    (Kind::BFloat16, "bf16"),
    (Kind::Half, "fp16"),
];

pub(crate) fn measure(setting: Setting, report: &mut Report<'_>) {
    let mut peer = Peer::start(tch::get_num_threads() as usize, setting.device);
    of_each_kind(
        setting,
        report,
        &mut peer,
        "ResNet-50",
        resnet50_no_final_layer,
    );
    of_each_kind(setting, report, &mut peer, "ViT-B/16", |path| {
        Vit::base(path, setting.side)
    });
}

fn of_each_kind<M: ModuleT>(
    setting: Setting,
    report: &mut Report<'_>,
    peer: &mut Result<Peer, String>,
    name: &str,
    build: impl Fn(&nn::Path<'_>) -> M,
) {
    for (kind, kind_name) in KINDS {
        let model = format!("{name}, {kind_name}");
        let mut vs = nn::VarStore::new(setting.device);
        let net = build(&vs.root());
        vs.set_kind(kind);
        let (hit, columns) = one(setting, report, &model, (net, vs), false);
        if kind == Kind::BFloat16 {
            next_to_others(setting, report, peer, &model, hit, columns);
        }
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
) -> (f64, i64) {
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
        (hit, forward, first.size()[1])
    };
    let (hit, forward, columns) = match autocast {
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
    (hit, columns)
}

/// What a hit has to read and write, and the same hit of the Python package, with rows on the same device.
fn next_to_others(
    setting: Setting,
    report: &mut Report<'_>,
    peer: &mut Result<Peer, String>,
    model: &str,
    hit: f64,
    columns: i64,
) {
    let Setting { batch, side, .. } = setting;
    // The input and the rows are read, and the output is written. A copy does as much of both.
    let bytes = batch * ELEMENT * (3 * side * side + 2 * columns);
    let copy = copy_on_device(setting, bytes / 2);
    let what = format!("reading and writing the bytes of that hit, {model}");
    report.add(Figure::milliseconds(what, copy).next_to("ours", hit));

    let what = format!("the same hit of the Python package, {model}");
    let mut theirs = || {
        let peer = peer.as_mut().map_err(|reason| reason.clone())?;
        let mut answers = Answers::default();
        peer.load_images(batch, side, columns)?;
        peer.memory(setting.passes.div_ceil(4), &mut answers)?;
        let hit = answers.figures.best(Served::MemoryHit);
        hit.ok_or_else(|| "it gives no time of a hit".to_owned())
    };
    match theirs() {
        Ok(theirs) => report.add(Figure::milliseconds(what, theirs).next_to("ours", hit)),
        Err(reason) => {
            report.not_run(&what, &reason);
            *peer = Err(reason);
        }
    }
}
