//! The parts of the benchmark, and how much each measures on which device.

use clap::ValueEnum;
use tch::{Cuda, Device, Kind, Tensor};
use torchcache_benches::clock;

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Part {
    Limits,
    Hashing,
    Hits,
    Epoch,
    Models,
}

/// The device, and how much is measured on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) device: Device,
    /// Images of a batch, and pixels of their sides.
    pub(crate) batch: i64,
    pub(crate) side: i64,
    /// Of which the fastest counts.
    pub(crate) passes: usize,
}

impl Setting {
    /// `Err` is the reason why nothing is measured.
    pub(crate) fn choose(cpu: bool) -> Result<Self, &'static str> {
        match clock::device() {
            Device::Cpu if cpu => Ok(Setting {
                device: Device::Cpu,
                batch: 2,
                side: 64,
                passes: 2,
            }),
            // Named by `TORCHCACHE_TEST_DEVICE`, so that a missing one is an error.
            device @ Device::Cuda(_) => Ok(Setting::on(device)),
            _ if Cuda::is_available() => Ok(Setting::on(Device::Cuda(0))),
            _ => Err("libtorch sees no CUDA device; --cpu tries the benchmark on the CPU"),
        }
    }

    fn on(device: Device) -> Self {
        Setting {
            device,
            batch: 64,
            side: 224,
            passes: 20,
        }
    }

    pub(crate) fn is_gpu(self) -> bool {
        self.device != Device::Cpu
    }

    /// A new batch.
    pub(crate) fn images(self) -> Tensor {
        let shape = [self.batch, 3, self.side, self.side];
        Tensor::rand(shape, (Kind::Float, self.device))
    }
}
