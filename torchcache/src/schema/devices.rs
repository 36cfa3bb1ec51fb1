//! [`CallDevices`]: where the tensors of a call are, which says where hits are returned.
//!
//! A forward leaves its output on the device of the weights, on that of an argument, or on a fixed one. The call that
//! computes a row shows which of these it may be, and a schema records all that may be. A later call can use the row
//! if these are on one device there, wherever that is.

use tch::Device;
use torchcache_store::schema::{OutputDevice, Schema, TensorSpec};

/// The device of each tensor of a call, with its bit of [`OutputDevice::Tensors`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallDevices(Vec<(u32, Device)>);

impl CallDevices {
    #[cfg(test)]
    pub(crate) const CPU: CallDevices = CallDevices(Vec::new());

    /// Of the weights, if they are on one device, and of the arguments by their positions.
    pub(crate) fn new(
        weights: Option<Device>,
        arguments: impl Iterator<Item = (usize, Device)>,
    ) -> Self {
        let weights = weights.map(|device| (OutputDevice::WEIGHTS, device));
        let arguments = arguments.map(|(at, device)| (OutputDevice::argument(at), device));
        CallDevices(weights.into_iter().chain(arguments).collect())
    }

    /// What an output on `device` may follow.
    pub(super) fn record(&self, device: Device) -> OutputDevice {
        if self.common_device(u32::MAX) == Some(device) {
            return OutputDevice::Module;
        }
        let bits = self.0.iter().filter(|(_, it)| *it == device);
        match bits.fold(0, |bits, (bit, _)| bits | bit) {
            0 => fixed(device),
            bits => OutputDevice::Tensors(bits),
        }
    }

    /// Where an output is that was recorded so, if this call shows it. A device that this machine does not have is
    /// replaced by that of the call.
    fn find(&self, recorded: OutputDevice) -> Option<Device> {
        let (device, is_here) = match recorded {
            OutputDevice::Tensors(bits) => return self.common_device(bits),
            OutputDevice::Module | OutputDevice::Unknown(_) => return self.common_device(u32::MAX),
            OutputDevice::Cpu => (Device::Cpu, true),
            OutputDevice::Mps => (Device::Mps, tch::utils::has_mps()),
            OutputDevice::Vulkan => (Device::Vulkan, tch::utils::has_vulkan()),
            OutputDevice::Cuda(index) => (
                Device::Cuda(index as usize),
                i64::from(index) < tch::Cuda::device_count(),
            ),
        };
        if is_here {
            Some(device)
        } else {
            self.common_device(u32::MAX)
        }
    }

    /// The device of the tensors with these bits, if they are on one; that of a call without tensors is the CPU.
    fn common_device(&self, bits: u32) -> Option<Device> {
        if self.0.is_empty() {
            return Some(Device::Cpu);
        }
        let devices = self.0.iter().filter(|(bit, _)| bit & bits != 0);
        let mut devices = devices.map(|&(_, device)| device);
        let first = devices.next()?;
        devices.all(|device| device == first).then_some(first)
    }

    /// Whether this call shows where rows of a schema are returned.
    pub(crate) fn shows(&self, schema: &Schema) -> bool {
        let mut specs = schema.tensors.iter();
        specs.all(|spec| self.find(spec.device).is_some())
    }

    /// Where hits of a tensor are returned, if the call shows it.
    pub(super) fn hit_device(&self, spec: &TensorSpec) -> Device {
        let first = || self.0.first().map_or(Device::Cpu, |(_, device)| *device);
        self.find(spec.device).unwrap_or_else(first)
    }
}

/// The device of an output that is not on that of a tensor of the call.
pub(super) fn fixed(device: Device) -> OutputDevice {
    match device {
        Device::Cpu => OutputDevice::Cpu,
        Device::Mps => OutputDevice::Mps,
        Device::Vulkan => OutputDevice::Vulkan,
        Device::Cuda(index) => OutputDevice::Cuda(index as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Device = Device::Cpu;
    const OTHER: Device = Device::Cuda(7);

    fn call(weights: Option<Device>, arguments: &[Device]) -> CallDevices {
        CallDevices::new(weights, arguments.iter().copied().enumerate())
    }

    #[test]
    fn what_is_recorded_shows_where_rows_are_in_other_calls() {
        let uniform = [CPU, OTHER].map(|device| call(Some(device), &[device, device]));
        let mixed = [
            (call(Some(CPU), &[OTHER, CPU]), OTHER),
            (call(Some(OTHER), &[CPU, CPU]), OTHER),
            (call(None, &[OTHER, OTHER, CPU]), OTHER),
            (call(Some(OTHER), &[OTHER, CPU]), CPU),
        ];
        for (recording, device) in mixed {
            let recorded = recording.record(device);
            assert_eq!(recording.find(recorded), Some(device), "{recording:?}");
            for call in &uniform {
                assert_eq!(
                    call.find(recorded),
                    call.common_device(u32::MAX),
                    "{recording:?}"
                );
            }
        }
        for recording in &uniform {
            let recorded = recording.record(recording.0[0].1);
            assert_eq!(recorded, OutputDevice::Module);
            assert_eq!(uniform[0].find(recorded), Some(CPU));
            assert_eq!(uniform[1].find(recorded), Some(OTHER));
            assert_eq!(call(Some(CPU), &[OTHER]).find(recorded), None);
        }
    }

    #[test]
    fn an_output_of_no_tensors_device_is_fixed() {
        let fixed = call(Some(OTHER), &[OTHER]).record(CPU);
        assert_eq!(fixed, OutputDevice::Cpu);
        assert_eq!(call(Some(OTHER), &[CPU]).find(fixed), Some(CPU));
        let none = call(None, &[]);
        assert_eq!(
            (none.record(CPU), none.record(OTHER)),
            (OutputDevice::Module, OutputDevice::Cuda(7))
        );
    }

    #[test]
    fn a_device_that_is_not_here_is_replaced_by_that_of_the_call() {
        for (device, is_here) in [
            (OutputDevice::Cuda(1000), false),
            (OutputDevice::Mps, tch::utils::has_mps()),
            (OutputDevice::Vulkan, tch::utils::has_vulkan()),
        ] {
            let found = call(Some(OTHER), &[]).find(device);
            assert_eq!(found == Some(OTHER), !is_here, "{device:?}");
            let found = call(Some(OTHER), &[CPU]).find(device);
            assert_eq!(found.is_none(), !is_here, "{device:?}");
        }
    }
}
