//! Hits: of a frozen model, of the workload that the Python package is compared on, and of large rows in host
//! memory; and what comparing weights takes of them.

use tch::nn::{self, ModuleT};
use tch::{Kind, Tensor};
use torchcache::{Cached, Options};
use torchcache_benches::clock::{best, pass, repeated};
use torchcache_benches::figures::Served;
use torchcache_benches::limits;
use torchcache_benches::ours::{cached, expect};
use torchcache_benches::peer::{Answers, Peer};
use torchcache_benches::workload::WORKLOADS;

use crate::figure::{Figure, Report, Unit};
use crate::limits::{copy_from_pinned, wait};
use crate::setting::Setting;
use crate::waits;

/// Calls of a pass.
const CALLS: u32 = 10;

pub(crate) fn measure(setting: Setting, report: &mut Report<'_>) {
    resnet(setting, report);
    watching(setting, report);
    vision(setting, report);
    from_host(setting, report);
}

/// A hit of a frozen ResNet-18 with rows on the device.
fn resnet(setting: Setting, report: &mut Report<'_>) {
    let mut vs = nn::VarStore::new(setting.device);
    let net = tch::vision::resnet::resnet18_no_final_layer(&vs.root());
    vs.freeze();
    let options = Options::builder().memory_cache_device(None).build();
    let net = Cached::new(net, &vs, options.expect("valid options")).expect("one module");
    let images = setting.images();
    drop(net.forward_t(&images, false));
    let hit = best(setting.passes, || {
        repeated(setting.device, CALLS as usize, || {
            net.forward_t(&images, false)
        })
    });
    let forward = best(setting.passes.div_ceil(4), || {
        repeated(setting.device, 1, || net.module().forward_t(&images, false))
    });
    report.add(
        Figure::milliseconds(
            format!("hit of a frozen ResNet-18, {} images", setting.batch),
            hit,
        )
        .next_to("its forward", forward),
    );
    let what = "waits for the device in that hit";
    // One wait at least, which shows whether they are counted.
    let is_counted = waits::count(|| _ = images.max().double_value(&[])) > 0;
    match is_counted {
        true => {
            let waits = waits::count(|| drop(net.forward_t(&images, false)));
            report.add(Figure::new(what, Unit::Count, waits as f64).at_most(2.0));
        }
        false => report.not_run(
            what,
            "libtorch calls no CUDA runtime that they are counted in",
        ),
    }
    expect(&net.cache().stats(), |stats| {
        stats.misses == setting.batch as u64
    });
}

/// The time that a hit compares 83 small tensors for.
fn watching(setting: Setting, report: &mut Report<'_>) {
    let vs = nn::VarStore::new(setting.device);
    for number in 0..83 {
        let _ = vs.root().zeros_no_train(&format!("small {number}"), &[512]);
    }
    let options = Options::builder()
        .memory_cache_device(None)
        .version("watching");
    let module = nn::func(|xs| xs * 2);
    let cached = Cached::new(module, &vs, options.build().expect("valid options"));
    let cached = cached.expect("one module");
    let xs = Tensor::rand([1, 16], (Kind::Float, setting.device));
    drop(cached.forward_by_id(&xs, [1i64].as_slice()));
    let watching = best(setting.passes, || {
        let before = cached.cache().stats();
        for _ in 0..CALLS {
            drop(cached.forward_by_id(&xs, [1i64].as_slice()));
        }
        let done = cached.cache().stats().since(&before);
        expect(&done, |done| done.memory.hits == u64::from(CALLS));
        (done.time.watching / CALLS).as_secs_f64() * 1e3
    });
    report.add(
        Figure::milliseconds("comparing 83 small tensors", watching)
            .next_to("8 bytes from the device", wait(setting))
            .at_most(0.060),
    );
}

/// The workload of images, next to the Python package on the same device.
fn vision(setting: Setting, report: &mut Report<'_>) {
    let [vision, ..] = WORKLOADS;
    let batches = if setting.is_gpu() { vision.batches } else { 2 };
    let data = vision.data(batches, setting.device);
    let options = Options::builder().memory_cache_device(None);
    let cached = cached(&vision, "cuda", options);
    let call = |xs: &Tensor| cached.forward(xs);
    pass(&data, call);
    let hit = best(setting.passes, || pass(&data, call));
    expect(&cached.cache().stats(), |stats| {
        stats.misses == (batches as i64 * vision.batch) as u64
    });
    report.add(
        Figure::milliseconds(format!("hit of {}", vision.describe()), hit)
            .next_to(
                "reading the input, writing the output",
                limits::read(&data, setting.passes) + limits::write(&data, setting.passes),
            )
            .at_most(0.5),
    );
    let what = "that hit / the Python package's";
    let python = || {
        let mut peer = Peer::start(tch::get_num_threads() as usize, setting.device)?;
        let mut answers = Answers::default();
        peer.load(vision.name, batches)?;
        peer.memory(setting.passes.div_ceil(4), &mut answers)?;
        let hit = answers.figures.best(Served::MemoryHit);
        hit.ok_or_else(|| "it gives no time of a hit".to_owned())
    };
    match python() {
        Ok(python) => {
            let theirs = Figure::milliseconds("the same hit of the Python package", python);
            report.add(theirs.next_to("ours", hit));
            report.add(Figure::new(what, Unit::Ratio, hit / python).at_most(1.0 / 20.0));
        }
        Err(reason) => report.not_run(what, &reason),
    }
}

/// Large rows from host memory, without hashing.
fn from_host(setting: Setting, report: &mut Report<'_>) {
    let rows = setting.batch;
    let ids: Vec<i64> = (0..rows).collect();
    let device = setting.device;
    let options = Options::builder().version("from the host").build();
    let tokens =
        nn::func(move |xs| xs.unsqueeze(-1) * Tensor::ones([1, 768], (Kind::Float, device)));
    let cached = Cached::new(tokens, (), options.expect("valid options")).expect("one module");
    let xs = Tensor::rand([rows, 197], (Kind::Float, device));
    let first = cached.forward_by_id(&xs, ids.as_slice());
    assert_eq!(first.size(), [rows, 197, 768]);
    let hit = best(setting.passes, || {
        repeated(device, CALLS as usize, || {
            cached.forward_by_id(&xs, ids.as_slice())
        })
    });
    assert!(cached.forward_by_id(&xs, ids.as_slice()).equal(&first));
    expect(&cached.cache().stats(), |stats| stats.misses == rows as u64);
    let bytes = rows * 197 * 768 * 4;
    report.add(
        Figure::milliseconds(
            format!("hit of {rows} rows of 605 kB from host memory, by id"),
            hit,
        )
        .next_to("pinned copy of the rows", copy_from_pinned(setting, bytes))
        .at_most_times(1.5),
    );
}
