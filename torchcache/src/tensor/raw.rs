//! Tensors as raw memory: their bytes, and what tells one tensor from another.
//!
//! Everything else handles tensors through libtorch's checked calls.

#![expect(
    unsafe_code,
    reason = "tensor memory is only reachable through a raw pointer"
)]

use std::marker::PhantomData;

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::schema::ElementKind;

use crate::tensor::layout;

/// The bytes of `tensor`, which must be a plain contiguous CPU tensor.
///
/// # Errors
///
/// A tensor that is not plain, contiguous and on the CPU, and whatever libtorch says.
pub(crate) fn view(tensor: &Tensor) -> Result<&[u8], TchError> {
    let mut glance = Glance::none();
    if glance.at(tensor) {
        if let Some(bytes) = glance.bytes() {
            return Ok(bytes);
        }
        // Without elements there is no memory to point to.
        if tensor.numel() == 0 && tensor.device() == Device::Cpu && layout::is_strided(tensor) {
            return Ok(&[]);
        }
    }
    Err(TchError::Shape(
        "expected a plain contiguous CPU tensor".into(),
    ))
}

/// A new contiguous CPU tensor whose bytes `write` gives: all of them.
///
/// # Errors
///
/// Whatever libtorch says, memory that cannot be had above all.
pub(crate) fn tensor(
    shape: &[i64],
    kind: Kind,
    write: impl FnOnce(&mut [u8]),
) -> Result<Tensor, TchError> {
    written(shape, kind, write).map(|(tensor, ())| tensor)
}

/// As [`tensor`], with what `write` returns.
///
/// # Errors
///
/// As for [`tensor`].
pub(crate) fn written<R>(
    shape: &[i64],
    kind: Kind,
    write: impl FnOnce(&mut [u8]) -> R,
) -> Result<(Tensor, R), TchError> {
    let tensor = Tensor::f_empty(shape, (kind, Device::Cpu))?;
    let elements = shape.iter().product::<i64>() as usize;
    let length = elements * kind.elt_size_in_bytes();
    let result = if length == 0 {
        write(&mut [])
    } else {
        let pointer = non_null(&tensor)?;
        // SAFETY: libtorch has just made the tensor, contiguous and with as many elements of this
        // size as the shape says (a product that overflows is refused by it), so `length` bytes
        // from `pointer` are its storage. Nobody else knows it yet, so the slice is the only access
        // while `write` runs. The storage was allocated by foreign code, so that the compiler cannot take
        // any of it for uninitialised.
        write(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
    };
    Ok((tensor, result))
}

fn non_null(tensor: &Tensor) -> Result<*mut u8, TchError> {
    let pointer = tensor.data_ptr().cast::<u8>();
    if pointer.is_null() {
        return Err(TchError::Shape("tensor without storage".into()));
    }
    Ok(pointer)
}

/// What tells a tensor from another one, or from itself before it was changed, short of its
/// elements. Taken on every call for every weight, so by libtorch's plain getters: tch's own put
/// shapes and strides into vectors, and take four times as long.
#[derive(Debug)]
pub(crate) struct Glance<'t> {
    tensor: PhantomData<&'t Tensor>,
    requires_grad: bool,
    rank: usize,
    /// Version, data pointer, layout and rank, then shape and strides.
    words: [i64; HEAD + 2 * RANK],
    /// The words of a tensor of more dimensions.
    more: Vec<i64>,
}

/// The words before the shape.
const HEAD: usize = 4;

/// Tensors seldom have more dimensions.
const RANK: usize = 6;

impl<'t> Glance<'t> {
    /// Nothing looked at yet.
    pub(crate) fn none() -> Self {
        Glance {
            tensor: PhantomData,
            requires_grad: false,
            rank: 0,
            words: [0; HEAD + 2 * RANK],
            more: Vec::new(),
        }
    }

    /// Looks at a tensor; `false` where it is undefined. Once for each glance: handing one out
    /// instead would copy what was just written, which takes longer than to write it.
    pub(crate) fn at(&mut self, tensor: &'t Tensor) -> bool {
        // Inference tensors keep no version: they cannot change outside inference mode either.
        let version = tensor.f_internal_version().unwrap_or(0);
        let raw = tensor.as_ptr().cast_mut();
        // SAFETY: `raw` is the live C++ tensor of `tensor`, and this does not change it. It is the
        // function that tch's own getter calls.
        let pointer = unsafe { torch_sys::at_data_ptr(raw) };
        if pointer.is_null() {
            // Asking a layout without one block of memory left an error, which the next fallible
            // call would take for its own.
            let _ = tensor.f_internal_version();
            if !tensor.defined() {
                return false;
            }
        }
        // SAFETY: as above. `at_shape` and `at_stride` write `at_dim` numbers each, for which there
        // is room.
        unsafe {
            self.requires_grad = torch_sys::at_requires_grad(raw) != 0;
            self.rank = torch_sys::at_dim(raw);
            let rank = self.rank;
            let words = if rank > RANK {
                self.more = vec![0; HEAD + 2 * rank];
                &mut self.more[..]
            } else {
                &mut self.words
            };
            let pending = torch_sys::c_generated::atg_is_conj(raw)
                | torch_sys::c_generated::atg_is_neg(raw) << 1;
            words[0] = version;
            words[1] = pointer as i64;
            words[2] = layout(
                torch_sys::at_scalar_type(raw),
                torch_sys::at_device(raw),
                pending,
            );
            words[3] = rank as i64;
            torch_sys::at_shape(raw, words[HEAD..].as_mut_ptr());
            if !pointer.is_null() {
                torch_sys::at_stride(raw, words[HEAD + rank..].as_mut_ptr());
            }
        }
        true
    }

