//! [`SharedDigests`]: the digests of shared tensors. Those of tensors on a device are kept until they
//! change; memory of the CPU is hashed at every call.

use tch::{Device, TchError, Tensor};

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

/// A tensor on a device, and its digest.
#[derive(Debug)]
struct KnownTensor {
    /// Keeps the storage alive, so that no other tensor gets its address.
    alias: Tensor,
    /// Version, data pointer, layout, shape and strides.
    fields: Vec<i64>,
    digest: [u8; 32],
}

impl KnownTensor {
    /// Whether a tensor of this state is the known one. Resizing the known one gives it another address.
    fn matches(&self, state: &TensorState<'_>) -> bool {
        self.fields == state.fields() && self.alias.data_ptr() as i64 == state.pointer()
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
    // Memory of the CPU, and the tensors of a sparse layout, may change while the state stays the same.
    if !layout::is_strided(tensor)
        || !state.read(tensor)
        || tensor.device() == Device::Cpu
        || is_worth_a_copy(tensor, &state)
    {
        return tensor_digest(tensor);
    }
    if let Some(place) = known.iter().position(|before| before.matches(&state)) {
        let before = known.remove(place);
        let digest = before.digest;
        known.push(before);
        return Ok(digest);
    }
    if known.len() == MAX_KNOWN {
        known.remove(0);
    }
    // Read before it is hashed, so that the next call notices a change in between.
    let fields = state.fields().to_vec();
    let digest = tensor_digest(tensor)?;
    let alias = tensor.f_detach()?;
    known.push(KnownTensor {
        alias,
        fields,
        digest,
    });
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argument::Arguments;
    use twox_hash::XxHash3_64;

    fn digests(known: &mut SharedDigests, tensors: &[&Tensor]) -> Vec<[u8; 32]> {
        known
            .digests(&Arguments::new().with_shared(&tensors).shared)
            .unwrap()
    }

    /// Two tables that unseeded XXH3 does not distinguish: where the low half of a word is that of the
    /// public secret, its product is zero, and only the sum of the words counts.
    fn colliding_tables() -> [Tensor; 2] {
        let table = |shift: i64| {
            let mut words = [0i64; 64];
            words[0] = (100 + shift) << 32 | 0x396c_feb8;
            words[8] = (200 - shift) << 32 | 0x2c81_017c;
            Tensor::from_slice(&words)
        };
        [table(0), table(1)]
    }

    #[test]
    fn tables_that_collide_under_a_faster_hash_have_their_own_digests() {
        let tables = colliding_tables();
        let hashes = tables.each_ref().map(|table| {
            let words = Vec::<i64>::try_from(table).unwrap();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            XxHash3_64::oneshot(&bytes)
        });
        assert_eq!(hashes[0], hashes[1], "they collide");
        let mut known = SharedDigests::new();
        let first = digests(&mut known, &[&tables[0]]);
        assert_ne!(digests(&mut known, &[&tables[1]]), first);
        assert_eq!(digests(&mut known, &[&tables[0]]), first);
    }

    #[test]
    fn a_changed_tensor_has_another_digest() {
        let mut known = SharedDigests::new();
        let ones = Tensor::ones([300, 300], tch::kind::FLOAT_CPU);
        let twos = &ones * 2;
        let first = digests(&mut known, &[&ones, &twos]);
        assert_ne!(digests(&mut known, &[&ones.view([90_000])])[0], first[0]);
        assert_eq!(digests(&mut known, &[&ones, &twos]), first);
        let _ = ones.data().fill_(2.0);
        assert_eq!(digests(&mut known, &[&ones]), [first[1]]);
    }

    #[test]
    fn a_write_to_the_values_of_a_sparse_tensor_gives_another_digest() {
        let mut known = SharedDigests::new();
        let dense = Tensor::from_slice(&[0.0f32, 3.0, 0.0, 4.0]).view([2, 2]);
        let sparse = dense.to_sparse(None, None::<&[i64]>, None).coalesce();
        let before = digests(&mut known, &[&sparse]);
        assert_eq!(digests(&mut known, &[&sparse]), before);
        let _ = sparse.values().fill_(5.0);
        assert_ne!(digests(&mut known, &[&sparse]), before);
    }
}
