//! Parameters marked `#[shared]`: tensors without a batch, which are the same for all rows.

use tch::Tensor;

use super::{Arguments, TensorArgument};
use crate::identity::{Watcher, tensor_digest};
use crate::plain;

/// A tensor that a parameter marked `#[shared]` takes: `&Tensor`, `Tensor`, `Option<&Tensor>`,
/// `Option<Tensor>`, `&[Tensor]` or `&[&Tensor]`, of any shape, kind and layout.
///
/// It is not cut into rows but given to the body as it is, and all of it goes into the key of every row.
/// It is hashed once, and again when it is another one or has changed; a write through a raw pointer is
/// not seen, and wants [`refresh`](crate::TorchCache::refresh). Until the next call the cache holds on
/// to its memory.
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

/// The digests of the shared tensors of the last call.
#[derive(Debug, Default)]
pub(crate) struct SharedDigests(Vec<Option<Remembered>>);

#[derive(Debug)]
struct Remembered {
    /// Of the tensor whose digest it is. It holds on to the storage, so that no other tensor can have
    /// that address meanwhile.
    watcher: Watcher,
    digest: [u8; 32],
}

impl SharedDigests {
    /// No digests yet.
    pub(crate) const fn new() -> Self {
        SharedDigests(Vec::new())
    }

    /// The digest of each tensor, in order: of its kind, its shape and every byte of its elements.
    pub(crate) fn of(&mut self, shared: &[TensorArgument]) -> Vec<[u8; 32]> {
        self.0.resize_with(shared.len(), || None);
        let digest = |(argument, place): (&TensorArgument, &mut Option<Remembered>)| {
            let tensor = &argument.tensor;
            // Parts of a packed layout may change without it.
            if !plain::is_plain(tensor) {
                *place = None;
                return tensor_digest(tensor);
            }
            if place.as_mut().is_none_or(|before| !before.is_of(tensor)) {
                *place = None; // the old memory goes first
            }
            place.get_or_insert_with(|| Remembered::new(tensor)).digest
        };
        shared.iter().zip(&mut self.0).map(digest).collect()
    }
}

impl Remembered {
    fn new(tensor: &Tensor) -> Self {
        let mut watcher = Watcher::new();
        // First, so that a change while it is hashed is noticed at the next call.
        watcher.record();
        watcher.tensor(tensor);
        Remembered {
            watcher,
            digest: tensor_digest(tensor),
        }
    }

    fn is_of(&mut self, tensor: &Tensor) -> bool {
        self.watcher.compare();
        self.watcher.tensor(tensor);
        !self.watcher.finish().changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(memo: &mut SharedDigests, tensors: &[&Tensor]) -> Vec<[u8; 32]> {
        memo.of(&Arguments::new().with_shared(&tensors).shared)
    }

    #[test]
    fn a_digest_is_kept_until_its_tensor_is_another_one_or_changes() {
        let mut memo = SharedDigests::new();
        let mut ones = Tensor::ones([300, 300], tch::kind::FLOAT_CPU);
        let twos = &ones * 2;
        let first = digests(&mut memo, &[&ones, &twos]);
        memo.0[1].as_mut().unwrap().digest = [7; 32];
        assert_eq!(digests(&mut memo, &[&ones, &twos]), [first[0], [7; 32]]);
        assert_eq!(digests(&mut memo, &[&ones.view([90_000])]).len(), 1);
        assert_eq!(digests(&mut memo, &[&ones, &twos]), first);
        let _ = ones.fill_(2.0);
        assert_eq!(digests(&mut memo, &[&ones]), [first[1]]);
        let sparse = twos.to_sparse(None, None::<&[i64]>, None);
        assert_eq!(digests(&mut memo, &[&sparse, &twos])[1], first[1]);
    }

    #[test]
    fn another_tensor_in_freed_memory_is_not_taken_for_the_first() {
        let mut memo = SharedDigests::new();
        let of = |memo: &mut SharedDigests, value: f64| {
            digests(
                memo,
                &[&Tensor::full([64, 1024], value, tch::kind::FLOAT_CPU)],
            )
        };
        let seen: Vec<_> = (0..20)
            .map(|value| of(&mut memo, f64::from(value)))
            .collect();
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), 20);
    }

    #[test]
    fn parts_of_a_packed_layout_are_looked_at_each_time() {
        let mut memo = SharedDigests::new();
        let dense = Tensor::from_slice(&[0.0f32, 3.0, 0.0, 4.0]).view([2, 2]);
        let sparse = dense.to_sparse(None, None::<&[i64]>, None).coalesce();
        let before = digests(&mut memo, &[&sparse]);
        assert_eq!(digests(&mut memo, &[&sparse]), before);
        let _ = sparse.values().fill_(5.0);
        assert_ne!(digests(&mut memo, &[&sparse]), before);
    }
}
