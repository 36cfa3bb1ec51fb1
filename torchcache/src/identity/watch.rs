//! [`Watcher`]: cheap detection of changes. Each call compares the state of every watched value, word
//! by word, with the state recorded when the module hash was computed.
//!
//! The state of a tensor is its version counter, data pointer, kind, device, shape and strides. The
//! pointer is needed because `set_data` (behind `VarStore::half` and `set_device`) replaces the
//! storage under the same version; an alias of every watched storage is kept, so that no other
//! tensor gets its address.
//!
//! The version alone is not enough: `batch_norm` writes its running statistics, and `nn::Sgd` its
//! parameters, without changing it. So the elements are compared as well: all of them where the
//! tensor is small, as statistics are, or is being trained; a sample of large frozen ones on the CPU.

use std::fmt::Write;

use tch::{Device, Tensor};
use twox_hash::XxHash3_64;

use crate::tensor::digest::tensor_digest;
use crate::tensor::layout;
use crate::tensor::raw::{self, TensorState};

/// The recorded state of every watched value, and the progress of a walk over them.
#[derive(Debug)]
pub(crate) struct Watcher {
    words: Vec<u64>,
    /// Keep the storage of the recorded tensors alive.
    aliases: Vec<Tensor>,
    recording: bool,
    /// The number of words that the walk has compared.
    cursor: usize,
    changed: bool,
    trainable: bool,
    /// The grad mode, once it was needed.
    gradients: Option<bool>,
    devices: Devices,
}

/// The devices of the recorded tensors. Scalars do not count: they work with tensors of any device.
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

/// Tensors below this size are compared in full on every call.
const SMALL_BYTES: usize = 64 * 1024;

/// About how many words of a larger tensor are compared.
const SAMPLES: usize = 8;

/// An odd multiplier with many bits set, which mixes the words.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Passes text to a watcher as it is formatted, without a buffer.
struct TextWriter<'a>(&'a mut Watcher);

impl Write for TextWriter<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.bytes(text.as_bytes());
        Ok(())
    }
}

/// The result of a walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalkResult {
    /// Whether a value differs from the recorded state.
    pub(crate) changed: bool,
    /// Whether a tensor requires grad while grad mode is on.
    pub(crate) trainable: bool,
}

impl Watcher {
    pub(crate) const fn new() -> Self {
        Watcher {
            words: Vec::new(),
            aliases: Vec::new(),
            recording: false,
            cursor: 0,
            changed: false,
            trainable: false,
            gradients: None,
            devices: Devices::None,
        }
    }

    /// Compares the values that `visit` passes with the recorded state.
    pub(crate) fn compare(&mut self, visit: impl FnOnce(&mut Self)) -> WalkResult {
        self.walk(false, visit)
    }

    /// Records the values that `visit` passes.
    pub(crate) fn record(&mut self, visit: impl FnOnce(&mut Self)) -> WalkResult {
        self.words.clear();
        self.aliases.clear();
        self.devices = Devices::None;
        self.walk(true, visit)
    }

    /// Makes the next comparison find a change.
    pub(crate) fn forget(&mut self) {
        self.words.clear();
        // Also for a module without any watched value.
        self.words.push(u64::MAX);
    }

    fn walk(&mut self, recording: bool, visit: impl FnOnce(&mut Self)) -> WalkResult {
        self.recording = recording;
        self.cursor = 0;
        self.changed = false;
        self.trainable = false;
        self.gradients = None;
        visit(self);
        let shorter = !recording && self.cursor != self.words.len();
        WalkResult {
            changed: self.changed || shorter,
            trainable: self.trainable,
        }
    }

    fn visit_word(&mut self, word: u64) {
        if self.recording {
            self.words.push(word);
        } else if !self.changed {
            self.changed = self.words.get(self.cursor) != Some(&word);
            self.cursor += 1;
        }
    }

