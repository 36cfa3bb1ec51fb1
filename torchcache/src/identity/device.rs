//! Watched elements of tensors on a device. The sample of all tensors is summed up there, and the sums are copied to
//! the host at once: each copy waits for the device.
//!
//! Where the kernels of the device are used, one of them reads the sample where it lies, by a table that stays on the
//! device; else operations of libtorch gather it. Sums that were recorded in one way are not compared with those of the
//! other: the sample is recorded again.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, OnceLock};

use tch::{Device, Kind, TchError, Tensor};

use super::sample::{LINE, digest};
use crate::device::{self, DeviceRows, FACTORS, LineTable, Lines};
use crate::sync::lock;
use crate::tensor::raw::{self, Extents};

/// So many words of the sample have one sum: 8 bytes are copied of 8 KiB.
const WORDS: usize = FACTORS;

/// libtorch sums up the sample in parts of about so many bytes, which take little memory on the device.
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

/// Which elements to sum up, of all watched tensors.
#[derive(Debug, Default)]
pub(super) struct DeviceSample {
    tensors: Vec<SampledTensor>,
    devices: Vec<SampledDevice>,
    /// An error kept some of them out.
    is_incomplete: bool,
}

/// Elements of one tensor.
#[derive(Debug)]
struct SampledTensor {
    /// Which of the devices has them.
    device: usize,
    source: Source,
    elements: SampledElements,
}

#[derive(Debug)]
enum Source {
    /// A tensor that was at this pointer when its state was recorded.
    Tensor(Tensor, usize),
    /// The first elements in memory of the next gradient, so many. It is passed to each comparison, since its memory
    /// would not be freed if it was kept.
    Gradient(i64),
}

#[derive(Debug)]
enum SampledElements {
    /// Lines in the table of the device.
    Lines,
    /// All, or some windows, which libtorch copies in order.
    Gathered(Option<Windows>),
}

/// Some of the overlapping windows of a vector.
#[derive(Debug)]
struct Windows {
    length: i64,
    /// On the device.
    begins: Tensor,
}

/// How the sample on one device is summed up.
#[derive(Debug)]
struct SampledDevice {
    device: Device,
    /// On the device.
    factors: Tensor,
    /// Whether a kernel reads what is without gaps in memory.
    has_kernels: bool,
    /// What it reads, until the sample is recorded.
    lines: Lines,
    table: Option<LineTable>,
}

/// What one device sums up for one comparison.
#[derive(Debug)]
struct CurrentSample {
    factors: Tensor,
    table: Option<LineTable>,
    /// The tensors with the lines of the table.
    lines: Vec<Tensor>,
    gathered: Vec<(Tensor, Option<Windows>)>,
}

fn has_kernels(device: Device) -> bool {
    matches!(device, Device::Cuda(number) if device::has_kernels(number))
}

/// The first `length` elements of a tensor in memory, as a vector.
fn in_memory(tensor: &Tensor, length: i64) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_as_strided([length], [1], None)
}

/// The bytes of a contiguous tensor.
fn bytes(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_view([-1])?.f_view_dtype(Kind::Uint8)
}

impl Source {
    fn new(tensor: &Tensor) -> Self {
        Source::Tensor(tensor.shallow_clone(), tensor.data_ptr() as usize)
    }

    fn current<'g>(&self, gradients: &mut impl Iterator<Item = &'g Tensor>) -> Option<Tensor> {
        match self {
            Source::Tensor(tensor, _) => Some(tensor.shallow_clone()),
            Source::Gradient(length) => in_memory(gradients.next()?, *length).ok(),
        }
    }

    /// Whether a resize has moved the tensor: another one may have its recorded state by now.
    fn is_moved(&self) -> bool {
        match self {
            Source::Tensor(tensor, pointer) => tensor.data_ptr() as usize != *pointer,
            Source::Gradient(_) => false,
        }
    }
}

impl Windows {
    fn share(&self) -> Self {
        Windows {
            begins: self.begins.shallow_clone(),
            ..*self
        }
    }
}

