//! Plain tensors: strided memory of a known kind, which is all that rows can be cut from.

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema::ElementKind;

/// Whether the tensor is strided memory of a kind this crate knows: not sparse, not quantized,
/// not in an opaque layout.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
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
pub(crate) fn materialised(tensor: &Tensor) -> Result<Tensor, TchError> {
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
    let tensor = materialised(tensor)?;
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

/// The stable code of a kind in keys and schemas, which is libtorch's. Never reuse one.
pub(crate) fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::ComplexHalf => 8,
        Kind::ComplexFloat => 9,
        Kind::ComplexDouble => 10,
        Kind::Bool => 11,
        Kind::QInt8 => 12,
        Kind::QUInt8 => 13,
        Kind::QInt32 => 14,
        Kind::BFloat16 => 15,
        Kind::Float8e5m2 => 23,
        Kind::Float8e4m3fn => 24,
        Kind::Float8e5m2fnuz => 25,
        Kind::Float8e4m3fnuz => 26,
    }
}

/// The kind of elements that rows may have; `None` for the quantized ones.
pub(crate) fn element(kind: Kind) -> Option<ElementKind> {
    ElementKind::of_code(kind_code(kind))
}

/// The same in tch's words.
pub(crate) fn kind_of(element: ElementKind) -> Kind {
    match element {
        ElementKind::Uint8 => Kind::Uint8,
        ElementKind::Int8 => Kind::Int8,
        ElementKind::Int16 => Kind::Int16,
        ElementKind::Int => Kind::Int,
        ElementKind::Int64 => Kind::Int64,
        ElementKind::Half => Kind::Half,
        ElementKind::Float => Kind::Float,
        ElementKind::Double => Kind::Double,
        ElementKind::ComplexHalf => Kind::ComplexHalf,
        ElementKind::ComplexFloat => Kind::ComplexFloat,
        ElementKind::ComplexDouble => Kind::ComplexDouble,
        ElementKind::Bool => Kind::Bool,
        ElementKind::BFloat16 => Kind::BFloat16,
        ElementKind::Float8e5m2 => Kind::Float8e5m2,
        ElementKind::Float8e4m3fn => Kind::Float8e4m3fn,
        ElementKind::Float8e5m2fnuz => Kind::Float8e5m2fnuz,
        ElementKind::Float8e4m3fnuz => Kind::Float8e4m3fnuz,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_comes_back_from_its_element_and_is_as_wide() {
        for element in ElementKind::ALL {
            let kind = kind_of(element);
            assert_eq!(super::element(kind), Some(element));
            assert_eq!(kind.elt_size_in_bytes(), element.size());
        }
        assert_eq!(element(Kind::QInt8), None);
    }
}
