//! Copies between host memory and a device. To CUDA devices they go through pinned memory, which the device
//! reads while the host goes on: a copy from other memory waits for all work that was queued before.

use std::ops::Range;

use tch::{Device, Kind, TchError, Tensor};

use super::{parallel, raw};

/// Larger tensors are copied in parts of about so many bytes: libtorch keeps pinned memory that was freed, and
/// the device copies one part while the host writes the next one.
const PART_BYTES: usize = 32 << 20;

/// No more parts of a tensor are queued at once: the device may have other work to do before.
const QUEUED_PARTS: usize = 8;

/// A new tensor on `device`. `write` sets the bytes of some of its slices along the first dimension; it is called
/// for all of them, in order.
///
/// # Errors
///
/// Errors of libtorch, such as memory that cannot be allocated.
pub(crate) fn upload(
    shape: &[i64],
    kind: Kind,
    device: Device,
    mut write: impl FnMut(Range<usize>, &mut [u8]),
) -> Result<Tensor, TchError> {
    let count = shape[0] as usize;
    if !matches!(device, Device::Cuda(_)) {
        let tensor = raw::tensor(shape, kind, |bytes| write(0..count, bytes))?;
        return match device {
            Device::Cpu => Ok(tensor),
            device => tensor.f_to_device(device),
        };
    }
    let tensor = Tensor::f_empty(shape, (kind, device))?;
    for (number, slices) in (1..).zip(parts(shape, kind)) {
        let mut part_shape = shape.to_vec();
        part_shape[0] = slices.len() as i64;
        let (begin, length) = (slices.start as i64, slices.len() as i64);
        let write = |bytes: &mut [u8]| write(slices, bytes);
        let (part, is_pinned) = raw::pinned(&part_shape, kind, device, write)?;
        // Nothing writes to `part` from here on, and dropping it before it is copied is allowed: libtorch
        // does not use pinned memory again before the copies that were queued from it are done.
        let non_blocking = is_pinned && number % QUEUED_PARTS != 0;
        let place = tensor.f_narrow(0, begin, length)?;
        raw::copy(&place, &part, non_blocking)?;
    }
    Ok(tensor)
}

/// The slices of a tensor along its first dimension, in parts.
fn parts(shape: &[i64], kind: Kind) -> impl Iterator<Item = Range<usize>> + use<> {
    let elements: i64 = shape[1..].iter().product();
    let slice_bytes = elements as usize * kind.elt_size_in_bytes();
    let (count, length) = (shape[0] as usize, PART_BYTES / slice_bytes.max(1));
    let length = length.max(1);
    let begins = (0..count).step_by(length);
    begins.map(move |begin| begin..count.min(begin + length))
}

/// The elements on `device`: a contiguous tensor of another one is copied.
///
/// # Errors
///
/// Errors of libtorch, such as memory that cannot be allocated.
pub(crate) fn to_device(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    let from = tensor.device();
    if from == device {
        return Ok(tensor.shallow_clone());
    }
    if tensor.dim() == 0 || tensor.numel() == 0 {
        return tensor.f_to_device(device);
    }
    let (shape, kind) = (tensor.size(), tensor.f_kind()?);
    match (from, device) {
        (Device::Cpu, Device::Cuda(_)) => {
            let bytes = raw::view(tensor)?;
            let slice_bytes = bytes.len() / shape[0] as usize;
            upload(&shape, kind, device, |slices, out| {
                let begin = slices.start * slice_bytes;
                parallel::copy(out, &bytes[begin..][..out.len()]);
            })
        }
        (Device::Cuda(_), Device::Cpu) => download(tensor, &shape, kind),
        _ => tensor.f_to_device(device),
    }
}

/// Copies a tensor to host memory. It waits for the copy, since the host reads it next.
fn download(tensor: &Tensor, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
    let part = |slices: Range<usize>| {
        let (begin, length) = (slices.start as i64, slices.len() as i64);
        let from = tensor.f_narrow(0, begin, length)?;
        let (part, _) = raw::pinned(&from.size(), kind, tensor.device(), |_| ())?;
        raw::copy(&part, &from, false)?;
        Ok(part)
    };
    let mut parts = parts(shape, kind).peekable();
    let first = parts.next().unwrap_or_default();
    if parts.peek().is_none() {
        return part(first);
    }
    let copy_all = |out: &mut [u8]| {
        let slice_bytes = out.len() / shape[0] as usize;
        [first].into_iter().chain(parts).try_for_each(|slices| {
            let begin = slices.start * slice_bytes;
            let part = part(slices)?;
            let bytes = raw::view(&part)?;
            parallel::copy(&mut out[begin..][..bytes.len()], bytes);
            Ok(())
        })
    };
    let (copied, result) = raw::written(shape, kind, copy_all)?;
    result.map(|()| copied)
}

/// Numbers as a tensor on a device.
///
/// # Errors
///
/// Memory that cannot be allocated.
pub(crate) fn numbers(numbers: &[i64], device: Device) -> Result<Tensor, TchError> {
    to_device(&Tensor::from_slice(numbers), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_slices_in_order() {
        let begins_and_lengths = |shape: &[i64]| -> Vec<_> {
            let parts = parts(shape, Kind::Float);
            parts.map(|part| (part.start, part.len())).collect()
        };
        assert_eq!(begins_and_lengths(&[0, 3]), []);
        assert_eq!(begins_and_lengths(&[5, 0]), [(0, 5)]);
        assert_eq!(begins_and_lengths(&[5, 3, 2]), [(0, 5)]);
        let parts = [(0, 2), (2, 2), (4, 2), (6, 1)];
        assert_eq!(begins_and_lengths(&[7, 4 << 20]), parts);
        assert_eq!(
            begins_and_lengths(&[2, 9 << 20]),
            [(0, 1), (1, 1)],
            "a slice is not split"
        );
    }

    #[test]
    fn tensors_stay_on_their_device() {
        let tensor = Tensor::arange(6, (Kind::Int64, Device::Cpu));
        let same = to_device(&tensor, Device::Cpu).unwrap();
        assert_eq!(same.data_ptr(), tensor.data_ptr());
        assert!(
            numbers(&[3, 1], Device::Cpu)
                .unwrap()
                .equal(&Tensor::from_slice(&[3i64, 1]))
        );
    }
}