    /// Everything but whether it requires grad, as numbers. The data pointer is null, and strides
    /// are zeros, where the layout has no one block of memory.
    pub(crate) fn words(&self) -> &[i64] {
        match self.rank {
            0..=RANK => &self.words[..HEAD + 2 * self.rank],
            _ => &self.more,
        }
    }

    /// Where the data is.
    pub(crate) fn pointer(&self) -> i64 {
        self.words()[1]
    }

    pub(crate) fn requires_grad(&self) -> bool {
        self.requires_grad
    }

    pub(crate) fn is_scalar(&self) -> bool {
        self.rank == 0
    }

    /// The bytes of the tensor, if they are its values, one after the other in memory of the CPU.
    pub(crate) fn bytes(&self) -> Option<&'t [u8]> {
        const CPU: i32 = -1;
        let &[_, pointer, here, _, ref extents @ ..] = self.words() else {
            return None;
        };
        let kind = ElementKind::from_code((here >> 32) as u8)?;
        if pointer == 0 || here != layout((here >> 32) as i32, CPU, 0) {
            return None;
        }
        let (shape, strides) = extents.split_at(self.rank);
        let mut elements = 1;
        for (&extent, &stride) in shape.iter().zip(strides).rev() {
            if extent != 1 && stride != elements {
                return None;
            }
            elements *= extent;
        }
        let length = elements as usize * kind.size();
        // SAFETY: the tensor is borrowed since it was glanced at, so its storage is alive for as long
        // as the slice. It has a data pointer, which only layouts of one block of memory have, on the
        // CPU; its strides say that its `elements` elements lie there without a gap. The storage was
        // allocated by foreign code, so that the compiler cannot take any of it for uninitialised. A
        // concurrent write by another thread through an alias would be a race in the caller's own
        // code, as with any read of a tensor; this crate does not write to what it views.
        Some(unsafe { std::slice::from_raw_parts(pointer as *const u8, length) })
    }
}

/// Kind, device, and pending conjugation (1) or negation (2): then the bytes are not the values.
fn layout(kind: i32, device: i32, pending: i32) -> i64 {
    i64::from(kind) << 32 | i64::from(device as u16) << 8 | i64::from(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(tensor: &Tensor) -> Glance<'_> {
        let mut glance = Glance::none();
        assert!(glance.at(tensor));
        glance
    }

    #[test]
    fn bytes_are_those_of_the_elements() {
        let tensor = Tensor::from_slice(&[1i32, -1]);
        assert_eq!(view(&tensor).unwrap(), [1, 0, 0, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn written_bytes_become_elements() {
        let write = |bytes: &mut [u8]| bytes.copy_from_slice(&[0, 0, 0, 0, 7, 0, 0, 0]);
        let made = tensor(&[2], Kind::Int, write).unwrap();
        assert_eq!(Vec::<i32>::try_from(&made).unwrap(), [0, 7]);
    }

    #[test]
    fn empty_tensors_have_no_bytes() {
        let none = tensor(&[0, 3], Kind::Float, |bytes| assert!(bytes.is_empty())).unwrap();
        assert_eq!(none.size(), [0, 3]);
        assert!(view(&none).unwrap().is_empty());
    }

    #[test]
    fn strided_tensors_are_refused() {
        let tensor = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU).tr();
        assert!(view(&tensor).is_err());
    }

    #[test]
    fn a_glance_gives_the_bytes_of_contiguous_values_and_of_nothing_else() {
        let tensor = Tensor::from_slice(&[1i16, 2, 3, 4]).view([2, 2]);
        assert_eq!(glance(&tensor).bytes(), Some(view(&tensor).unwrap()));
        let second = tensor.narrow(0, 1, 1);
        assert_eq!(glance(&second).bytes(), Some([3, 0, 4, 0].as_slice()));
        assert_eq!(glance(&tensor.tr()).bytes(), None);
        assert_eq!(
            glance(&Tensor::zeros([0], tch::kind::FLOAT_CPU)).bytes(),
            None
        );
        let complex = Tensor::complex(&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[2f32]));
        assert!(glance(&complex).bytes().is_some());
        assert_eq!(glance(&complex.conj()).bytes(), None);
        assert_eq!(glance(&complex.conj().imag()).bytes(), None);
    }

    #[test]
    fn a_glance_at_a_sparse_tensor_leaves_no_error_behind() {
        let sparse = Tensor::eye(3, tch::kind::FLOAT_CPU).to_sparse(None, None::<i64>, None);
        let glance = glance(&sparse);
        assert!(glance.bytes().is_none());
        assert!(
            Tensor::zeros([1], tch::kind::FLOAT_CPU)
                .f_add_scalar(1)
                .is_ok()
        );
    }

    #[test]
    fn an_undefined_tensor_is_not_to_be_seen() {
        assert!(!Glance::none().at(&Tensor::new()));
    }

    #[test]
    fn tensors_of_many_dimensions_are_glanced_at_whole() {
        let words = |tensor: &Tensor| glance(tensor).words().to_vec();
        let tensor = Tensor::zeros([1, 1, 1, 1, 1, 1, 1, 2, 3], tch::kind::FLOAT_CPU);
        assert_eq!(words(&tensor).len(), 4 + 2 * 9);
        assert_ne!(words(&tensor), words(&tensor.transpose(7, 8)));
        assert_eq!(glance(&tensor).bytes().map(<[u8]>::len), Some(24));
    }
}