    fn visit_words(&mut self, words: &[i64]) {
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
        self.visit_word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.visit_word(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn tensor(&mut self, tensor: &Tensor) {
        let mut state = TensorState::new();
        if !state.read(tensor) {
            return self.visit_word(u64::MAX);
        }
        self.visit_words(state.fields());
        if self.recording {
            if !state.is_scalar() {
                self.devices.insert(tensor.device());
            }
            self.aliases.extend(tensor.f_detach().ok());
        }
        if self.recording || !self.changed {
            let [read, digest] = elements(tensor, &state);
            self.visit_word(read);
            self.visit_word(digest);
        }
        if !self.trainable && state.requires_grad() {
            // The grad mode is the same throughout the walk.
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

    /// Formatted text.
    pub(crate) fn text(&mut self, text: std::fmt::Arguments<'_>) {
        let written = TextWriter(self).write_fmt(text);
        self.visit_word(u64::from(written.is_ok()));
    }
}

/// The elements of a tensor as two words: which of them were read, and their digest.
fn elements(tensor: &Tensor, state: &TensorState<'_>) -> [u64; 2] {
    /// Only version and pointer are compared.
    const NONE: [u64; 2] = [0, 0];
    let all = |bytes: &[u8]| [1, XxHash3_64::oneshot(bytes)];
    let some = |bytes: &[u8]| [2, sample(bytes)];
    match state.bytes() {
        Some(large) if large.len() >= SMALL_BYTES && !is_in_training(tensor, state) => some(large),
        Some(bytes) => all(bytes),
        None if is_worth_a_copy(tensor, state) => match layout::on_cpu(tensor) {
            Ok(copied) => raw::view(&copied).map_or(NONE, all),
            Err(_) => NONE,
        },
        // Writes to the tensors that it consists of do not change its version.
        None if layout::is_sparse(tensor) => {
            tensor_digest(tensor).map_or(NONE, |digest| all(&digest))
        }
        None => NONE,
    }
}

/// Whether an optimiser may write the elements, which does not change the version: the tensor requires
/// grad, or a training step left a gradient. Only leaves: reading it of others logs a warning.
fn is_in_training(tensor: &Tensor, state: &TensorState<'_>) -> bool {
    state.requires_grad() || (tensor.is_leaf() && tensor.grad().defined())
}

/// Whether elements that are not contiguous on the CPU are worth copying there on every call.
pub(crate) fn is_worth_a_copy(tensor: &Tensor, state: &TensorState<'_>) -> bool {
    let bytes = || tensor.numel() * tensor.kind().elt_size_in_bytes();
    layout::is_strided(tensor) && (bytes() < SMALL_BYTES || is_in_training(tensor, state))
}

fn sample(bytes: &[u8]) -> u64 {
    let step = (bytes.len() / SAMPLES).next_multiple_of(8);
    let words = bytes.chunks(step).filter_map(|chunk| chunk.first_chunk());
    words.fold(0, |hash: u64, &word| {
        (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fingerprint::{Fingerprint, Fingerprinter};

    fn changed<T: Fingerprint>(watcher: &mut Watcher, value: &T) -> bool {
        let visit = |watcher: &mut Watcher| value.fingerprint(&mut Fingerprinter::watch(watcher));
        watcher.compare(visit).changed
    }

    fn record<T: Fingerprint>(watcher: &mut Watcher, value: &T) {
        watcher.record(|watcher| value.fingerprint(&mut Fingerprinter::watch(watcher)));
    }

    #[test]
    fn forgetting_an_empty_state_is_a_change() {
        let mut watcher = Watcher::new();
        watcher.forget();
        assert!(changed(&mut watcher, &()));
        record(&mut watcher, &());
        assert!(!changed(&mut watcher, &()));
    }

    #[test]
    fn a_write_in_place_is_noticed() {
        let mut watcher = Watcher::new();
        let mut tensor = Tensor::zeros([2], tch::kind::FLOAT_CPU);
        record(&mut watcher, &tensor);
        assert!(!changed(&mut watcher, &tensor));
        let _ = tensor.fill_(1.0);
        assert!(changed(&mut watcher, &tensor));
    }

    /// Only the version counter shows it.
    #[test]
    fn an_edit_between_the_samples_is_noticed() {
        let mut watcher = Watcher::new();
        let tensor = Tensor::zeros([1 << 16], tch::kind::FLOAT_CPU);
        record(&mut watcher, &tensor);
        assert!(!changed(&mut watcher, &tensor));
        let _ = tensor.narrow(0, 5, 1).fill_(1.0);
        assert!(changed(&mut watcher, &tensor));
    }

    #[test]
    fn replaced_storage_is_noticed() {
        let mut watcher = Watcher::new();
        let mut tensor = Tensor::from_slice(&[1.000_1f32; 4096]);
        record(&mut watcher, &tensor);
        // Rounds the weights, keeps version, kind and shape, and frees the first storage.
        let half = tensor.to_kind(tch::Kind::Half);
        tensor.set_data(&half);
        let float = tensor.to_kind(tch::Kind::Float);
        tensor.set_data(&float);
        drop((half, float));
        assert!(changed(&mut watcher, &tensor));
    }

    #[test]
    fn a_write_to_the_values_of_a_sparse_tensor_is_noticed() {
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
    fn a_transposed_square_matrix_is_noticed() {
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
    fn a_tensor_is_trainable_only_in_grad_mode() {
        let mut watcher = Watcher::new();
        let tensor = Tensor::zeros([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        assert!(watcher.record(|watcher| watcher.tensor(&tensor)).trainable);
        let _guard = tch::no_grad_guard();
        assert!(!watcher.compare(|watcher| watcher.tensor(&tensor)).trainable);
    }
}
