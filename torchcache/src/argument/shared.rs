//! [`SharedArgument`]: parameters marked `#[shared]`, tensors that are the same for all rows.

use tch::Tensor;

use super::arguments::Arguments;
use super::rows::SelectedRows;

/// A tensor that a parameter marked `#[shared]` takes: `&Tensor`, `Tensor`, `Option<&Tensor>`,
/// `Option<Tensor>`, `&[Tensor]`, `&[&Tensor]`, `&Vec<Tensor>` or `Vec<Tensor>`, of any shape and kind; dense, sparse
/// or quantized.
///
/// It is not cut into rows but passed to the body as it is, and its content is part of the key of every
/// row. On the CPU every call hashes all of it. On other devices it is hashed when its version or address
/// is another one, and at every call where it is sparse or quantized, below 64 KiB, requires grad or has a
/// gradient.
///
/// With [`TORCHCACHE_DEVICE_HASHING`](crate#environment), every call has a CUDA device hash all of it, as on the CPU.
/// Without it, a write to any other tensor on another device that does not change its version (through a raw pointer,
/// `Tensor::data()`, or by `nn::Sgd` under a detached alias) goes unnoticed: call
/// [`refresh`](crate::TorchCache::refresh) after it. For such tensors the cache also keeps the memory of the
/// last four of each parameter alive, beyond its bound, until [`clear`](crate::TorchCache::clear).
///
/// ```
/// use tch::Tensor;
/// use torchcache::torchcache;
///
/// #[torchcache]
/// fn masked(xs: &Tensor, #[shared] mask: &Tensor) -> Tensor {
///     xs * mask
/// }
///
/// let xs = Tensor::rand([8, 3], tch::kind::FLOAT_CPU);
/// let mut mask = Tensor::from_slice(&[1.0f32, 0.0, 1.0]);
/// masked(&xs, &mask);
/// masked(&xs.narrow(0, 0, 4), &mask);
/// assert_eq!(masked_cache().stats().memory.hits, 4);
/// let _ = mask.fill_(0.0);
/// masked(&xs, &mask);
/// assert_eq!(masked_cache().stats().misses, 16);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a shared argument",
    label = "neither a tensor nor a list of them",
    note = "a parameter marked `#[shared]` is `&Tensor`, `Option<&Tensor>`, `&[Tensor]` or `&Vec<Tensor>`; plain arguments and layers are the same for all rows without it"
)]
pub trait SharedArgument: Sized {
    #[doc(hidden)]
    fn describe(&self, arguments: &mut Arguments);

    /// The value for the body.
    #[doc(hidden)]
    fn pass(&self) -> Self;
}

impl Arguments<'_> {
    /// Adds an argument that is marked `#[shared]`.
    #[must_use]
    pub fn with_shared<A: SharedArgument>(mut self, argument: &A) -> Self {
        argument.describe(&mut self);
        self.next()
    }
}

impl SelectedRows {
    /// A shared argument, which is the same for all rows.
    pub fn shared<A: SharedArgument>(&self, argument: &A) -> A {
        argument.pass()
    }
}

/// Implements `SharedArgument` by the tensors of an argument, and the value for the body.
macro_rules! shared_arguments {
    ($($type:ty: |$argument:ident| $tensors:expr, $passed:expr;)*) => {$(
        impl SharedArgument for $type {
            fn describe(&self, arguments: &mut Arguments) {
                let $argument = self;
                arguments.shared_tensors($tensors);
            }

            fn pass(&self) -> Self {
                let $argument = self;
                $passed
            }
        }
    )*};
}

shared_arguments! {
    &Tensor: |tensor| [*tensor].into_iter(), *tensor;
    Tensor: |tensor| [tensor].into_iter(), tensor.shallow_clone();
    Option<&Tensor>: |tensor| tensor.iter().copied(), *tensor;
    Option<Tensor>: |tensor| tensor.iter(), tensor.as_ref().map(Tensor::shallow_clone);
    &[Tensor]: |tensors| tensors.iter(), *tensors;
    &[&Tensor]: |tensors| tensors.iter().copied(), *tensors;
    &Vec<Tensor>: |tensors| tensors.iter(), *tensors;
    Vec<Tensor>: |tensors| tensors.iter(), tensors.iter().map(Tensor::shallow_clone).collect();
}
