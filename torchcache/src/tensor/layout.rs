//! Layouts: which tensors rows can be cut from, and their elements as contiguous memory.

use tch::{Device, Kind, TchError, Tensor};

use super::raw::{self, TensorState};

/// Whether the tensor is strided memory of a known kind that is not quantized.
pub(crate) fn is_strided(tensor: &Tensor) -> bool {
    let mut state = TensorState::new();
    state.read(tensor) && state.is_strided()
}

/// Whether every element of the tensor can be read: of nested tensors, and on the meta device, none can.
pub(crate) fn has_digest(tensor: &Tensor) -> bool {
    is_strided(tensor) || is_sparse(tensor) || is_quantized(tensor) || is_opaque(tensor)
}

/// What a tensor is that is not strided, for messages.
pub(crate) fn describe(tensor: &Tensor) -> &'static str {
    if is_sparse(tensor) || is_quantized(tensor) {
        "sparse or quantized"
    } else if is_opaque(tensor) {
        "in the layout of MKL-DNN"
    } else if raw::shape(tensor).is_err() {
        "nested"
    } else {
        "without memory"
    }
}

fn is_quantized(tensor: &Tensor) -> bool {
    matches!(
        tensor.f_kind(),
        Ok(Kind::QInt8 | Kind::QUInt8 | Kind::QInt32)
    )
}

/// Whether only libtorch knows how the elements lie in memory.
fn is_opaque(tensor: &Tensor) -> bool {
    tensor.is_mkldnn()
}

/// Whether a defined tensor is sparse: some of its elements are stored, in tensors of their own.
pub(crate) fn is_sparse(tensor: &Tensor) -> bool {
    // `is_sparse` is COO only. Compressed layouts such as CSR have sparse dimensions.
    tensor.is_sparse() || matches!(tensor.f_sparse_dim(), Ok(dimensions) if dimensions > 0)
}

/// The elements as contiguous memory on the tensor's device. A pending conjugation or negation, whose
/// bytes are not its values, is resolved.
pub(crate) fn contiguous(tensor: &Tensor) -> Result<Tensor, TchError> {
    let resolved = if tensor.is_conj() || tensor.is_neg() {
        tensor.f_resolve_conj()?.f_resolve_neg()?
    } else {
        tensor.f_detach()?
    };
    if tensor.internal_is_zerotensor() {
        return resolved.f_zeros_like();
    }
    if resolved.is_contiguous() {
        Ok(resolved)
    } else {
        resolved.f_contiguous()
    }
}

/// The elements as contiguous memory on the CPU.
pub(crate) fn on_cpu(tensor: &Tensor) -> Result<Tensor, TchError> {
    let tensor = contiguous(tensor)?;
    if tensor.device() == Device::Cpu {
        Ok(tensor)
    } else {
        tensor.f_to_device(Device::Cpu)
    }
}

/// A recurrent state `[layers, batch, size]` as `[batch, layers, size]`, in the same memory. Where it has no such
/// dimensions, it is as it was, and no batch.
pub(crate) fn batch_first(state: &Tensor) -> Tensor {
    let swapped = state.f_transpose(0, 1);
    swapped.unwrap_or_else(|_| state.shallow_clone())
}

/// The inverse, in contiguous memory, which cuDNN requires.
pub(crate) fn layers_first(rows: &Tensor) -> Tensor {
    let swapped = batch_first(rows);
    swapped.f_contiguous().unwrap_or(swapped)
}

/// Elements that are not contiguous on the CPU are copied in parts of about so many bytes.
const PART_BYTES: usize = 16 << 20;

/// No more bytes are copied on a device to be hashed there.
pub(crate) const MAX_COPY_BYTES: usize = 256 << 20;

/// How many slices of `bytes` bytes make a part; at least one.
pub(crate) fn slices_in_part(bytes: usize) -> usize {
    (PART_BYTES / bytes.max(1)).max(1)
}

/// The positions of `count` evenly spaced ones of `elements` elements, the first among them.
pub(crate) fn sample_positions(count: usize, elements: usize) -> impl Iterator<Item = i64> {
    (0..count).map(move |sample| (sample as u128 * elements as u128 / count as u128) as i64)
}

/// Whether a strided tensor was expanded over its rows, so that all are the first one.
pub(crate) fn has_equal_rows(tensor: &Tensor) -> bool {
    tensor.stride().first() == Some(&0)
}

/// Passes the elements of a strided tensor to `visit`, in order, as contiguous memory on the CPU: at once
/// where they are that, and else in parts. So an expanded tensor takes little memory.
///
/// # Errors
///
/// Errors of libtorch when the tensor cannot be read.
pub(crate) fn for_each_part(
    tensor: &Tensor,
    visit: &mut impl FnMut(&[u8]),
) -> Result<(), TchError> {
    if let Ok(bytes) = raw::view(tensor) {
        visit(bytes);
        return Ok(());
    }
    let bytes = tensor.numel() * tensor.f_kind()?.elt_size_in_bytes();
    if bytes <= PART_BYTES {
        visit(raw::view(&on_cpu(tensor)?)?);
        return Ok(());
    }
    let slices = raw::shape(tensor)?[0];
    let count = slices_in_part(bytes / slices as usize) as i64;
    for start in (0..slices).step_by(count as usize) {
        let part = match count {
            1 => tensor.f_select(0, start)?,
            _ => tensor.f_narrow(0, start, count.min(slices - start))?,
        };
        for_each_part(&part, visit)?;
    }
    Ok(())
}

/// Whether gradients are recorded for `tensor`: it requires grad, and grad mode is on.
pub(crate) fn records_gradients(tensor: &Tensor) -> bool {
    tensor.requires_grad() && raw::grad_mode()
}