impl DeviceSample {
    /// Adds all elements of a tensor: so many that lie in memory without gaps, if they do.
    pub(super) fn all(&mut self, tensor: &Tensor, dense: Option<usize>) {
        self.add(|sample| {
            let tensor = match dense {
                Some(length) => in_memory(tensor, length as i64)?,
                None => tensor.f_detach()?,
            };
            let device = sample.device(tensor.device())?;
            // A table of more would be large.
            let is_read = dense.is_some()
                && tensor.numel() * tensor.f_kind()?.elt_size_in_bytes() <= PART_BYTES;
            let elements = match sample.devices[device].lines_of(&tensor).filter(|_| is_read) {
                Some((lines, memory)) => {
                    lines.add_all(memory.row(0));
                    SampledElements::Lines
                }
                None => SampledElements::Gathered(None),
            };
            sample.tensors.push(SampledTensor {
                device,
                source: Source::new(&tensor),
                elements,
            });
            Ok(())
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
        self.lines_of(tensor, Source::new, (elements, size), begins);
    }

    /// As [`lines`](Self::lines), of the next gradient.
    pub(super) fn gradient(
        &mut self,
        gradient: &Tensor,
        (elements, size): (usize, usize),
        begins: impl IntoIterator<Item = usize>,
    ) {
        let source = |_: &Tensor| Source::Gradient(elements as i64);
        self.lines_of(gradient, source, (elements, size), begins);
    }

    /// `source`: that of the elements in memory.
    fn lines_of(
        &mut self,
        tensor: &Tensor,
        source: impl FnOnce(&Tensor) -> Source,
        (elements, size): (usize, usize),
        begins: impl IntoIterator<Item = usize>,
    ) {
        let begins = begins.into_iter().map(|begin| (begin / size) as i64);
        self.add(|sample| {
            let memory = in_memory(tensor, elements as i64)?;
            sample.windows(source(&memory), &memory, LINE / size, begins)
        });
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
        self.add(|sample| {
            let memory = in_memory(tensor, length)?;
            sample.windows(Source::new(&memory), &memory, 1, offsets)
        });
    }

    /// Adds windows of `length` elements of a vector.
    fn windows(
        &mut self,
        source: Source,
        memory: &Tensor,
        length: usize,
        begins: impl Iterator<Item = i64>,
    ) -> Result<(), TchError> {
        let device = self.device(memory.device())?;
        let size = memory.f_kind()?.elt_size_in_bytes() as u64;
        let bytes = length as u64 * size;
        let elements = match self.devices[device].lines_of(memory) {
            Some((lines, memory)) => {
                let begins = begins.map(|begin| begin as u64 * size);
                lines.add(memory.row(0), begins.map(|begin| begin..begin + bytes));
                SampledElements::Lines
            }
            None => {
                let begins: Vec<i64> = begins.collect();
                SampledElements::Gathered(Some(Windows {
                    length: length as i64,
                    begins: Tensor::from_slice(&begins).f_to_device(memory.device())?,
                }))
            }
        };
        self.tensors.push(SampledTensor {
            device,
            source,
            elements,
        });
        Ok(())
    }

    fn add(&mut self, add: impl FnOnce(&mut Self) -> Result<(), TchError>) {
        self.is_incomplete |= add(self).is_err();
    }

    /// The place of a device among those of the sample.
    fn device(&mut self, device: Device) -> Result<usize, TchError> {
        let place = self.devices.iter().position(|it| it.device == device);
        if let Some(place) = place {
            return Ok(place);
        }
        self.devices.push(SampledDevice {
            device,
            factors: Tensor::from_slice(factors()).f_to_device(device)?,
            has_kernels: has_kernels(device),
            lines: Lines::default(),
            table: None,
        });
        Ok(self.devices.len() - 1)
    }

    /// What is summed up now. `None` where a tensor is not what it was, or could not be added.
    fn current(&self, gradients: &[Tensor]) -> Option<Vec<CurrentSample>> {
        let mut gradients = gradients.iter();
        let mut devices: Vec<_> = self.devices.iter().map(SampledDevice::current).collect();
        for sampled in &self.tensors {
            let tensor = sampled.source.current(&mut gradients)?;
            let current = &mut devices[sampled.device];
            match &sampled.elements {
                // The table knows where its tensors were.
                SampledElements::Lines => current.lines.push(tensor),
                SampledElements::Gathered(_) if sampled.source.is_moved() => return None,
                SampledElements::Gathered(windows) => {
                    let windows = windows.as_ref().map(Windows::share);
                    current.gathered.push((tensor, windows));
                }
            }
        }
        (!self.is_incomplete && gradients.next().is_none()).then_some(devices)
    }
}

impl SampledDevice {
    /// Where to add lines of a vector, and the vector; `None` where no kernel reads it.
    fn lines_of<'t>(&mut self, vector: &'t Tensor) -> Option<(&mut Lines, DeviceRows<'t>)> {
        let memory = raw::device_bytes(vector).filter(|_| self.has_kernels)?;
        Some((&mut self.lines, memory))
    }

    /// Copies the table to the device. `None` where it has no room.
    fn upload(&mut self) -> Option<()> {
        let lines = std::mem::take(&mut self.lines);
        if let Device::Cuda(number) = self.device
            && !lines.is_empty()
        {
            self.table = Some(LineTable::upload(number, &lines)?);
        }
        Some(())
    }

    fn current(&self) -> CurrentSample {
        CurrentSample {
            factors: self.factors.shallow_clone(),
            table: self.table.as_ref().map(LineTable::share),
            lines: Vec::new(),
            gathered: Vec::new(),
        }
    }
}

impl CurrentSample {
    /// All sums, on the host. `None` where they cannot be computed.
    fn sums(&self) -> Option<Tensor> {
        let sums = self
            .queue()
            .and_then(|sums| sums.f_to_device(Device::Cpu).ok());
        if sums.is_none()
            && let Device::Cuda(number) = self.factors.device()
        {
            // What was queued may still read the table and the windows. Another stream can have their memory once they
            // are dropped, and other numbers there would be used as addresses.
            let _ = raw::synchronize(number);
        }
        sums
    }

