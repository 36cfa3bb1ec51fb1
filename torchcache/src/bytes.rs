//! The memory of tensors as byte slices: the one file of this crate with `unsafe`.
//!
//! Everything else handles tensors through libtorch's own checked calls.

#![expect(
    unsafe_code,
    reason = "tensor memory is only reachable through a raw pointer"
)]

use tch::{Device, TchError, Tensor};

use crate::plain;

/// Calls `read` with the bytes of `tensor`, which must be a plain contiguous CPU tensor.
///
/// # Errors
///
/// A tensor that is not plain, contiguous and on the CPU, and whatever libtorch says.
pub(crate) fn read<R>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> R) -> Result<R, TchError> {
    let length = checked_length(tensor)?;
    if length == 0 {
        return Ok(read(&[]));
    }
    let pointer = non_null(tensor)?;
    // SAFETY: the tensor is plain and contiguous on the CPU, so `length` bytes from `pointer` lie
    // in its storage, which `tensor` keeps alive for the whole call. The storage was allocated by
    // foreign code, so that the compiler cannot take any of it for uninitialised. A concurrent write
    // by another thread through an alias would be a race in the caller's own code, as with any read
    // of a tensor.
    let bytes = unsafe { std::slice::from_raw_parts(pointer, length) };
    Ok(read(bytes))
}

/// Calls `write` with the bytes of `tensor`, which must be a plain contiguous CPU tensor.
///
/// # Errors
///
/// As for [`read`].
pub(crate) fn write<R>(
    tensor: &mut Tensor,
    write: impl FnOnce(&mut [u8]) -> R,
) -> Result<R, TchError> {
    let length = checked_length(tensor)?;
    if length == 0 {
        return Ok(write(&mut []));
    }
    let pointer = non_null(tensor)?;
    // SAFETY: as in `read`; and callers pass tensors that they have just made and not yet shared,
    // so the slice is the only access to that storage while `write` runs.
    let bytes = unsafe { std::slice::from_raw_parts_mut(pointer, length) };
    Ok(write(bytes))
}

fn checked_length(tensor: &Tensor) -> Result<usize, TchError> {
    let kind = tensor.f_kind()?;
    if tensor.device() != Device::Cpu || !plain::is_plain(tensor) || !tensor.is_contiguous() {
        return Err(TchError::Shape(
            "expected a plain contiguous CPU tensor".into(),
        ));
    }
    tensor
        .numel()
        .checked_mul(kind.elt_size_in_bytes())
        .ok_or_else(|| TchError::Shape("tensor larger than the address space".into()))
}

fn non_null(tensor: &Tensor) -> Result<*mut u8, TchError> {
    let pointer = tensor.data_ptr().cast::<u8>();
    if pointer.is_null() {
        return Err(TchError::Shape("tensor without storage".into()));
    }
    Ok(pointer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_elements() {
        let tensor = Tensor::from_slice(&[1i32, -1]);
        let bytes = read(&tensor, <[u8]>::to_vec).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn written_bytes_become_elements() {
        let mut tensor = Tensor::zeros([2], (tch::Kind::Int, Device::Cpu));
        write(&mut tensor, |bytes| bytes[4] = 7).unwrap();
        assert_eq!(Vec::<i32>::try_from(&tensor).unwrap(), [0, 7]);
    }

    #[test]
    fn empty_tensors_have_no_bytes() {
        let tensor = Tensor::zeros([0, 3], tch::kind::FLOAT_CPU);
        assert_eq!(read(&tensor, <[u8]>::len).unwrap(), 0);
    }

    #[test]
    fn strided_tensors_are_refused() {
        let tensor = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU).tr();
        assert!(read(&tensor, |_| ()).is_err());
    }
}
