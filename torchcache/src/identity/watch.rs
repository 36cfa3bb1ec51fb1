//! Noticing change cheaply: on each call the state of every watched value is compared, word by
//! word, with what was seen when the hash was computed.
//!
//! For a tensor the state is its version counter, data pointer, kind, device, shape and strides.
//! The pointer is needed because `set_data` (behind `VarStore::half` and `set_device`) swaps the
//! storage under the same version; an alias of every watched storage is held, so that a freed
//! pointer cannot come back and pass for the old one.
//!
//! The version does not tell everything: `batch_norm` writes its running statistics, and `nn::Sgd`
//! its parameters, without counting. So the elements count as well: all of them where the tensor is
//! small, as statistics are, or is being trained; of large frozen ones on the CPU a sample.

use std::fmt::Write;

use tch::{Device, Tensor};
use twox_hash::XxHash3_64;

use super::parts::tensor_digest;
use crate::tensor::layout;
use crate::tensor::raw::{self, Glance};

/// The state of every watched value, and whether the present walk differs from it.
#[derive(Debug)]
pub(crate) struct Watcher {
    words: Vec<u64>,
    tensors: Vec<Watched>,
    recording: bool,
    /// How many words and tensors the present walk has compared.
    cursor: usize,
    tensor: usize,
    changed: bool,
    trainable: bool,
    gradients: Option<bool>,
    devices: Devices,
}

/// The devices of what was recorded. Single numbers are left out: they go with any device.
#[derive(Debug, Clone, Copy)]
enum Devices {
    None,
    One(Device),
    Several,
}

impl Devices {
    fn insert(&mut self, device: Device) {
        *self = match *self {
            Devices::None => Devices::One(device),
            Devices::One(one) if one == device => Devices::One(one),
            _ => Devices::Several,
        };
    }
}

/// A recorded tensor.
#[derive(Debug)]
struct Watched {
    /// Holds the storage.
    _alias: Option<Tensor>,
    elements: Elements,
}

/// The elements of a recorded tensor.
#[derive(Debug, PartialEq)]
enum Elements {
    /// A digest of all of them: of small tensors, as statistics are, and of those in training.
    Digest(u64),
    /// Of other large ones a sample.
    Sample(u64),
    /// They cannot be read: version and pointer have to do.
    Unseen,
}

/// Tensors below this size are compared whole on every call.
const SMALL_BYTES: usize = 64 * 1024;

/// Of larger ones about this many words are.
const SAMPLES: usize = 8;

/// Any odd number with many bits spreads the words.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether a gradient is left of a training step. Only leaves may be asked without a warning.
fn was_trained(tensor: &Tensor) -> bool {
    tensor.is_leaf() && tensor.grad().defined()
}

/// Feeds what is written to a watcher.
struct Pieces<'a>(&'a mut Watcher);

impl Write for Pieces<'_> {
    fn write_str(&mut self, piece: &str) -> std::fmt::Result {
        self.0.bytes(piece.as_bytes());
        Ok(())
    }
}

/// What a walk saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Something differs from the recorded state.
    pub(crate) changed: bool,
    /// Some tensor requires grad while grad mode is on.
    pub(crate) trainable: bool,
}

impl Watcher {
    pub(crate) const fn new() -> Self {
        Watcher {
            words: Vec::new(),
            tensors: Vec::new(),
            recording: false,
            cursor: 0,
            tensor: 0,
            changed: false,
            trainable: false,
            gradients: None,
            devices: Devices::None,
        }
    }

    /// Starts a walk that compares with the recorded state.
    pub(crate) fn compare(&mut self) {
        self.start(false);
    }

    /// Starts a walk that records the state anew.
    pub(crate) fn record(&mut self) {
        self.words.clear();
        self.tensors.clear();
        self.devices = Devices::None;
        self.start(true);
    }

    /// Makes the next comparison find a change.
    pub(crate) fn forget(&mut self) {
        self.words.clear();
        // A module without a single watched word must differ as well.
        self.words.push(u64::MAX);
    }

