//! What the machine can do: copies on the device, to it and from it, and waiting for it.

use tch::{Device, Kind, Tensor};
use torchcache_benches::clock::{best, repeated};

use crate::figure::{Figure, Report, Unit};
use crate::setting::Setting;

/// Calls of a pass.
const CALLS: usize = 10;

pub(crate) fn measure(setting: Setting, report: &mut Report<'_>) {
    let bytes = if setting.is_gpu() { 1 << 30 } else { 1 << 24 };
    let rate = |milliseconds: f64| bytes as f64 / milliseconds * 1e3;
    let mut add = |what: &str, milliseconds| {
        let rate = rate(milliseconds);
        report.add(Figure::new(what, Unit::BytesPerSecond, rate));
    };
    add("copy on the device", copy_on_device(setting, bytes));
    add(
        "pinned copy to the device",
        copy_from_pinned(setting, bytes),
    );
    let source = Tensor::zeros([bytes], (Kind::Uint8, setting.device));
    let mut pinned = pinned(setting, bytes);
    let from = best(setting.passes, || {
        repeated(setting.device, 1, || pinned.copy_(&source))
    });
    add("copy from the device, pinned", from);
    report.add(Figure::milliseconds(
        "8 bytes from the device, which waits for it",
        wait(setting),
    ));
}

/// Milliseconds to copy so many bytes on the device.
pub(crate) fn copy_on_device(setting: Setting, bytes: i64) -> f64 {
    let source = Tensor::zeros([bytes], (Kind::Uint8, setting.device));
    let mut to = source.empty_like();
    best(setting.passes, || {
        repeated(setting.device, CALLS, || to.copy_(&source))
    })
}

/// Milliseconds to copy so many bytes from pinned host memory to the device.
pub(crate) fn copy_from_pinned(setting: Setting, bytes: i64) -> f64 {
    let source = pinned(setting, bytes);
    let mut to = Tensor::zeros([bytes], (Kind::Uint8, setting.device));
    best(setting.passes, || {
        repeated(setting.device, CALLS, || to.copy_(&source))
    })
}

/// Milliseconds of the smallest copy from the device.
pub(crate) fn wait(setting: Setting) -> f64 {
    let source = Tensor::zeros([1], (Kind::Int64, setting.device));
    best(setting.passes, || {
        repeated(setting.device, CALLS, || source.to_device(Device::Cpu))
    })
}

/// Zeros in host memory that the device copies from without help.
fn pinned(setting: Setting, bytes: i64) -> Tensor {
    let host = Tensor::zeros([bytes], (Kind::Uint8, Device::Cpu));
    match setting.is_gpu() {
        true => host.pin_memory(setting.device),
        false => host,
    }
}
