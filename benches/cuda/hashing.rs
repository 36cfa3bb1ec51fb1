//! The key step of a hit: digests of the rows of the input, and keys made of them. Its time is that of the
//! cache's own clock, which stops when the digests are on the host.

use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Options};
use torchcache_benches::ours::expect;

use crate::figure::{Figure, Report, Unit};
use crate::limits::copy_on_device;
use crate::setting::Setting;

/// Calls of a pass.
const CALLS: u32 = 10;

const MIB: i64 = 1 << 20;

pub(crate) fn measure(setting: Setting, report: &mut Report<'_>) {
    let rows = if setting.is_gpu() { 256 } else { 2 };
    let bytes = rows * 4 * MIB;
    let per_second = |milliseconds: f64| bytes as f64 / milliseconds * 1e3;
    let large = key_step(setting, rows, 4 * MIB);
    let copy = copy_on_device(setting, bytes);
    report.add(
        Figure::new(
            format!("keys of {rows} rows of 4 MiB"),
            Unit::BytesPerSecond,
            per_second(large),
        )
        .next_to("copy on the device", per_second(copy))
        .at_least(1.3e12),
    );
    for (rows, row_bytes, bar) in [(64, 602_112, 0.120), (256, 3_072, 0.060)] {
        report.add(
            Figure::milliseconds(
                format!("keys of {rows} rows of {row_bytes} bytes"),
                key_step(setting, rows, row_bytes),
            )
            .next_to(
                "copy on the device",
                copy_on_device(setting, rows * row_bytes),
            )
            .at_most(bar),
        );
    }
}

/// Milliseconds of the key step of a hit.
fn key_step(setting: Setting, rows: i64, row_bytes: i64) -> f64 {
    let options = Options::builder()
        .memory_cache_device(None)
        .version(format!("{rows} x {row_bytes}"))
        .build();
    let first = nn::func(|xs| xs.narrow(1, 0, 4) * 2);
    let cached = Cached::new(first, (), options.expect("valid options")).expect("one module");
    let xs = Tensor::rand([rows, row_bytes / 4], (Kind::Float, setting.device));
    drop(cached.forward(&xs));
    let pass = || {
        let before = cached.cache().stats();
        for _ in 0..CALLS {
            drop(cached.forward(&xs));
        }
        let done = cached.cache().stats().since(&before);
        expect(&done, |done| {
            done.memory.hits == rows as u64 * u64::from(CALLS)
        });
        (done.time.hashing / CALLS).as_secs_f64() * 1e3
    };
    torchcache_benches::clock::best(setting.passes, pass)
}
