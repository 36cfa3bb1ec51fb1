//! Watched elements of tensors on a device. The sample of all tensors is gathered there and copied to the
//! host at once: each copy waits for the device.

use std::sync::Mutex;

use tch::{Device, Kind, TchError, Tensor};

use super::sample::{LINE, digest};
use crate::sync::lock;
use crate::tensor::raw::{self, Extents};

/// Which elements to gather, of all watched tensors.
#[derive(Debug, Default)]
pub(super) struct DeviceSample {
    pieces: Vec<Piece>,
    /// An error kept some of them out.
    is_incomplete: bool,
}

/// Elements of one tensor.
#[derive(Debug)]
struct Piece {
    device: Device,
    elements: Elements,
    /// Where the tensor was when its state was recorded.
    pointer: usize,
}

#[derive(Debug)]
enum Elements {
    /// All of them, as they lie in memory.
    Bytes(Tensor),
    /// All of them, to be copied in order.
    Strided(Tensor),
    /// Some of overlapping windows.
    Windows { all: Tensor, some: Tensor },
}

impl Piece {
    fn new(elements: Elements) -> Self {
        let (Elements::Bytes(tensor)
        | Elements::Strided(tensor)
        | Elements::Windows { all: tensor, .. }) = &elements;
        Piece {
            device: tensor.device(),
            pointer: tensor.data_ptr() as usize,
            elements,
        }
    }

    fn share(&self) -> Self {
        let elements = match &self.elements {
            Elements::Bytes(bytes) => Elements::Bytes(bytes.shallow_clone()),
            Elements::Strided(tensor) => Elements::Strided(tensor.shallow_clone()),
            Elements::Windows { all, some } => Elements::Windows {
                all: all.shallow_clone(),
                some: some.shallow_clone(),
            },
        };
        Piece { elements, ..*self }
    }

    /// The elements as bytes. `None` where a resize has moved them: another tensor may have this one's
    /// recorded state by now.
    fn gather(self) -> Result<Option<Tensor>, TchError> {
        let (pointer, elements) = match self.elements {
            Elements::Bytes(bytes) => (bytes.data_ptr(), bytes),
            Elements::Strided(tensor) => (tensor.data_ptr(), bytes(&tensor.f_contiguous()?)?),
            Elements::Windows { all, some } => {
                (all.data_ptr(), bytes(&all.f_index_select(0, &some)?)?)
            }
        };
        Ok((pointer as usize == self.pointer).then_some(elements))
    }
}

/// The bytes of a contiguous tensor.
fn bytes(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_view([-1])?.f_view_dtype(Kind::Uint8)
}

impl DeviceSample {
    /// Adds all elements of a tensor.
    pub(super) fn all(&mut self, tensor: &Tensor) {
        self.add(|| {
            let tensor = tensor.f_detach()?;
            Ok(match tensor.is_contiguous() {
                true => Elements::Bytes(bytes(&tensor)?),
                false => Elements::Strided(tensor),
            })
        });
    }

    /// Adds the lines of a tensor of `elements` elements that are dense in memory, from where each begins
    /// in bytes.
    pub(super) fn lines(
        &mut self,
        tensor: &Tensor,
        (elements, size): (usize, usize),
        begins: impl IntoIterator<Item = usize>,
    ) {
        let begins = begins.into_iter().map(|begin| (begin / size) as i64);
        let begins: Vec<i64> = begins.collect();
        let line = (LINE / size) as i64;
        self.windows(tensor, elements as i64, line, &begins);
    }

    /// Adds elements of a strided tensor, by their indices.
    pub(super) fn elements(
        &mut self,
        tensor: &Tensor,
        extents: &Extents<'_>,
        indices: impl IntoIterator<Item = usize>,
    ) {
        let offsets = indices.into_iter().map(|index| extents.offset(index));
        let offsets: Vec<i64> = offsets.collect();
        let length = extents.offset(extents.count() - 1) + 1;
        self.windows(tensor, length, 1, &offsets);
    }

    /// Adds some windows of the first `length` elements of a tensor in memory.
    fn windows(&mut self, tensor: &Tensor, length: i64, window: i64, begins: &[i64]) {
        self.add(|| {
            let memory = tensor.f_detach()?.f_as_strided([length], [1], None)?;
            Ok(Elements::Windows {
                all: memory.f_unfold(0, window, 1)?,
                some: Tensor::from_slice(begins).f_to_device(tensor.device())?,
            })
        });
    }

    fn share(&self) -> Self {
        DeviceSample {
            pieces: self.pieces.iter().map(Piece::share).collect(),
            is_incomplete: self.is_incomplete,
        }
    }

