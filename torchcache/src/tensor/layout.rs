//! Plain tensors: strided memory of a known kind, which is all that rows can be cut from.

use tch::{Device, Kind, TchError, Tensor};

/// Whether the tensor is strided memory of a kind this crate knows: not sparse, not quantized,
/// not in an opaque layout.
pub(crate) fn is_strided(tensor: &Tensor) -> bool {
    tensor.defined()
        && matches!(tensor.f_kind(), Ok(kind) if !matches!(kind, Kind::QInt8 | Kind::QUInt8 | Kind::QInt32))
        && !tensor.is_mkldnn()
        && !is_sparse(tensor)
}

/// Whether a tensor that is defined stores some of its elements only, in tensors of its own.
pub(crate) fn is_sparse(tensor: &Tensor) -> bool {
    // The compressed layouts (CSR and its kin) are not `is_sparse`, but have sparse dimensions.
    tensor.is_sparse() || matches!(tensor.f_sparse_dim(), Ok(dimensions) if dimensions > 0)
}

/// The same elements as contiguous memory of the tensor's own device, without a pending
/// conjugation or negation: those are views whose bytes are not their values.
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

/// The same elements as contiguous memory on the CPU.
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
/// tch has no way to ask for the grad mode, so an operation is asked whether it was recorded. A
/// view would not tell: views of a leaf say that they require grad in either mode.
pub(crate) fn records_gradients(tensor: &Tensor) -> bool {
    let recorded = || {
        let little = if tensor.dim() == 0 {
            tensor.shallow_clone()
        } else {
            tensor.f_narrow(0, 0, 0)?
        };
        little.f_mul_scalar(1)
    };
    if !tensor.requires_grad() {
        return false;
    }
    match recorded() {
        Ok(product) => product.requires_grad(),
        // A layout that cannot be narrowed. Grad mode is one for all tensors.
        Err(_) => Tensor::from_slice(&[0.0f32])
            .f_set_requires_grad(true)
            .and_then(|leaf| leaf.f_mul_scalar(1))
            .map_or(true, |product| product.requires_grad()),
    }
}
