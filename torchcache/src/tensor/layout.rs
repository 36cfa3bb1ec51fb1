//! Layouts: which tensors rows can be cut from, and their elements as contiguous memory.

use tch::{Device, Kind, TchError, Tensor};

/// Whether the tensor is strided memory of a known kind: not sparse, not quantized, not in an opaque
/// layout.
pub(crate) fn is_strided(tensor: &Tensor) -> bool {
    tensor.defined()
        && matches!(tensor.f_kind(), Ok(kind) if !matches!(kind, Kind::QInt8 | Kind::QUInt8 | Kind::QInt32))
        && !tensor.is_mkldnn()
        && !is_sparse(tensor)
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

/// Whether gradients are recorded for `tensor`: it requires grad, and grad mode is on.
///
/// tch has no getter for the grad mode, so this runs an operation and checks whether it was
/// recorded. Not a view: views of a leaf require grad in either mode.
pub(crate) fn records_gradients(tensor: &Tensor) -> bool {
    let recorded = || {
        let small = if tensor.dim() == 0 {
            tensor.shallow_clone()
        } else {
            tensor.f_narrow(0, 0, 0)?
        };
        small.f_mul_scalar(1)
    };
    if !tensor.requires_grad() {
        return false;
    }
    match recorded() {
        Ok(product) => product.requires_grad(),
        // A layout that cannot be narrowed. The grad mode is the same for every tensor.
        Err(_) => Tensor::from_slice(&[0.0f32])
            .f_set_requires_grad(true)
            .and_then(|leaf| leaf.f_mul_scalar(1))
            .map_or(true, |product| product.requires_grad()),
    }
}
