//! One tensor of an output: its element kinds, its device and the shape of a row.

use std::fmt;

use super::kind::ElementKind;

/// The most dimensions of a row.
pub(super) const MAX_DIMENSIONS: usize = 64;

/// One tensor of an output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    /// The element kind that rows are stored in.
    pub stored: ElementKind,
    /// The element kind that the module computed, and that hits are returned in.
    pub output: ElementKind,
    /// Where hits are returned.
    pub device: OutputDevice,
    /// The shape of a row, without the batch dimension.
    pub shape: Vec<i64>,
}

/// The device of an output. Where it can be, it is given in terms of the call's tensors, so that a cache
/// filled on a GPU serves a run without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputDevice {
    /// That of the call: of the weights and of every tensor argument. A call without any is on the CPU.
    Module,
    /// That of some of them, since others were elsewhere, each with its bit: [`WEIGHTS`](Self::WEIGHTS) or
    /// [`argument`](Self::argument).
    Tensors(u32),
    /// The CPU.
    Cpu,
    /// Apple's Metal Performance Shaders.
    Mps,
    /// Vulkan.
    Vulkan,
    /// The CUDA device of this index.
    Cuda(u32),
    /// A device that this version does not know, by its code.
    Unknown(u32),
}

impl OutputDevice {
    /// The code of CUDA device 0.
    const CUDA: u32 = 16;

    /// The bit of codes that have those of tensors.
    const TENSORS: u32 = 1 << 31;

    /// The bit of the weights.
    pub const WEIGHTS: u32 = 1;

    /// The bit of the tensors of an argument, by its position. All from the 30th on share one.
    pub fn argument(position: usize) -> u32 {
        1 << (1 + position.min(29))
    }

    /// The code of the device in schemas.
    pub fn code(self) -> u32 {
        match self {
            OutputDevice::Module => 0,
            OutputDevice::Cpu => 1,
            OutputDevice::Mps => 2,
            OutputDevice::Vulkan => 3,
            OutputDevice::Cuda(index) => Self::CUDA.saturating_add(index),
            OutputDevice::Tensors(bits) => Self::TENSORS | bits,
            OutputDevice::Unknown(code) => code,
        }
    }

    /// The device of a code.
    pub fn from_code(code: u32) -> OutputDevice {
        match code {
            0 => OutputDevice::Module,
            1 => OutputDevice::Cpu,
            2 => OutputDevice::Mps,
            3 => OutputDevice::Vulkan,
            Self::TENSORS.. => OutputDevice::Tensors(code & !Self::TENSORS),
            Self::CUDA.. => OutputDevice::Cuda(code - Self::CUDA),
            _ => OutputDevice::Unknown(code),
        }
    }
}

impl fmt::Display for OutputDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutputDevice::Module => f.write_str("the call's device"),
            OutputDevice::Tensors(bits) => {
                f.write_str("the device of")?;
                let mut separator = " ";
                for bit in (0..31).filter(|bit| bits & (1 << bit) != 0) {
                    match bit {
                        0 => write!(f, "{separator}the weights")?,
                        bit => write!(f, "{separator}argument {bit}")?,
                    }
                    separator = " and ";
                }
                Ok(())
            }
            OutputDevice::Cpu => f.write_str("CPU"),
            OutputDevice::Mps => f.write_str("MPS"),
            OutputDevice::Vulkan => f.write_str("Vulkan"),
            OutputDevice::Cuda(index) => write!(f, "CUDA {index}"),
            OutputDevice::Unknown(code) => write!(f, "device {code}"),
        }
    }
}

impl TensorSpec {
    /// The elements of a row of this tensor; `None` if an extent is negative, or there are too many for any memory.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &extent| {
            product.checked_mul(usize::try_from(extent).ok()?)
        })
    }

    /// The bytes of a row of this tensor, with its scale if it has one; `None` if the row is too large for any memory.
    pub fn bytes(&self) -> Option<usize> {
        let elements = self.elements()?.checked_mul(self.stored.size())?;
        elements
            .checked_add(self.stored.scale_bytes())
            .filter(|&bytes| bytes < isize::MAX as usize)
    }

    /// `stored u8, output u8, device u32, dimensions u8, extent i64 …`
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.stored.code());
        bytes.push(self.output.code());
        bytes.extend(self.device.code().to_le_bytes());
        bytes.push(self.shape.len() as u8);
        for extent in &self.shape {
            bytes.extend(extent.to_le_bytes());
        }
    }

    pub(super) fn decode(bytes: &mut &[u8]) -> Option<TensorSpec> {
        let [stored, output] = take_bytes(bytes)?;
        let device = u32::from_le_bytes(take_bytes(bytes)?);
        let [dimensions] = take_bytes(bytes)?;
        if usize::from(dimensions) > MAX_DIMENSIONS {
            return None;
        }
        let shape = (0..dimensions).map(|_| Some(i64::from_le_bytes(take_bytes(bytes)?)));
        let stored = ElementKind::from_code(stored)?;
        let output = ElementKind::from_code(output).filter(|kind| kind.is_of_tensors())?;
        if !stored.is_of_tensors() && !output.is_float() {
            return None;
        }
        Some(TensorSpec {
            stored,
            output,
            device: OutputDevice::from_code(device),
            shape: shape.collect::<Option<Vec<_>>>()?,
        })
    }
}

/// Takes the next bytes off the front.
pub(super) fn take_bytes<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_codes_round_trip() {
        for code in (0..20).chain([u32::MAX]) {
            assert_eq!(OutputDevice::from_code(code).code(), code);
        }
        assert_eq!(OutputDevice::Cuda(2).code(), 18);
        let tensors = OutputDevice::Tensors(OutputDevice::WEIGHTS | OutputDevice::argument(1));
        assert_eq!(
            (tensors.code(), OutputDevice::from_code(tensors.code())),
            (0x8000_0005, tensors)
        );
        assert_eq!(
            tensors.to_string(),
            "the device of the weights and argument 2"
        );
        assert_eq!(OutputDevice::argument(29), OutputDevice::argument(1_000));
        assert_eq!(OutputDevice::from_code(9), OutputDevice::Unknown(9));
    }
}
