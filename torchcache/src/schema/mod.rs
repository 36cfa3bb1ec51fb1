//! [`TensorSchema`]: what the bytes of a row mean, in terms of tensors. It is the schema of
//! `torchcache_store::schema` with what only tch knows: kinds, devices, and the way between tensors and
//! bytes (in `packing.rs`).
//!
//! In the tiers a row is one run of bytes: the elements of each output tensor for that row, one
//! after the other. So a batch of rows is one `[rows, row_bytes]` tensor of bytes ("packed"),
//! whatever kinds and shapes it holds, and gathering or storing it is one call.

pub(crate) mod kind;
mod packing;

use std::ops::Deref;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema::{self as stored, OutputDevice, TensorSpec};

pub(crate) use packing::Unpackable;

/// What a row consists of. Its rows fit into memory, and tch knows its devices.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TensorSchema(stored::Schema);

impl Deref for TensorSchema {
    type Target = stored::Schema;

    fn deref(&self) -> &stored::Schema {
        &self.0
    }
}

impl TensorSchema {
    /// The schema of a forward's outputs, which must be strided and have a batch dimension.
    pub(crate) fn from_outputs(
        structure: &str,
        tensors: &[Tensor],
        lengths: Vec<u32>,
        cache_dtype: Option<Kind>,
        module_device: Device,
    ) -> Result<Self, TchError> {
        let element = |kind| kind::element(kind).expect("outputs are strided, so not quantized");
        let spec = |tensor: &Tensor| {
            let output = element(tensor.f_kind()?);
            let device = tensor.device();
            Ok(TensorSpec {
                stored: cache_dtype
                    .filter(|_| output.is_float())
                    .map_or(output, element),
                output,
                device: match device == module_device {
                    true => OutputDevice::Module,
                    false => output_device(device),
                },
                shape: tensor.size()[1..].to_vec(),
            })
        };
        Ok(TensorSchema(stored::Schema {
            structure: structure.to_owned(),
            tensors: tensors.iter().map(spec).collect::<Result<_, TchError>>()?,
            lengths,
        }))
    }

    /// For each tensor the kind in the cache and the one that the forward gave.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (Kind, Kind)> {
        let tensors = self.tensors.iter();
        tensors.map(|spec| {
            (
                kind::from_element(spec.stored),
                kind::from_element(spec.output),
            )
        })
    }

    /// The bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        let bytes = self.0.row_bytes();
        bytes.expect("rows of live tensors and of decoded schemas fit into memory")
    }

    /// Where packed rows are gathered: the device of the first tensor, since all tensors of an
    /// output are on one device in all but rare models.
    pub(crate) fn device(&self, module_device: Device) -> Device {
        let first = self.tensors.first();
        first.map_or(module_device, |spec| device(spec, module_device))
    }

    /// Reads what `encode` wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let schema = stored::Schema::decode(bytes)?;
        let is_known = |spec: &TensorSpec| !matches!(spec.device, OutputDevice::Unknown(_));
        schema
            .tensors
            .iter()
            .all(is_known)
            .then_some(TensorSchema(schema))
    }
}

/// The device of an output that is not on the module's.
fn output_device(device: Device) -> OutputDevice {
    match device {
        Device::Cpu => OutputDevice::Cpu,
        Device::Mps => OutputDevice::Mps,
        Device::Vulkan => OutputDevice::Vulkan,
        Device::Cuda(index) => OutputDevice::Cuda(index as u32),
    }
}

/// Where hits of a tensor are returned. A device that this machine does not have is replaced by the
/// module's.
fn device(spec: &TensorSpec, module_device: Device) -> Device {
    let (device, is_here) = match spec.device {
        OutputDevice::Module | OutputDevice::Unknown(_) => return module_device,
        OutputDevice::Cpu => return Device::Cpu,
        OutputDevice::Mps => (Device::Mps, tch::utils::has_mps()),
        OutputDevice::Vulkan => (Device::Vulkan, tch::utils::has_vulkan()),
        OutputDevice::Cuda(index) => (
            Device::Cuda(index as usize),
            i64::from(index) < tch::Cuda::device_count(),
        ),
    };
    if is_here { device } else { module_device }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_round_trip() {
        let tensors = [
            Tensor::zeros([1, 2, 3], tch::kind::FLOAT_CPU),
            Tensor::zeros([1], tch::kind::INT64_CPU),
        ];
        let half = Some(Kind::BFloat16);
        let schema =
            TensorSchema::from_outputs("[?T]", &tensors, vec![2, 1, 1], half, Device::Cpu).unwrap();
        assert_eq!((schema.row_bytes(), schema.element_bytes()), (20, 1));
        assert_eq!(TensorSchema::decode(&schema.encode()), Some(schema));
    }

    #[test]
    fn a_device_that_is_not_here_is_replaced_by_that_of_the_module() {
        let tensors = [Tensor::zeros([1, 4], tch::kind::FLOAT_CPU)];
        let mut schema =
            TensorSchema::from_outputs("T", &tensors, Vec::new(), None, Device::Cpu).unwrap();
        let mut device_of = |device| {
            schema.0.tensors[0].device = device;
            schema.device(Device::Cuda(7))
        };
        assert_eq!(device_of(OutputDevice::Module), Device::Cuda(7));
        assert_eq!(device_of(OutputDevice::Cpu), Device::Cpu);
        for (device, is_here) in [
            (OutputDevice::Cuda(1000), false),
            (OutputDevice::Mps, tch::utils::has_mps()),
            (OutputDevice::Vulkan, tch::utils::has_vulkan()),
        ] {
            assert_eq!(device_of(device) == Device::Cuda(7), !is_here, "{device:?}");
        }
    }

    #[test]
    fn unknown_devices_are_not_decoded() {
        let tensors = [Tensor::zeros([1, 4], tch::kind::FLOAT_CPU)];
        let schema =
            TensorSchema::from_outputs("T", &tensors, Vec::new(), None, Device::Cpu).unwrap();
        let mut unknown = schema.0.clone();
        unknown.tensors[0].device = OutputDevice::Unknown(9);
        assert_eq!(TensorSchema::decode(&unknown.encode()), None);
    }
}
