//! Watched elements of tensors on a device. The sample of all tensors is gathered and summed up there, and the
//! sums are copied to the host at once: each copy waits for the device.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, OnceLock};

use tch::{Device, Kind, TchError, Tensor};

use super::sample::{LINE, digest};
use crate::sync::lock;
use crate::tensor::raw::{self, Extents};

/// So many words of the sample have one sum: 8 bytes are copied of 4 KiB.
const WORDS: usize = 1024;

/// The sample is summed up in parts of about so many bytes, which take little memory on the device.
const PART_BYTES: usize = 16 << 20;

/// A factor for each word of a sum. Each is odd, so that a change of one word changes the sum; only this process
/// knows them, so that no changes of several can be made to cancel out.
fn factors() -> &'static [i64] {
    static FACTORS: OnceLock<Vec<i64>> = OnceLock::new();
    FACTORS.get_or_init(|| {
        let random = RandomState::new();
        let factor = |word| random.hash_one(word) as i64 | 1;
        (0..WORDS).map(factor).collect()
    })
}

/// The sums of some bytes: of 32-bit words, each times its factor, modulo 2^64.
fn sums(bytes: &[Tensor], factors: &Tensor) -> Result<Tensor, TchError> {
    let length: usize = bytes.iter().map(Tensor::numel).sum();
    let padding = length.next_multiple_of(4 * WORDS) - length;
    let padding = Tensor::f_zeros([padding as i64], (Kind::Uint8, factors.device()))?;
    let padded: Vec<&Tensor> = bytes.iter().chain([&padding]).collect();
    let padded = Tensor::f_cat(&padded, 0)?;
    let words = padded.f_view_dtype(Kind::Int)?.f_view([-1, WORDS as i64])?;
    let mut products = words.f_to_kind(Kind::Int64)?;
    let products = products.f_mul_(factors)?;
    products.f_sum_dim_intlist(1, false, None)
}

/// Which elements to gather, of all watched tensors.
#[derive(Debug, Default)]
pub(super) struct DeviceSample {
    tensors: Vec<SampledTensor>,
    gradients: Vec<GradientLines>,
    /// The factors on each device of a tensor.
    factors: Vec<Tensor>,
    /// An error kept some of them out.
    is_incomplete: bool,
}

/// Elements of one tensor.
#[derive(Debug)]
struct SampledTensor {
    device: Device,
    elements: SampledElements,
    /// Where the tensor was when its state was recorded.
    pointer: usize,
}

#[derive(Debug)]
enum SampledElements {
    /// All of them, as they lie in memory.
    Bytes(Tensor),
    /// All of them, to be copied in order.
    Strided(Tensor),
    /// Some of overlapping windows.
    Windows { all: Tensor, some: Tensor },
}

impl SampledTensor {
    fn new(elements: SampledElements) -> Self {
        let (SampledElements::Bytes(tensor)
        | SampledElements::Strided(tensor)
        | SampledElements::Windows { all: tensor, .. }) = &elements;
        SampledTensor {
            device: tensor.device(),
            pointer: tensor.data_ptr() as usize,
            elements,
        }
    }

    fn share(&self) -> Self {
        let elements = match &self.elements {
            SampledElements::Bytes(bytes) => SampledElements::Bytes(bytes.shallow_clone()),
            SampledElements::Strided(tensor) => SampledElements::Strided(tensor.shallow_clone()),
            SampledElements::Windows { all, some } => SampledElements::Windows {
                all: all.shallow_clone(),
                some: some.shallow_clone(),
            },
        };
        SampledTensor { elements, ..*self }
    }

    /// The elements as bytes. `None` where a resize has moved them: another tensor may have this one's
    /// recorded state by now.
    fn gather(self) -> Result<Option<Tensor>, TchError> {
        let (pointer, elements) = match self.elements {
            SampledElements::Bytes(bytes) => (bytes.data_ptr(), bytes),
            SampledElements::Strided(tensor) => {
                (tensor.data_ptr(), bytes(&tensor.f_contiguous()?)?)
            }
            SampledElements::Windows { all, some } => {
                (all.data_ptr(), bytes(&all.f_index_select(0, &some)?)?)
            }
        };
        Ok((pointer as usize == self.pointer).then_some(elements))
    }
}

/// Lines of a gradient. It is passed to each comparison, since its memory would not be freed if it was kept.
#[derive(Debug)]
struct GradientLines {
    length: i64,
    line: i64,
    /// On the device.
    begins: Tensor,
}

impl GradientLines {
    fn of(&self, gradient: &Tensor) -> Result<SampledElements, TchError> {
        Ok(SampledElements::Windows {
            all: windows(gradient, self.length, self.line)?,
            some: self.begins.shallow_clone(),
        })
    }

    fn share(&self) -> Self {
        GradientLines {
            begins: self.begins.shallow_clone(),
            ..*self
        }
    }
}

