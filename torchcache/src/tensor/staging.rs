//! Copies between host memory and a device. To CUDA devices they go through page-locked memory, which the device
//! reads while the host goes on: a copy from other memory waits for all work that was queued before.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use tch::{Device, Kind, TchError, Tensor};

use super::{parallel, raw};
use crate::sync::lock;

/// Larger tensors are copied in parts of at most so many bytes: libtorch keeps page-locked memory that was freed,
/// and the device copies one part while the host writes the next one.
const PART_BYTES: usize = 32 << 20;

/// A device is waited for once so many bytes were queued, on all of its streams: it may have other work to do before,
/// and keeps all this memory until then.
const MAX_QUEUED_BYTES: usize = 256 << 20;

/// A new tensor on `device`. `write` sets some of its bytes, whole slices along the first dimension or a part of
/// one; it is called for all of them, in order.
fn upload(
    shape: &[i64],
    kind: Kind,
    device: Device,
    mut write: impl FnMut(Range<usize>, &mut [u8]),
) -> Result<Tensor, TchError> {
    let Device::Cuda(number) = device else {
        let tensor = raw::tensor(shape, kind, |bytes| write(0..bytes.len(), bytes))?;
        return match device {
            Device::Cpu => Ok(tensor),
            device => tensor.f_to_device(device),
        };
    };
    let tensor = Tensor::f_empty(shape, (kind, device))?;
    let elements = tensor.f_view([-1])?;
    for part in parts(shape, kind) {
        let mut place = elements_at(&elements, &part, kind)?;
        let write = |bytes: &mut [u8]| write(part.clone(), bytes);
        let (from, is_locked) = raw::page_locked(&place.size(), kind, device, write)?;
        if !is_locked {
            place.f_copy_(&from)?;
            continue;
        }
        raw::queue_copy(&place, from)?;
        if are_many_queued(number, part.len()) {
            raw::synchronize(number)?;
        }
    }
    Ok(tensor)
}

/// Adds bytes to those queued on a CUDA device; whether the host must wait now.
fn are_many_queued(device: usize, bytes: usize) -> bool {
    static QUEUED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());
    let mut queued = lock(&QUEUED);
    let queued = queued.entry(device).or_default();
    *queued += bytes;
    let are_many = *queued >= MAX_QUEUED_BYTES;
    if are_many {
        *queued = 0;
    }
    are_many
}

/// Some bytes of a tensor of one dimension.
fn elements_at(elements: &Tensor, bytes: &Range<usize>, kind: Kind) -> Result<Tensor, TchError> {
    let size = kind.elt_size_in_bytes();
    elements.f_narrow(0, (bytes.start / size) as i64, (bytes.len() / size) as i64)
}

/// The bytes of a tensor in parts: of as many slices along the first dimension as a part has room for, or of a part
/// of one slice.
fn parts(shape: &[i64], kind: Kind) -> impl Iterator<Item = Range<usize>> + use<> {
    let slice_elements: i64 = shape[1..].iter().product();
    let slice = slice_elements as usize * kind.elt_size_in_bytes();
    let bytes = shape[0] as usize * slice;
    let slices = slice * (PART_BYTES / slice.max(1)).max(1);
    let begins = (0..bytes).step_by(slices.max(1));
    begins.flat_map(move |begin| {
        let end = bytes.min(begin + slices);
        let begins = (begin..end).step_by(PART_BYTES);
        begins.map(move |begin| begin..end.min(begin + PART_BYTES))
    })
}

/// Rows of one length as a tensor on `device`.
///
/// # Errors
///
/// Errors of libtorch, such as memory that cannot be allocated.
pub(crate) fn upload_rows(
    rows: &[&[u8]],
    shape: &[i64],
    kind: Kind,
    device: Device,
) -> Result<Tensor, TchError> {
    let row_bytes = rows.first().map_or(0, |row| row.len());
    upload(shape, kind, device, |part, out| {
        if part.is_empty() {
            return;
        }
        if part.len() < row_bytes {
            let row = &rows[part.start / row_bytes][part.start % row_bytes..];
            parallel::copy(out, &row[..out.len()]);
        } else {
            parallel::copy_rows(out, &rows[part.start / row_bytes..part.end / row_bytes]);
        }
    })
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
            upload(&shape, kind, device, |part, out| {
                parallel::copy(out, &bytes[part]);
            })
        }
        (Device::Cuda(_), Device::Cpu) => download(tensor, &shape, kind),
        _ => tensor.f_to_device(device),
    }
}

/// Copies a tensor to host memory. It waits for the copy, since the host reads it next.
fn download(tensor: &Tensor, shape: &[i64], kind: Kind) -> Result<Tensor, TchError> {
    let elements = tensor.f_reshape([-1])?;
    let part = |bytes: &Range<usize>| -> Result<Tensor, TchError> {
        let from = elements_at(&elements, bytes, kind)?;
        let (mut part, _) = raw::page_locked(&from.size(), kind, tensor.device(), |_| ())?;
        part.f_copy_(&from)?;
        Ok(part)
    };
    let mut parts = parts(shape, kind).peekable();
    let first = parts.next().unwrap_or_default();
    if parts.peek().is_none() {
        return part(&first)?.f_view(shape);
    }
    let copy_all = |out: &mut [u8]| {
        [first].into_iter().chain(parts).try_for_each(|bytes| {
            let part = part(&bytes)?;
            parallel::copy(&mut out[bytes], raw::view(&part)?);
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
    fn parts_are_all_bytes_in_order() {
        const MIB: usize = 1 << 20;
        let begins_and_lengths = |shape: &[i64]| -> Vec<_> {
            let parts = parts(shape, Kind::Float);
            parts.map(|part| (part.start, part.len())).collect()
        };
        assert_eq!(begins_and_lengths(&[0, 3]), []);
        assert_eq!(begins_and_lengths(&[5, 0]), []);
        assert_eq!(begins_and_lengths(&[5, 3, 2]), [(0, 120)]);
        let slices = [(0, 24), (24, 24), (48, 12)];
        let slices = slices.map(|(begin, length)| (begin * MIB, length * MIB));
        assert_eq!(begins_and_lengths(&[5, 3 << 20]), slices);
        let split = [(0, 32), (32, 4), (36, 32), (68, 4)];
        let split = split.map(|(begin, length)| (begin * MIB, length * MIB));
        assert_eq!(begins_and_lengths(&[2, 9 << 20]), split, "slices are split");
    }

    #[test]
    fn bytes_are_queued_up_to_a_bound() {
        // Of a device that no other test uses.
        let are_many = |bytes| are_many_queued(usize::MAX, bytes);
        for _ in 0..3 {
            let calls = [PART_BYTES, MAX_QUEUED_BYTES / 2, 1].map(are_many);
            assert_eq!(calls, [false; 3]);
            assert!(are_many(MAX_QUEUED_BYTES / 2));
        }
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
