//! [`TensorSchema`]: what the bytes of a row mean, in terms of tensors. It is the schema of
//! `torchcache_store::schema` with what only tch knows: kinds, devices, and the way between tensors and
//! bytes (in `packing.rs`).
//!
//! In the tiers a row is one run of bytes: the elements of each output tensor for that row, one
//! after the other. So a batch of rows is one `[rows, row_bytes]` tensor of bytes ("packed"),
//! whatever kinds and shapes it holds, and gathering or storing it is one call.

mod devices;
pub(crate) mod kind;
mod packing;

use std::ops::Deref;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema::{self as stored, OutputDevice, TensorSpec};

pub(crate) use devices::CallDevices;
use devices::fixed;
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
        devices: &CallDevices,
    ) -> Result<Self, TchError> {
        let element = |kind| kind::element(kind).expect("outputs are strided, so not quantized");
        let spec = |tensor: &Tensor| {
            let output = element(tensor.f_kind()?);
            let as_computed = TensorSpec {
                stored: output,
                output,
                device: devices.record(tensor.device()),
                shape: tensor.size()[1..].to_vec(),
            };
            let Some(stored) = cache_dtype.filter(|_| output.is_float()).map(element) else {
                return Ok(as_computed);
            };
            let spec = TensorSpec {
                stored,
                ..as_computed.clone()
            };
            // With its scale, a row of few elements may be no smaller than as it was computed.
            match stored.scale_bytes() > 0 && spec.bytes() >= as_computed.bytes() {
                true => Ok(as_computed),
                false => Ok(spec),
            }
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
    pub(crate) fn device(&self, devices: &CallDevices) -> Device {
        let first = self.tensors.first();
        first.map_or(Device::Cpu, |spec| devices.hit_device(spec))
    }

    /// The same rows, whose tensors are returned on these devices in every call.
    pub(crate) fn on_devices(&self, devices: &[Device]) -> Self {
        let mut schema = self.0.clone();
        for (spec, &device) in schema.tensors.iter_mut().zip(devices) {
            spec.device = fixed(device);
        }
        TensorSchema(schema)
    }

    /// The same rows, whose tensors are all returned on one device.
    pub(crate) fn with_device(mut self, device: OutputDevice) -> Self {
        let tensors = self.0.tensors.iter_mut();
        tensors.for_each(|spec| spec.device = device);
        self
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
            TensorSchema::from_outputs("[?T]", &tensors, vec![2, 1, 1], half, &CallDevices::CPU)
                .unwrap();
        assert_eq!((schema.row_bytes(), schema.element_bytes()), (20, 1));
        assert_eq!(TensorSchema::decode(&schema.encode()), Some(schema));
    }

    #[test]
    fn unknown_devices_are_not_decoded() {
        let tensors = [Tensor::zeros([1, 4], tch::kind::FLOAT_CPU)];
        let schema =
            TensorSchema::from_outputs("T", &tensors, Vec::new(), None, &CallDevices::CPU).unwrap();
        let mut unknown = schema.0.clone();
        unknown.tensors[0].device = OutputDevice::Unknown(9);
        assert_eq!(TensorSchema::decode(&unknown.encode()), None);
    }
}