/// All windows of the first `length` elements of a tensor in memory.
fn windows(tensor: &Tensor, length: i64, window: i64) -> Result<Tensor, TchError> {
    let memory = tensor.f_detach()?.f_as_strided([length], [1], None)?;
    memory.f_unfold(0, window, 1)
}

/// The bytes of a contiguous tensor.
fn bytes(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_view([-1])?.f_view_dtype(Kind::Uint8)
}

/// Where lines begin, in elements of `size` bytes.
fn in_elements(begins: impl IntoIterator<Item = usize>, size: usize) -> impl Iterator<Item = i64> {
    begins.into_iter().map(move |begin| (begin / size) as i64)
}

impl DeviceSample {
    /// Adds all elements of a tensor.
    pub(super) fn all(&mut self, tensor: &Tensor) {
        self.add(|| {
            let tensor = tensor.f_detach()?;
            Ok(match tensor.is_contiguous() {
                true => SampledElements::Bytes(bytes(&tensor)?),
                false => SampledElements::Strided(tensor),
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
        self.windows(tensor, elements, LINE / size, in_elements(begins, size));
    }

    /// Adds lines of the next gradient, which lies in memory as `weight` does.
    pub(super) fn gradient(
        &mut self,
        weight: &Tensor,
        (elements, size): (usize, usize),
        begins: impl IntoIterator<Item = usize>,
    ) {
        let begins: Vec<i64> = in_elements(begins, size).collect();
        match Tensor::from_slice(&begins).f_to_device(weight.device()) {
            Ok(begins) => self.gradients.push(GradientLines {
                length: elements as i64,
                line: (LINE / size) as i64,
                begins,
            }),
            Err(_) => self.is_incomplete = true,
        }
    }

    /// Adds elements of a strided tensor, by their indices.
    pub(super) fn elements(
        &mut self,
        tensor: &Tensor,
        extents: &Extents<'_>,
        indices: impl IntoIterator<Item = usize>,
    ) {
        let offsets = indices.into_iter().map(|index| extents.offset(index));
        let length = extents.offset(extents.count() - 1) + 1;
        self.windows(tensor, length as usize, 1, offsets);
    }

    /// Adds some windows of the first `length` elements of a tensor in memory.
    fn windows(
        &mut self,
        tensor: &Tensor,
        length: usize,
        window: usize,
        begins: impl Iterator<Item = i64>,
    ) {
        let begins: Vec<i64> = begins.collect();
        self.add(|| {
            Ok(SampledElements::Windows {
                all: windows(tensor, length as i64, window as i64)?,
                some: Tensor::from_slice(&begins).f_to_device(tensor.device())?,
            })
        });
    }

    fn share(&self) -> Self {
        DeviceSample {
            tensors: self.tensors.iter().map(SampledTensor::share).collect(),
            gradients: self.gradients.iter().map(GradientLines::share).collect(),
            factors: self.factors.iter().map(Tensor::shallow_clone).collect(),
            is_incomplete: self.is_incomplete,
        }
    }

    fn add(&mut self, elements: impl FnOnce() -> Result<SampledElements, TchError>) {
        let added = elements().and_then(|elements| {
            let tensor = SampledTensor::new(elements);
            if !self.factors.iter().any(|it| it.device() == tensor.device) {
                let factors = Tensor::from_slice(factors()).f_to_device(tensor.device)?;
                self.factors.push(factors);
            }
            self.tensors.push(tensor);
            Ok(())
        });
        self.is_incomplete |= added.is_err();
    }

    /// A digest of the elements and gradients as they are now: one copy for each device. `None` where they
    /// cannot be read.
    fn digest(mut self, gradients: &[Tensor]) -> Option<i64> {
        let lines = std::mem::take(&mut self.gradients);
        for (lines, gradient) in lines.iter().zip(gradients) {
            self.add(|| lines.of(gradient));
        }
        if self.is_incomplete || lines.len() != gradients.len() {
            return None;
        }
        let (mut tensors, mut digests) = (self.tensors, Vec::new());
        for factors in &self.factors {
            let device = factors.device();
            let here = tensors.extract_if(.., |tensor| tensor.device == device);
            let sums = sums_of(here, factors).ok()??;
            digests.extend_from_slice(&digest(raw::view(&sums).ok()?).to_le_bytes());
        }
        Some(digest(&digests))
    }
}

/// The sums of all tensors of a device, on the host. `None` where one was moved.
fn sums_of(
    tensors: impl Iterator<Item = SampledTensor>,
    factors: &Tensor,
) -> Result<Option<Tensor>, TchError> {
    let (mut all, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for tensor in tensors {
        let Some(elements) = tensor.gather()? else {
            return Ok(None);
        };
        if elements.numel() > PART_BYTES {
            for slice in elements.f_split(PART_BYTES as i64, 0)? {
                all.push(sums(&[slice], factors)?);
            }
            continue;
        }
        bytes += elements.numel();
        part.push(elements);
        if bytes >= PART_BYTES {
            all.push(sums(&part, factors)?);
            part.clear();
            bytes = 0;
        }
    }
    if !part.is_empty() {
        all.push(sums(&part, factors)?);
    }
    Tensor::f_cat(&all, 0)?.f_to_device(Device::Cpu).map(Some)
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
    /// `gradients`: those of which the sample has lines, in order.
    pub(super) fn new(sample: DeviceSample, gradients: &[Tensor]) -> Self {
        RecordedSample {
            is_empty: sample.tensors.is_empty() && !sample.is_incomplete,
            digest: sample.share().digest(gradients),
            sample: Mutex::new(sample),
        }
    }

    /// Whether the elements are what they were; `None` where they cannot be read, or could not be. The tensors
    /// must be in their recorded states.
    pub(super) fn compare(&self, gradients: &[Tensor]) -> Option<bool> {
        if self.is_empty {
            return Some(true);
        }
        let sample = lock(&self.sample).share();
        Some(sample.digest(gradients)? == self.digest?)
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
    fn the_digest_is_that_of_the_sums_of_the_sampled_bytes() {
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
        let mut expected = expected.concat();
        expected.resize(expected.len().next_multiple_of(4 * WORDS), 0);
        let sums = expected.chunks(4 * WORDS).map(|group| {
            let (words, _) = group.as_chunks();
            let words = words
                .iter()
                .map(|&word| i64::from(i32::from_le_bytes(word)));
            let products = words
                .zip(factors())
                .map(|(word, &factor)| word.wrapping_mul(factor));
            products.fold(0, i64::wrapping_add)
        });
        let sums: Vec<u8> = sums.flat_map(i64::to_le_bytes).collect();
        let expected = digest(&digest(&sums).to_le_bytes());
        assert_eq!(sample.digest(&[]), Some(expected));
    }

    #[test]
    fn every_tensor_of_a_sample_is_compared() {
        let weights = [(); 3].map(|()| Tensor::zeros([300, 400], (Kind::Float, Device::Cpu)));
        let mut sample = DeviceSample::default();
        sample.all(&weights[0]);
        sample.all(&weights[1].tr());
        sample.lines(&weights[2], (120_000, 4), [0, 64, 479_936]);
        let recorded = RecordedSample::new(sample, &[]);
        assert_eq!(recorded.compare(&[]), Some(true));
        for weight in &weights {
            let last = weight.view([-1]).narrow(0, 119_999, 1);
            let _ = last.data().fill_(1.0);
            assert_ne!(recorded.compare(&[]), Some(true));
            let _ = last.data().fill_(0.0);
            assert_eq!(recorded.compare(&[]), Some(true));
        }
        recorded.release();
        assert_ne!(recorded.compare(&[]), Some(true));
    }

    #[test]
    fn each_bit_of_a_word_counts() {
        let tensor = Tensor::zeros([4 * WORDS as i64 + 3], (Kind::Uint8, Device::Cpu));
        let mut sample = DeviceSample::default();
        sample.all(&tensor);
        let recorded = RecordedSample::new(sample, &[]);
        for at in [0, 1, 2, 3, 4_093, 4_095, 4_098] {
            for bit in 0..8 {
                let mut byte = tensor.narrow(0, at, 1);
                let _ = byte.fill_(1 << bit);
                assert_ne!(recorded.compare(&[]), Some(true), "bit {bit} of byte {at}");
                let _ = byte.fill_(0);
                assert_eq!(recorded.compare(&[]), Some(true));
            }
        }
    }

    /// Its memory may be that of another tensor.
    #[test]
    fn a_moved_tensor_counts_as_changed() {
        let mut weight = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let mut sample = DeviceSample::default();
        sample.all(&weight);
        let recorded = RecordedSample::new(sample, &[]);
        assert_eq!(recorded.compare(&[]), Some(true));
        let before = weight.data_ptr();
        let _ = weight.resize_([1_000_000]);
        assert_ne!(weight.data_ptr(), before);
        assert_ne!(recorded.compare(&[]), Some(true));
    }

    /// A sample that held the gradient would find it unchanged, and keep its memory.
    #[test]
    fn gradients_are_compared_as_they_are_passed() {
        let weight = Tensor::zeros([300, 400], (Kind::Float, Device::Cpu));
        let mut sample = DeviceSample::default();
        sample.all(&weight);
        sample.gradient(&weight, (120_000, 4), [0, 64, 479_936]);
        let gradient = weight.ones_like();
        let recorded = RecordedSample::new(sample, &[gradient]);
        let gradient = weight.ones_like();
        for at in [0, 15, 31, 119_999] {
            let element = gradient.view([-1]).narrow(0, at, 1);
            let _ = element.data().fill_(2.0);
            assert_ne!(
                recorded.compare(&[gradient.shallow_clone()]),
                Some(true),
                "{at}"
            );
            let _ = element.data().fill_(1.0);
            assert_eq!(
                recorded.compare(&[gradient.shallow_clone()]),
                Some(true),
                "{at}"
            );
        }
        assert_ne!(recorded.compare(&[]), Some(true));
        assert_ne!(recorded.compare(&[weight]), Some(true));
    }
}