    fn add(&mut self, elements: impl FnOnce() -> Result<Elements, TchError>) {
        match elements() {
            Ok(elements) => self.pieces.push(Piece::new(elements)),
            Err(_) => self.is_incomplete = true,
        }
    }

    /// A digest of the elements as they are now: one copy for each device. `None` where they cannot be
    /// read.
    fn digest(self) -> Option<i64> {
        if self.is_incomplete {
            return None;
        }
        let mut devices: Vec<(Device, Vec<Tensor>)> = Vec::new();
        for piece in self.pieces {
            let device = piece.device;
            let bytes = piece.gather().ok()??;
            match devices.iter_mut().find(|(other, _)| *other == device) {
                Some((_, all)) => all.push(bytes),
                None => devices.push((device, vec![bytes])),
            }
        }
        let mut sample = Vec::new();
        for (_, bytes) in devices {
            let bytes = Tensor::f_cat(&bytes, 0)
                .ok()?
                .f_to_device(Device::Cpu)
                .ok()?;
            sample.extend_from_slice(&digest(raw::view(&bytes).ok()?).to_le_bytes());
        }
        Some(digest(&sample))
    }
}

/// A sample, and its digest when it was recorded.
#[derive(Debug)]
pub(super) struct RecordedSample {
    /// In a lock since a `Tensor` is not `Sync`.
    sample: Mutex<DeviceSample>,
    /// Whether no tensor was on a device.
    is_empty: bool,
    /// `None` where they could not be read: they count as changed then.
    digest: Option<i64>,
}

impl RecordedSample {
    pub(super) fn new(sample: DeviceSample) -> Self {
        RecordedSample {
            is_empty: sample.pieces.is_empty() && !sample.is_incomplete,
            digest: sample.share().digest(),
            sample: Mutex::new(sample),
        }
    }

    /// Whether the elements are what they were. The tensors must be in their recorded states.
    pub(super) fn is_unchanged(&self) -> bool {
        if self.is_empty {
            return true;
        }
        let sample = lock(&self.sample).share();
        self.digest.is_some() && sample.digest() == self.digest
    }

    /// Frees the storage of the tensors.
    pub(super) fn release(&self) {
        let sample = std::mem::take(&mut *lock(&self.sample));
        drop(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::raw::TensorState;

    /// Works on any device.
    #[test]
    fn the_digest_is_that_of_the_sampled_bytes() {
        let table = Tensor::arange(4_096, (Kind::Float, Device::Cpu)).view([64, 64]);
        let bytes = raw::view(&table).unwrap();
        let transposed = table.tr();
        let mut state = TensorState::new();
        assert!(state.read(&transposed));
        let mut sample = DeviceSample::default();
        sample.all(&transposed);
        sample.all(&table.narrow(0, 0, 1));
        sample.lines(&table, (4_096, 4), [0, 256, 16_320]);
        sample.elements(&transposed, &state.extents().unwrap(), [1, 64]);
        let transposed = transposed.contiguous();
        let expected = [
            raw::view(&transposed).unwrap(),
            &bytes[..256],
            &bytes[..64],
            &bytes[256..320],
            &bytes[16_320..],
            &bytes[256..260],
            &bytes[4..8],
        ];
        let expected = digest(&digest(&expected.concat()).to_le_bytes());
        assert_eq!(sample.digest(), Some(expected));
    }

    #[test]
    fn every_piece_of_a_sample_is_compared() {
        let weights = [(); 3].map(|()| Tensor::zeros([300, 400], (Kind::Float, Device::Cpu)));
        let mut sample = DeviceSample::default();
        sample.all(&weights[0]);
        sample.all(&weights[1].tr());
        sample.lines(&weights[2], (120_000, 4), [0, 64, 479_936]);
        let recorded = RecordedSample::new(sample);
        assert!(recorded.is_unchanged());
        for weight in &weights {
            let last = weight.view([-1]).narrow(0, 119_999, 1);
            let _ = last.data().fill_(1.0);
            assert!(!recorded.is_unchanged());
            let _ = last.data().fill_(0.0);
            assert!(recorded.is_unchanged());
        }
        recorded.release();
        assert!(!recorded.is_unchanged());
    }

    /// Its memory may be that of another tensor.
    #[test]
    fn a_moved_tensor_counts_as_changed() {
        let mut weight = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let mut sample = DeviceSample::default();
        sample.all(&weight);
        let recorded = RecordedSample::new(sample);
        assert!(recorded.is_unchanged());
        let before = weight.data_ptr();
        let _ = weight.resize_([1_000_000]);
        assert_ne!(weight.data_ptr(), before);
        assert!(!recorded.is_unchanged());
    }
}
