//! [`SharedArgument`]: parameters marked `#[shared]`, tensors that are the same for all rows.

use tch::Tensor;

use super::arguments::Arguments;
use super::rows::SelectedRows;

/// A tensor that a parameter marked `#[shared]` takes: `&Tensor`, `Tensor`, `Option<&Tensor>`,
/// `Option<Tensor>`, `&[Tensor]` or `&[&Tensor]`, of any shape and kind; dense, sparse or quantized.
///
/// It is not cut into rows but given to the body as it is, and all of it goes into the key of every row:
/// of a sparse one, what it stores. It is hashed when it is another one or has changed, which every call
/// looks for: on the CPU by reading all of it, elsewhere by its version and address. What is not contiguous
/// on the CPU, what is sparse or quantized, and on another device what is smaller than 64 KiB, requires grad
/// or has a gradient, is hashed at every call. Anything else on another device may be written so that libtorch
/// does not count it (through a raw pointer, `Tensor::data()`, or by `nn::Sgd` under a detached alias): that
/// is not seen, and wants [`refresh`](crate::TorchCache::refresh). There the cache also holds on to the memory
/// of the last four tensors of a parameter, beyond its bound, until [`clear`](crate::TorchCache::clear).
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
/// assert_eq!(masked::cache().stats().memory_hits, 4);
/// let _ = mask.fill_(0.0);
/// masked(&xs, &mask);
/// assert_eq!(masked::cache().stats().misses, 16);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a shared argument",
    label = "not a tensor",
    note = "a parameter marked `#[shared]` is `&Tensor`, `Option<&Tensor>` or `&[Tensor]`; plain arguments are the same for all rows without it"
)]
pub trait SharedArgument: Sized {
    #[doc(hidden)]
    fn describe(&self, arguments: &mut Arguments);

    /// The same once more, for the body.
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

impl SharedArgument for &Tensor {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.shared_tensors([*self].into_iter());
    }

    fn pass(&self) -> Self {
        self
    }
}

impl SharedArgument for Tensor {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.shared_tensors([self].into_iter());
    }

    fn pass(&self) -> Self {
        self.shallow_clone()
    }
}

impl SharedArgument for Option<&Tensor> {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.shared_tensors(self.iter().copied());
    }

    fn pass(&self) -> Self {
        *self
    }
}

impl SharedArgument for Option<Tensor> {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.shared_tensors(self.iter());
    }

    fn pass(&self) -> Self {
        self.as_ref().map(Tensor::shallow_clone)
    }
}

impl SharedArgument for &[Tensor] {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.shared_tensors(self.iter());
    }

    fn pass(&self) -> Self {
        self
    }
}

impl SharedArgument for &[&Tensor] {
    fn describe(&self, arguments: &mut Arguments) {
        arguments.shared_tensors(self.iter().copied());
    }

    fn pass(&self) -> Self {
        self
    }
}
