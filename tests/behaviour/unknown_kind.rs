//! A tensor of a kind that tch has no name for: the one file of this package with `unsafe`.

#![expect(
    unsafe_code,
    reason = "tch itself cannot make a tensor of a kind it does not know"
)]

use tch::Tensor;

/// libtorch's code of unsigned 16-bit integers.
const UINT16: i32 = 27;

/// Four rows of two `uint16`s.
pub(crate) fn tensor() -> Tensor {
    let data = [1u16; 8];
    let shape = [4i64, 2];
    // SAFETY: the element size, count and shape are those of `data`, which libtorch copies; the
    // returned pointer is owned by nobody else.
    let tensor = unsafe {
        Tensor::from_ptr(torch_sys::at_tensor_of_data(
            data.as_ptr().cast(),
            shape.as_ptr(),
            shape.len(),
            size_of::<u16>(),
            UINT16,
        ))
    };
    assert!(tensor.defined());
    tensor
}
