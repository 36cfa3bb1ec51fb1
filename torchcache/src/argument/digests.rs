//! [`SharedDigests`]: the digests of shared tensors, kept until the tensors change.

use tch::{Device, TchError, Tensor};
use twox_hash::XxHash3_64;

use super::arguments::TensorArgument;
use crate::identity::{is_worth_a_copy, tensor_digest};
use crate::tensor::layout;
use crate::tensor::raw::Glance;

/// The digests of shared tensors, for the last calls.
#[derive(Debug, Default)]
pub(crate) struct SharedDigests(Vec<Vec<Remembered>>);

/// So many tensors are remembered for each place, the last one at the end: masks of training and of
/// evaluation take turns.
const REMEMBERED: usize = 4;

/// A tensor and its digest.
#[derive(Debug)]
struct Remembered {
    /// Holds on to the storage, so that no other tensor can have that address meanwhile. Not needed
    /// where the elements are known.
    alias: Option<Tensor>,
    /// Version, data pointer, layout, shape and strides.
    words: Vec<i64>,
    /// Of its elements, where they are bytes on the CPU. The version does not tell everything: an
    /// optimiser writes parameters without counting.
    elements: Option<u64>,
    digest: [u8; 32],
}

impl Remembered {
    /// Whether this is the tensor that was looked at, as far as can be told without its elements. One
    /// that was resized has let go of its address.
    fn is(&self, glance: &Glance<'_>) -> bool {
        let alias = self.alias.as_ref();
        self.words == glance.words()
            && alias.is_none_or(|alias| alias.data_ptr() as i64 == glance.pointer())
    }
}

impl SharedDigests {
    /// No digests yet.
    pub(crate) const fn new() -> Self {
        SharedDigests(Vec::new())
    }

    /// The digest of each tensor, in order: of its layout, kind, shape and every byte that it stores.
    ///
    /// # Errors
    ///
    /// Whatever libtorch says when a tensor cannot be read.
    pub(crate) fn digests(&mut self, shared: &[TensorArgument]) -> Result<Vec<[u8; 32]>, TchError> {
        self.0.resize_with(shared.len(), Vec::new);
        let places = shared.iter().zip(&mut self.0);
        places
            .map(|(argument, remembered)| digest(&argument.tensor, remembered))
            .collect()
    }
}

fn digest(tensor: &Tensor, remembered: &mut Vec<Remembered>) -> Result<[u8; 32], TchError> {
    let mut glance = Glance::none();
    // The parts of a packed layout may change without it, and so may what lies on the CPU in another
    // order than that of its elements.
    if !layout::is_strided(tensor)
        || !glance.at(tensor)
        || (glance.bytes().is_none()
            && (tensor.device() == Device::Cpu || is_worth_a_copy(tensor, &glance)))
    {
        return tensor_digest(tensor);
    }
    let elements = || glance.bytes().map(XxHash3_64::oneshot);
    if let Some(place) = remembered.iter().position(|before| before.is(&glance)) {
        let before = remembered.remove(place);
        if before.elements == elements() {
            let digest = before.digest;
            remembered.push(before);
            return Ok(digest);
        }
    }
    if remembered.len() == REMEMBERED {
        remembered.remove(0);
    }
    // Before it is hashed, so that a change meanwhile is noticed at the next call.
    let (words, elements) = (glance.words().to_vec(), elements());
    let digest = tensor_digest(tensor)?;
    let alias = elements.is_none().then(|| tensor.f_detach()).transpose()?;
    remembered.push(Remembered {
        alias,
        words,
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
    fn tensors_that_take_turns_are_hashed_once_and_of_many_the_last_are_kept() {
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
        assert_eq!(memo.0[0].len(), REMEMBERED);
        assert_eq!(digests(&mut memo, &[&tensors[0]]), first);
    }

    /// As `nn::Sgd` does it: a parameter is written through an alias that does not count.
    #[test]
    fn one_element_of_many_that_is_written_without_counting_is_noticed() {
        let mut memo = SharedDigests::new();
        let table = Tensor::zeros([1 << 20], tch::kind::FLOAT_CPU);
        let before = digests(&mut memo, &[&table]);
        let (version, mut alias) = (table.internal_version(), table.data());
        let _ = alias.get(777_777).fill_(1.0);
        assert_eq!(table.internal_version(), version);
        assert_ne!(digests(&mut memo, &[&table]), before);
        let _ = alias.zero_();
        assert_eq!(digests(&mut memo, &[&table]), before);
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

    /// Every byte of it is compared, so another tensor at its address is noticed without.
    #[test]
    fn no_memory_of_the_cpu_is_held() {
        let mut memo = SharedDigests::new();
        digests(&mut memo, &[&Tensor::zeros([4], tch::kind::FLOAT_CPU)]);
        assert!(memo.0[0][0].alias.is_none());
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