    fn start(&mut self, recording: bool) {
        self.recording = recording;
        self.cursor = 0;
        self.tensor = 0;
        self.changed = false;
        self.trainable = false;
        self.gradients = None;
    }

    /// Ends a walk.
    pub(crate) fn finish(&self) -> Seen {
        let shorter = !self.recording && self.cursor != self.words.len();
        Seen {
            changed: self.changed || shorter,
            trainable: self.trainable,
        }
    }

    fn word(&mut self, word: u64) {
        if self.recording {
            self.words.push(word);
        } else if !self.changed {
            self.changed = self.words.get(self.cursor) != Some(&word);
            self.cursor += 1;
        }
    }

    fn words(&mut self, words: &[i64]) {
        if self.recording {
            self.words.extend(words.iter().map(|&word| word as u64));
        } else if !self.changed {
            let end = self.cursor + words.len();
            let before = self.words.get(self.cursor..end);
            let same = |before: &[u64]| before.iter().zip(words).all(|(&a, &b)| a == b as u64);
            self.changed = !before.is_some_and(same);
            self.cursor = end;
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn tensor(&mut self, tensor: &Tensor) {
        let mut glance = Glance::none();
        if !glance.at(tensor) {
            return self.word(u64::MAX);
        }
        self.words(glance.words());
        if self.recording {
            if !glance.is_scalar() {
                self.devices.insert(tensor.device());
            }
            self.tensors.push(Watched {
                _alias: tensor.f_detach().ok(),
                elements: Elements::of(tensor, &glance),
            });
        } else if !self.changed {
            let before = self.tensors.get(self.tensor);
            self.changed =
                before.is_none_or(|before| before.elements != Elements::of(tensor, &glance));
            self.tensor += 1;
        }
        if !self.trainable && glance.requires_grad() {
            // Grad mode is one for the whole walk: it is asked once.
            let gradients = *self
                .gradients
                .get_or_insert_with(|| layout::records_gradients(tensor));
            self.trainable = gradients;
        }
    }

    /// The device of the recorded tensors, if all are on one.
    pub(crate) fn device(&self) -> Option<Device> {
        match self.devices {
            Devices::One(device) => Some(device),
            Devices::None | Devices::Several => None,
        }
    }

    /// Text that is written piece by piece, without a buffer in between.
    pub(crate) fn text(&mut self, text: std::fmt::Arguments<'_>) {
        let written = Pieces(self).write_fmt(text);
        self.word(u64::from(written.is_ok()));
    }
}

impl Elements {
    fn of(tensor: &Tensor, glance: &Glance<'_>) -> Self {
        match glance.bytes() {
            Some(small) if small.len() < SMALL_BYTES => Elements::Digest(digest(small)),
            Some(large) if !is_in_training(tensor, glance) => Elements::Sample(sample(large)),
            Some(large) => Elements::Digest(digest(large)),
            None if is_worth_a_copy(tensor, glance) => {
                let copied = layout::on_cpu(tensor);
                let bytes = copied
                    .as_ref()
                    .ok()
                    .and_then(|copied| raw::view(copied).ok());
                bytes.map_or(Elements::Unseen, |bytes| Elements::Digest(digest(bytes)))
            }
            // Its version does not count what is written to the tensors that it is made of.
            None if layout::is_sparse(tensor) => match tensor_digest(tensor) {
                Ok(digested) => Elements::Digest(digest(&digested)),
                Err(_) => Elements::Unseen,
            },
            None => Elements::Unseen,
        }
    }
}

/// Whether something may change the elements without counting: as an optimiser does.
fn is_in_training(tensor: &Tensor, glance: &Glance<'_>) -> bool {
    glance.requires_grad() || was_trained(tensor)
}

/// Whether elements that are not plain bytes on the CPU are to be brought there on every call.
pub(crate) fn is_worth_a_copy(tensor: &Tensor, glance: &Glance<'_>) -> bool {
    let bytes = || tensor.numel() * tensor.kind().elt_size_in_bytes();
    layout::is_strided(tensor) && (bytes() < SMALL_BYTES || is_in_training(tensor, glance))
}

fn digest(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

fn sample(bytes: &[u8]) -> u64 {
    let step = (bytes.len() / SAMPLES).next_multiple_of(8);
    let words = bytes.chunks(step).filter_map(|chunk| chunk.first_chunk());
    words.fold(0, |hash: u64, &word| {
        (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(ODD)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fingerprint::{Fingerprint, Fingerprinter};

    fn changed<T: Fingerprint>(watcher: &mut Watcher, value: &T) -> bool {
        watcher.compare();
        value.fingerprint(&mut Fingerprinter::watch(watcher));
        watcher.finish().changed
    }

    fn record<T: Fingerprint>(watcher: &mut Watcher, value: &T) {
        watcher.record();
        value.fingerprint(&mut Fingerprinter::watch(watcher));
    }

    #[test]
    fn nothing_recorded_differs_even_from_nothing() {
        let mut watcher = Watcher::new();
        watcher.forget();
        assert!(changed(&mut watcher, &()));
        record(&mut watcher, &());
        assert!(!changed(&mut watcher, &()));
    }

    #[test]
    fn an_edit_in_place_is_noticed() {
        let mut watcher = Watcher::new();
        let mut tensor = Tensor::zeros([2], tch::kind::FLOAT_CPU);
        record(&mut watcher, &tensor);
        assert!(!changed(&mut watcher, &tensor));
        let _ = tensor.fill_(1.0);
        assert!(changed(&mut watcher, &tensor));
    }

    #[test]
    fn data_swapped_back_and_forth_is_noticed() {
        let mut watcher = Watcher::new();
        let mut tensor = Tensor::from_slice(&[1.000_1f32; 4096]);
        record(&mut watcher, &tensor);
        // Rounds the weights, keeps version, kind and shape, and frees the first storage on the way.
        let half = tensor.to_kind(tch::Kind::Half);
        tensor.set_data(&half);
        let float = tensor.to_kind(tch::Kind::Float);
        tensor.set_data(&float);
        drop((half, float));
        assert!(changed(&mut watcher, &tensor));
    }

    #[test]
    fn an_edit_of_what_a_sparse_tensor_stores_is_noticed() {
        let mut watcher = Watcher::new();
        let dense = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 0.0]).view([2, 2]);
        for sparse in [
            dense.to_sparse(None, None::<&[i64]>, None).coalesce(),
            dense.to_sparse_csr(None),
        ] {
            record(&mut watcher, &sparse);
            assert!(!changed(&mut watcher, &sparse));
            let _ = sparse.values().fill_(5.0);
            assert!(changed(&mut watcher, &sparse), "{sparse:?}");
        }
    }

    #[test]
    fn a_transposed_square_is_noticed() {
        let mut watcher = Watcher::new();
        let tensor = Tensor::rand([3, 3], tch::kind::FLOAT_CPU);
        record(&mut watcher, &tensor);
        assert!(changed(&mut watcher, &tensor.tr()));
    }

    #[test]
    fn plain_values_are_watched() {
        let mut watcher = Watcher::new();
        record(&mut watcher, &(1u8, "ab".to_owned()));
        assert!(!changed(&mut watcher, &(1u8, "ab".to_owned())));
        assert!(changed(&mut watcher, &(1u8, "ac".to_owned())));
        assert!(changed(&mut watcher, &(2u8, "ab".to_owned())));
    }

    #[test]
    fn a_trainable_tensor_is_seen_only_while_gradients_are_recorded() {
        let mut watcher = Watcher::new();
        let tensor = Tensor::zeros([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        record(&mut watcher, &tensor);
        assert!(watcher.finish().trainable);
        let _guard = tch::no_grad_guard();
        watcher.compare();
        watcher.tensor(&tensor);
        assert!(!watcher.finish().trainable);
    }
}
