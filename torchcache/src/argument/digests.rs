//! [`SharedDigests`]: the digests of shared tensors that the host hashes. Memory of the CPU is hashed at every call, and
//! that of CUDA devices where hashing there is switched on. Digests of other tensors on a device are kept until these
//! change.

use std::mem::take;
use std::sync::Mutex;

use tch::{Device, TchError, Tensor};

use crate::device;
use crate::identity::is_worth_a_copy;
use crate::sync::lock;
use crate::tensor::digest::digest_on_host;
use crate::tensor::layout;
use crate::tensor::raw::TensorState;

/// The digests of the shared tensors of recent calls. The lock is not held while a tensor is hashed:
/// calls that overlap find what the others know.
#[derive(Debug)]
pub(crate) struct SharedDigests(Mutex<KnownTensors>);

#[derive(Debug)]
struct KnownTensors {
    /// By their place among the shared arguments, the most recent one last.
    places: Vec<Vec<KnownTensor>>,
    /// How often they were discarded: a digest of before that is not kept.
    discarded: u64,
}

/// How many tensors to keep for each place: masks of training and of evaluation alternate.
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

impl KnownTensors {
    const fn new() -> Self {
        KnownTensors {
            places: Vec::new(),
            discarded: 0,
        }
    }

    /// The digest of a tensor of this state.
    fn find(&mut self, place: usize, state: &TensorState<'_>) -> Option<[u8; 32]> {
        let known = self.places.get_mut(place)?;
        let found = known.iter().position(|before| before.matches(state))?;
        let found = known.remove(found);
        let digest = found.digest;
        known.push(found);
        Some(digest)
    }

    /// Keeps a tensor that was not found after so many discards. Returns one that is not kept, to be
    /// dropped where no lock is held.
    fn keep(&mut self, place: usize, tensor: KnownTensor, discarded: u64) -> Option<KnownTensor> {
        if self.discarded != discarded {
            return Some(tensor);
        }
        if self.places.len() <= place {
            self.places.resize_with(place + 1, Vec::new);
        }
        let known = &mut self.places[place];
        known.push(tensor);
        (known.len() > MAX_KNOWN).then(|| known.remove(0))
    }
}

impl SharedDigests {
    /// No digests yet.
    pub(crate) const fn new() -> Self {
        SharedDigests(Mutex::new(KnownTensors::new()))
    }

    /// Has each tensor hashed again at its next call.
    pub(crate) fn discard(&self) {
        let places = {
            let mut known = lock(&self.0);
            known.discarded += 1;
            take(&mut known.places)
        };
        drop(places);
    }

    /// The digest of the tensor at a place among the shared ones, over its layout, kind, shape and every stored byte.
    ///
    /// # Errors
    ///
    /// Errors of libtorch when it cannot be read.
    pub(crate) fn digest(&self, place: usize, tensor: &Tensor) -> Result<[u8; 32], TchError> {
        let mut state = TensorState::new();
        // Memory of the CPU, and the tensors of a sparse layout, may change while the state stays the same.
        if !layout::is_strided(tensor)
            || !state.read(tensor)
            || tensor.device() == Device::Cpu
            // Where it falls back to the host, writes that the device noticed before must stay noticed.
            || tensor.device().is_cuda() && device::is_enabled()
            || is_worth_a_copy(tensor, &state)
        {
            return digest_on_host(tensor);
        }
        let discarded = {
            let mut known = lock(&self.0);
            if let Some(digest) = known.find(place, &state) {
                return Ok(digest);
            }
            known.discarded
        };
        // Read before it is hashed, so that the next call notices a change in between.
        let fields = state.fields().to_vec();
        let digest = digest_on_host(tensor)?;
        let tensor = KnownTensor {
            alias: tensor.f_detach()?,
            fields,
            digest,
        };
        let dropped = lock(&self.0).keep(place, tensor, discarded);
        drop(dropped);
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twox_hash::XxHash3_64;

    fn digests(known: &SharedDigests, tensors: &[&Tensor]) -> Vec<[u8; 32]> {
        let digests = tensors.iter().enumerate();
        let digests = digests.map(|(place, tensor)| known.digest(place, tensor).unwrap());
        digests.collect()
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
        let known = SharedDigests::new();
        let first = digests(&known, &[&tables[0]]);
        assert_ne!(digests(&known, &[&tables[1]]), first);
        assert_eq!(digests(&known, &[&tables[0]]), first);
    }

    #[test]
    fn a_changed_tensor_has_another_digest() {
        let known = SharedDigests::new();
        let ones = Tensor::ones([300, 300], tch::kind::FLOAT_CPU);
        let twos = &ones * 2;
        let first = digests(&known, &[&ones, &twos]);
        assert_ne!(digests(&known, &[&ones.view([90_000])])[0], first[0]);
        assert_eq!(digests(&known, &[&ones, &twos]), first);
        let _ = ones.data().fill_(2.0);
        assert_eq!(digests(&known, &[&ones]), [first[1]]);
    }

    #[test]
    fn a_write_to_the_values_of_a_sparse_tensor_gives_another_digest() {
        let known = SharedDigests::new();
        let dense = Tensor::from_slice(&[0.0f32, 3.0, 0.0, 4.0]).view([2, 2]);
        let sparse = dense.to_sparse(None, None::<&[i64]>, None).coalesce();
        let before = digests(&known, &[&sparse]);
        assert_eq!(digests(&known, &[&sparse]), before);
        let _ = sparse.values().fill_(5.0);
        assert_ne!(digests(&known, &[&sparse]), before);
    }

    fn known(tensor: &Tensor) -> KnownTensor {
        let mut state = TensorState::new();
        assert!(state.read(tensor));
        KnownTensor {
            alias: tensor.detach(),
            fields: state.fields().to_vec(),
            digest: digest_on_host(tensor).unwrap(),
        }
    }

    fn find(digests: &SharedDigests, tensor: &Tensor) -> Option<[u8; 32]> {
        let mut state = TensorState::new();
        assert!(state.read(tensor));
        lock(&digests.0).find(0, &state)
    }

    #[test]
    fn a_known_digest_stays_while_calls_use_it() {
        let digests = SharedDigests::new();
        let mask = Tensor::ones([4, 4], tch::kind::FLOAT_CPU);
        assert_eq!(find(&digests, &mask), None);
        assert!(lock(&digests.0).keep(0, known(&mask), 0).is_none());
        let digest = digest_on_host(&mask).unwrap();
        // A call that overlaps another one finds it as well.
        let [first, second] = [(); 2].map(|()| find(&digests, &mask));
        assert_eq!([first, second], [Some(digest); 2]);
        let others = [(); MAX_KNOWN].map(|()| Tensor::ones([4, 4], tch::kind::FLOAT_CPU));
        let dropped = others.each_ref().map(|other| {
            let dropped = lock(&digests.0).keep(0, known(other), 0);
            dropped.is_some()
        });
        assert_eq!(dropped, [false, false, false, true]);
        assert_eq!(find(&digests, &mask), None, "the one used longest ago");
    }

    #[test]
    fn a_digest_from_before_a_discard_is_not_kept() {
        let digests = SharedDigests::new();
        let mask = Tensor::ones([4, 4], tch::kind::FLOAT_CPU);
        digests.discard();
        assert!(lock(&digests.0).keep(0, known(&mask), 0).is_some());
        assert_eq!(find(&digests, &mask), None);
        assert!(lock(&digests.0).keep(0, known(&mask), 1).is_none());
        assert!(find(&digests, &mask).is_some());
    }
}
