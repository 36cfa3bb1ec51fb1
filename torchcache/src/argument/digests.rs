//! [`SharedDigests`]: the digests of shared tensors, kept until the tensors change.

use tch::{Device, TchError, Tensor};
use twox_hash::XxHash3_64;

use super::arguments::TensorArgument;
use crate::identity::is_worth_a_copy;
use crate::tensor::digest::tensor_digest;
use crate::tensor::layout;
use crate::tensor::raw::TensorState;

/// The digests of the shared tensors of recent calls, by their place among the shared arguments.
#[derive(Debug, Default)]
pub(crate) struct SharedDigests(Vec<Vec<KnownTensor>>);

/// How many tensors to keep for each place, the most recent one last: masks of training and of
/// evaluation alternate.
const MAX_KNOWN: usize = 4;

/// A tensor and its digest.
#[derive(Debug)]
struct KnownTensor {
    /// Keeps the storage alive, so that no other tensor gets its address. `None` where `elements`
    /// are known.
    alias: Option<Tensor>,
    /// Version, data pointer, layout, shape and strides.
    fields: Vec<i64>,
    /// A digest of its elements, where they are contiguous on the CPU. The version alone is not
    /// enough: an optimiser writes parameters without changing it.
    elements: Option<u64>,
    digest: [u8; 32],
}

impl KnownTensor {
    /// Whether a tensor of this state is the known one, elements aside. Resizing the known one gives
    /// it another address.
    fn matches(&self, state: &TensorState<'_>) -> bool {
        let alias = self.alias.as_ref();
        self.fields == state.fields()
            && alias.is_none_or(|alias| alias.data_ptr() as i64 == state.pointer())
    }
}

impl SharedDigests {
    /// No digests yet.
    pub(crate) const fn new() -> Self {
        SharedDigests(Vec::new())
    }

    /// The digest of each tensor, in order, over its layout, kind, shape and every stored byte.
    ///
    /// # Errors
    ///
    /// Errors of libtorch when a tensor cannot be read.
    pub(crate) fn digests(&mut self, shared: &[TensorArgument]) -> Result<Vec<[u8; 32]>, TchError> {
        self.0.resize_with(shared.len(), Vec::new);
        let places = shared.iter().zip(&mut self.0);
        places
            .map(|(argument, known)| digest(&argument.tensor, known))
            .collect()
    }
}

fn digest(tensor: &Tensor, known: &mut Vec<KnownTensor>) -> Result<[u8; 32], TchError> {
    let mut state = TensorState::new();
    // Not kept: the tensors of a sparse layout, and elements that are not contiguous on the CPU, may
    // change while the state stays the same.
    if !layout::is_strided(tensor)
        || !state.read(tensor)
        || (state.bytes().is_none()
            && (tensor.device() == Device::Cpu || is_worth_a_copy(tensor, &state)))
    {
        return tensor_digest(tensor);
    }
    let elements = || state.bytes().map(XxHash3_64::oneshot);
    if let Some(place) = known.iter().position(|before| before.matches(&state)) {
        let before = known.remove(place);
        if before.elements == elements() {
            let digest = before.digest;
            known.push(before);
            return Ok(digest);
        }
    }
    if known.len() == MAX_KNOWN {
        known.remove(0);
    }
    // Read before it is hashed, so that the next call notices a change in between.
    let (fields, elements) = (state.fields().to_vec(), elements());
    let digest = tensor_digest(tensor)?;
    let alias = elements.is_none().then(|| tensor.f_detach()).transpose()?;
    known.push(KnownTensor {
        alias,
        fields,
        elements,
        digest,
    });
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argument::Arguments;

    fn digests(memo: &mut SharedDigests, tensors: &[&Tensor]) -> Vec<[u8; 32]> {
        memo.digests(&Arguments::new().with_shared(&tensors).shared)
            .unwrap()
    }

    #[test]
    fn a_digest_is_kept_until_its_tensor_changes() {
        let mut memo = SharedDigests::new();
        let mut ones = Tensor::ones([300, 300], tch::kind::FLOAT_CPU);
        let twos = &ones * 2;
        let first = digests(&mut memo, &[&ones, &twos]);
        memo.0[1][0].digest = [7; 32];
        assert_eq!(digests(&mut memo, &[&ones, &twos]), [first[0], [7; 32]]);
        assert_ne!(digests(&mut memo, &[&ones.view([90_000])])[0], first[0]);
        assert_eq!(digests(&mut memo, &[&ones, &twos]), first);
        let _ = ones.fill_(2.0);
        assert_eq!(digests(&mut memo, &[&ones]), [first[1]]);
        let sparse = twos.to_sparse(None, None::<&[i64]>, None);
        assert_eq!(digests(&mut memo, &[&sparse, &twos])[1], first[1]);
    }

    #[test]
    fn the_last_few_tensors_are_kept() {
        let mut memo = SharedDigests::new();
        let of = |value: i64| Tensor::from_slice(&[value]);
        let tensors: Vec<_> = (0..6).map(of).collect();
        let first = digests(&mut memo, &[&tensors[0]]);
        digests(&mut memo, &[&tensors[1]]);
        memo.0[0][0].digest = [7; 32];
        assert_eq!(digests(&mut memo, &[&tensors[0]]), [[7; 32]]);
        for tensor in &tensors[1..] {
            digests(&mut memo, &[tensor]);
        }
        assert_eq!(memo.0[0].len(), MAX_KNOWN);
        assert_eq!(digests(&mut memo, &[&tensors[0]]), first);
    }

    /// On the CPU every byte is compared, so that no alias is needed.
    #[test]
    fn memory_on_the_cpu_is_not_kept() {
        let mut memo = SharedDigests::new();
        digests(&mut memo, &[&Tensor::zeros([4], tch::kind::FLOAT_CPU)]);
        assert!(memo.0[0][0].alias.is_none());
    }

    #[test]
    fn sparse_tensors_are_hashed_every_time() {
        let mut memo = SharedDigests::new();
        let dense = Tensor::from_slice(&[0.0f32, 3.0, 0.0, 4.0]).view([2, 2]);
        let sparse = dense.to_sparse(None, None::<&[i64]>, None).coalesce();
        let before = digests(&mut memo, &[&sparse]);
        assert_eq!(digests(&mut memo, &[&sparse]), before);
        let _ = sparse.values().fill_(5.0);
        assert_ne!(digests(&mut memo, &[&sparse]), before);
    }
}