    /// All sums, which are queued.
    fn queue(&self) -> Option<Tensor> {
        let mut sums = Vec::new();
        if let Some(table) = &self.table {
            let memory = |tensor| raw::device_bytes(tensor).map(|memory| memory.row(0));
            let lines: Vec<_> = self.lines.iter().map(memory).collect::<Option<_>>()?;
            sums.push(table.sums(&lines, memory(&self.factors)?)?);
        }
        self.gather(&mut sums).ok()?;
        match &sums[..] {
            [only] => Some(only.shallow_clone()),
            several => Tensor::f_cat(several, 0).ok(),
        }
    }

    /// Adds the sums of what libtorch gathers.
    fn gather(&self, all: &mut Vec<Tensor>) -> Result<(), TchError> {
        let (mut part, mut part_bytes) = (Vec::new(), 0);
        for (tensor, windows) in &self.gathered {
            let elements = match windows {
                None => tensor.f_contiguous()?,
                Some(Windows { length, begins }) => {
                    let windows = tensor.f_unfold(0, *length, 1)?;
                    windows.f_index_select(0, begins)?
                }
            };
            let elements = bytes(&elements)?;
            if elements.numel() > PART_BYTES {
                for slice in elements.f_split(PART_BYTES as i64, 0)? {
                    all.push(sums(&[slice], &self.factors)?);
                }
                continue;
            }
            part_bytes += elements.numel();
            part.push(elements);
            if part_bytes >= PART_BYTES {
                all.push(sums(&part, &self.factors)?);
                part.clear();
                part_bytes = 0;
            }
        }
        if !part.is_empty() {
            all.push(sums(&part, &self.factors)?);
        }
        Ok(())
    }
}

/// A digest of the sums of each device, by one copy for each.
fn digest_of(devices: &[CurrentSample]) -> Option<i64> {
    let mut digests = Vec::new();
    for device in devices {
        let sums = device.sums()?;
        digests.extend_from_slice(&digest(raw::view(&sums).ok()?).to_le_bytes());
    }
    Some(digest(&digests))
}

/// A sample, and its digest when it was recorded.
#[derive(Debug)]
pub(super) struct RecordedSample {
    /// In a lock since a `Tensor` is not `Sync`.
    sample: Mutex<DeviceSample>,
    /// Its devices, and whether a kernel read them.
    devices: Vec<(Device, bool)>,
    /// Whether no tensor was on a device.
    is_empty: bool,
    /// `None` where they could not be read: they count as changed then.
    digest: Option<i64>,
}

impl RecordedSample {
    /// `gradients`: those of which the sample has lines, in order.
    pub(super) fn new(mut sample: DeviceSample, gradients: &[Tensor]) -> Self {
        for device in &mut sample.devices {
            sample.is_incomplete |= device.upload().is_none();
        }
        let devices = sample.devices.iter();
        RecordedSample {
            devices: devices.map(|it| (it.device, it.has_kernels)).collect(),
            is_empty: sample.tensors.is_empty() && !sample.is_incomplete,
            digest: sample
                .current(gradients)
                .and_then(|current| digest_of(&current)),
            sample: Mutex::new(sample),
        }
    }

    /// Whether the elements are what they were; `None` where they cannot be read, or could not be, or were read in
    /// another way. The tensors must be in their recorded states.
    pub(super) fn compare(&self, gradients: &[Tensor]) -> Option<bool> {
        if self.is_empty {
            return Some(true);
        }
        // Else a table may be under way to the device still.
        let recorded = self.digest?;
        let mut devices = self.devices.iter();
        if devices.any(|&(device, had_kernels)| has_kernels(device) != had_kernels) {
            return None;
        }
        let current = lock(&self.sample).current(gradients)?;
        Some(digest_of(&current)? == recorded)
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
        sample.all(&transposed, None);
        sample.all(&table.narrow(0, 0, 1), Some(64));
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
        let recorded = RecordedSample::new(sample, &[]);
        assert_eq!(recorded.digest, Some(expected));
    }

    #[test]
    fn every_tensor_of_a_sample_is_compared() {
        let weights = [(); 3].map(|()| Tensor::zeros([300, 400], (Kind::Float, Device::Cpu)));
        let mut sample = DeviceSample::default();
        sample.all(&weights[0], Some(120_000));
        sample.all(&weights[1].tr(), None);
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
        sample.all(&tensor, Some(4 * WORDS + 3));
        let recorded = RecordedSample::new(sample, &[]);
        for at in [0, 1, 2, 3, 8_189, 8_191, 8_194] {
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
        sample.all(&weight, Some(8));
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
        sample.all(&weight, Some(120_000));
        let gradient = weight.ones_like();
        sample.gradient(&gradient, (120_000, 4), [0, 64, 479_936]);
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
