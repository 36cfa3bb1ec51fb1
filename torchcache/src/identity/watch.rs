//! Cheap detection of changes. Each call compares the state of every watched value, word by word, with
//! the [`Snapshot`] that was recorded when the module hash was computed.
//!
//! A [`Fingerprinter`](super::Fingerprinter) passes the same names, types and bytes to the hash and to
//! the watched words. Tensors differ: the hash reads every element, and the words hold version counter,
//! data pointer, kind, device, shape and strides. The pointer is needed because `set_data` (behind
//! `VarStore::half` and `set_device`) replaces the storage under the same version; an alias of every
//! watched storage is kept, so that no other tensor gets its address.
//!
//! The version alone is not enough: `batch_norm` writes its running statistics, and `nn::Sgd` its
//! parameters, without changing it. So elements are compared as well: all of a small tensor and some of
//! every row and column of a larger one (`sample`); on a device, those of all tensors at once (`device`).

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use tch::{Device, Tensor};

use super::device::{DeviceSample, RecordedSample};
use super::sample::{
    Guide, LINE, MAX_SPACING, digest, sample_bytes, sample_elements, sample_gradient,
    sampled_elements, sampled_gradient, sampled_lines,
};
use crate::sync::lock;
use crate::tensor::digest::tensor_digest;
use crate::tensor::layout;
use crate::tensor::raw::{self, Extents, TensorState};

/// The recorded state of every watched value. Threads share it: it is only read.
#[derive(Debug)]
pub(crate) struct Snapshot {
    words: Arc<[i64]>,
    /// Keep the storage of the recorded tensors alive. Not read: they are in a lock since a `Tensor`
    /// is not `Sync`.
    aliases: Mutex<Vec<Tensor>>,
    /// Where the gradients of the recorded tensors that had one were largest, if libtorch could find it.
    guides: Arc<[Option<Arc<Guide>>]>,
    /// The elements of those that are on a device other than the CPU.
    on_device: RecordedSample,
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

/// What a walk over the watched values found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// A value differs from the snapshot. The walk ignores what follows.
    pub(crate) changed: bool,
    /// Elements on a device could not be compared.
    pub(crate) unsampled: bool,
    /// A tensor requires grad while grad mode is on.
    pub(crate) trainable: bool,
    /// A value could not be read, since another thread holds its lock.
    pub(crate) locked: bool,
    /// A tensor cannot be hashed.
    pub(crate) unreadable: bool,
}

impl Snapshot {
    /// Records the values that `visit` passes.
    pub(crate) fn record(visit: impl FnOnce(&mut Watcher)) -> (Snapshot, Seen) {
        let mut watcher = Watcher::new(Mode::Record {
            words: Vec::new(),
            aliases: Vec::new(),
            guides: Vec::new(),
            on_device: DeviceSample::default(),
            devices: Devices::None,
        });
        visit(&mut watcher);
        let Mode::Record {
            words,
            aliases,
            guides,
            on_device,
            devices,
        } = watcher.mode
        else {
            unreachable!("a walk keeps its mode");
        };
        let snapshot = Snapshot {
            words: words.into(),
            aliases: Mutex::new(aliases),
            guides: guides.into(),
            on_device: RecordedSample::new(on_device, &watcher.device_gradients),
            devices,
        };
        (snapshot, watcher.seen)
    }

    /// Compares the values that `visit` passes with the recorded ones.
    pub(crate) fn compare(&self, visit: impl FnOnce(&mut Watcher)) -> Seen {
        let mut watcher = Watcher::new(Mode::Compare {
            recorded: self.words.clone(),
            compared: 0,
            guides: self.guides.clone(),
            guided: 0,
        });
        visit(&mut watcher);
        if let Mode::Compare { compared, .. } = watcher.mode {
            watcher.seen.changed |= compared != self.words.len();
        }
        if watcher.is_open() && !watcher.seen.locked {
            match self.on_device.compare(&watcher.device_gradients) {
                Some(is_unchanged) => watcher.seen.changed |= !is_unchanged,
                None => watcher.seen.unsampled = true,
            }
        }
        watcher.seen
    }

    /// Frees the storage of tensors that were replaced since. The snapshot is no longer valid.
    pub(crate) fn release(&self) {
        let aliases = std::mem::take(&mut *lock(&self.aliases));
        drop(aliases);
        self.on_device.release();
    }

    /// Whether what is compared word by word was the same when `other` was recorded.
    pub(crate) fn has_words_of(&self, other: &Snapshot) -> bool {
        self.words == other.words
    }

    /// The device of the recorded tensors, if all are on one.
    pub(crate) fn device(&self) -> Option<Device> {
        match self.devices {
            Devices::One(device) => Some(device),
            Devices::None | Devices::Several => None,
        }
    }
}

/// A walk over the watched values.
#[derive(Debug)]
pub(crate) struct Watcher {
    mode: Mode,
    seen: Seen,
    /// The grad mode, once it was needed.
    gradients: Option<bool>,
    /// The sampled bytes of one tensor.
    sample: Vec<u8>,
    /// The gradients that are compared on a device, until the walk ends.
    device_gradients: Vec<Tensor>,
}

#[derive(Debug)]
enum Mode {
    Record {
        words: Vec<i64>,
        aliases: Vec<Tensor>,
        guides: Vec<Option<Arc<Guide>>>,
        on_device: DeviceSample,
        devices: Devices,
    },
    Compare {
        recorded: Arc<[i64]>,
        /// How many of them were compared.
        compared: usize,
        guides: Arc<[Option<Arc<Guide>>]>,
        /// How many of them were used.
        guided: usize,
    },
}

/// Which elements of a tensor are compared.
#[derive(Debug, Clone, Copy)]
enum Sampling {
    /// Only version and pointer are compared.
    None,
    All,
    Lines,
    /// Of a tensor that is not dense in memory.
    Elements,
    /// Lines, also where the gradient is largest, and some of the gradient.
    Guided,
}

/// Tensors below this size are compared in full on every call.
const SMALL_BYTES: usize = 64 * 1024;

/// Vectors below this size are: a step may change single elements of them.
const SMALL_VECTOR_BYTES: usize = 1024 * 1024;

impl Watcher {
    fn new(mode: Mode) -> Self {
        Watcher {
            mode,
            seen: Seen::default(),
            gradients: None,
            sample: Vec::new(),
            device_gradients: Vec::new(),
        }
    }

    pub(crate) fn word(&mut self, word: i64) {
        match &mut self.mode {
            Mode::Record { words, .. } => words.push(word),
            Mode::Compare {
                recorded, compared, ..
            } => {
                self.seen.changed |= recorded.get(*compared) != Some(&word);
                *compared += 1;
            }
        }
    }

    fn words(&mut self, found: &[i64]) {
        match &mut self.mode {
            Mode::Record { words, .. } => words.extend_from_slice(found),
            Mode::Compare {
                recorded, compared, ..
            } => {
                let end = *compared + found.len();
                self.seen.changed |= recorded.get(*compared..end) != Some(found);
                *compared = end;
            }
        }
    }

    /// Whether what follows can still change the result of the walk.
    fn is_open(&self) -> bool {
        !self.seen.changed
    }

    /// A name, at a depth of nesting.
    pub(crate) fn name(&mut self, depth: u32, name: &str) {
        self.word(i64::from(depth));
        self.bytes(name.as_bytes());
    }

    /// Bytes, after their number.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as i64);
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.word(i64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.word(i64::from_le_bytes(word));
        }
    }

    /// Bytes of many plain values, by their digest. Clears them.
    pub(crate) fn digest(&mut self, bytes: &mut Vec<u8>) {
        if !bytes.is_empty() {
            self.words(&[bytes.len() as i64, digest(bytes)]);
            bytes.clear();
        }
    }

    /// Formatted text.
    pub(crate) fn text(&mut self, text: std::fmt::Arguments<'_>) {
        let written = TextWriter(self).write_fmt(text);
        self.word(i64::from(written.is_ok()));
    }

    /// A value that cannot be read now, since another thread holds its lock.
    pub(crate) fn locked(&mut self) {
        self.seen.locked = true;
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.seen.locked
    }

    pub(crate) fn tensor(&mut self, tensor: &Tensor) {
        let mut state = TensorState::new();
        if !state.read(tensor) {
            return self.word(i64::MIN);
        }
        self.seen.unreadable |= !state.is_strided() && !layout::has_digest(tensor);
        self.words(state.fields());
        if let Mode::Record {
            aliases, devices, ..
        } = &mut self.mode
        {
            if !state.is_scalar() {
                devices.insert(tensor.device());
            }
            aliases.extend(tensor.f_detach().ok());
        }
        if self.is_open() {
            self.elements(tensor, &state);
        }
        if !self.seen.trainable && state.requires_grad() {
            // The grad mode is the same throughout the walk.
            let gradients = *self
                .gradients
                .get_or_insert_with(|| layout::records_gradients(tensor));
            self.seen.trainable = gradients;
        }
    }

    /// The elements of a tensor: which of them were read, and their digest.
    fn elements(&mut self, tensor: &Tensor, state: &TensorState<'_>) {
        const NONE: [i64; 2] = [Sampling::None as i64, 0];
        let all = |bytes: &[u8]| [Sampling::All as i64, digest(bytes)];
        if !state.is_on_cpu()
            && let Some(extents) = state.extents()
        {
            return self.elements_on_device(tensor, state, &extents);
        }
        if let Some((bytes, row_bytes)) = state.memory() {
            if bytes.len() < small_bytes(state) {
                return self.words(&all(bytes));
            }
            if let Some(gradient) = gradient(tensor) {
                return self.with_gradient(bytes, row_bytes, state, &gradient);
            }
            let row_bytes = match state.is_vector() {
                true => MAX_SPACING,
                false => row_bytes,
            };
            self.sample.clear();
            sample_bytes(bytes, row_bytes, None, &mut self.sample);
            let found = [Sampling::Lines as i64, digest(&self.sample)];
            return self.words(&found);
        }
        if let Some(elements) = state.elements()
            && elements.count() * elements.size() >= SMALL_BYTES
            && gradient(tensor).is_none()
        {
            self.sample.clear();
            sample_elements(&elements, state.row_elements(), &mut self.sample);
            let found = [Sampling::Elements as i64, digest(&self.sample)];
            return self.words(&found);
        }
        let found = if is_worth_a_copy(tensor, state) {
            match layout::on_cpu(tensor) {
                Ok(copied) => raw::view(&copied).map_or(NONE, all),
                Err(_) => NONE,
            }
        } else if layout::is_sparse(tensor) || state.pointer() == 0 {
            // Writes to the tensors that a sparse one consists of do not change its version. An opaque one has no
            // address, such as that of MKL-DNN.
            tensor_digest(tensor).map_or(NONE, |digest| all(&digest))
        } else {
            NONE
        };
        self.words(&found);
    }

    /// The elements of a weight with a gradient, where that is largest, and some of the gradient. All
    /// elements, where the gradient does not lie in memory as the weight does.
    fn with_gradient(
        &mut self,
        bytes: &[u8],
        row_bytes: usize,
        weight: &TensorState<'_>,
        gradient: &Tensor,
    ) {
        let mut state = TensorState::new();
        let found = if state.read(gradient)
            && state.has_layout_of(weight)
            && let Some(gradients) = state.bytes()
            && row_bytes > LINE
            && let Some(guide) = self.guide(gradient, row_bytes)
        {
            self.sample.clear();
            sample_bytes(bytes, row_bytes, Some(&guide), &mut self.sample);
            sample_gradient(gradients, row_bytes, &guide, &mut self.sample);
            let found = [Sampling::Guided as i64, digest(&self.sample)];
            self.words(&[state.version(), state.pointer()]);
            found
        } else {
            [Sampling::All as i64, digest(bytes)]
        };
        self.words(&found);
    }

    /// The elements of a tensor on a device: which of them are read, at the end of the walk.
    fn elements_on_device(
        &mut self,
        tensor: &Tensor,
        state: &TensorState<'_>,
        extents: &Extents<'_>,
    ) {
        let (count, size) = (extents.count(), extents.size());
        let dense = state.dense_elements();
        let dense_count = dense.map(|(elements, _)| elements);
        let all = |sample: &mut DeviceSample| sample.all(tensor, dense_count);
        if count * size < small_bytes(state) {
            return self.on_device(Sampling::All, all);
        }
        let Some(gradient) = gradient(tensor) else {
            let Some((elements, row)) = dense else {
                let row = state.row_elements();
                let indices = || sampled_elements(count, size, row);
                return self.on_device(Sampling::Elements, |sample| {
                    sample.elements(tensor, extents, indices())
                });
            };
            let row_bytes = match state.is_vector() {
                true => MAX_SPACING,
                false => row * size,
            };
            return self.on_device(Sampling::Lines, |sample| {
                match sampled_lines(elements * size, row_bytes, None) {
                    Some(lines) => sample.lines(tensor, (elements, size), lines),
                    None => all(sample),
                }
            });
        };
        let mut gradients = TensorState::new();
        if gradients.read(&gradient)
            && gradients.has_layout_of(state)
            && let Some((elements, row)) = dense
            && row * size > LINE
            && let Some(guide) = self.guide(&gradient, row * size)
        {
            self.words(&[gradients.version(), gradients.pointer()]);
            let row_bytes = row * size;
            self.on_device(Sampling::Guided, |sample| {
                let lines = sampled_lines(elements * size, row_bytes, Some(&guide));
                sample.lines(tensor, (elements, size), lines.into_iter().flatten());
                let of_gradient = sampled_gradient(row_bytes, &guide);
                sample.gradient(&gradient, (elements, size), of_gradient);
            });
            return self.device_gradients.push(gradient);
        }
        self.on_device(Sampling::All, all);
    }

    /// How elements on a device are read, and where the walk records, which.
    fn on_device(&mut self, sampling: Sampling, add: impl FnOnce(&mut DeviceSample)) {
        self.words(&[sampling as i64, 0]);
        if let Mode::Record { on_device, .. } = &mut self.mode {
            add(on_device);
        }
    }

    /// Where the gradient of the next weight is, or was when it was recorded, largest.
    fn guide(&mut self, gradient: &Tensor, row_bytes: usize) -> Option<Arc<Guide>> {
        match &mut self.mode {
            Mode::Record { guides, .. } => {
                let guide = Guide::of(gradient, row_bytes).ok().map(Arc::new);
                guides.push(guide.clone());
                guide
            }
            Mode::Compare { guides, guided, .. } => {
                *guided += 1;
                guides.get(*guided - 1).cloned().flatten()
            }
        }
    }
}

/// Passes text to a watcher as it is formatted, without a buffer.
struct TextWriter<'a>(&'a mut Watcher);

impl Write for TextWriter<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.bytes(text.as_bytes());
        Ok(())
    }
}

/// Tensors of less bytes are compared in full.
fn small_bytes(state: &TensorState<'_>) -> usize {
    match state.is_vector() {
        true => SMALL_VECTOR_BYTES,
        false => SMALL_BYTES,
    }
}

/// The gradient that a training step left: an optimiser may write the elements, which does not change
/// the version. Only of leaves: reading it of others logs a warning.
fn gradient(tensor: &Tensor) -> Option<Tensor> {
    let gradient = tensor.is_leaf().then(|| tensor.grad())?;
    gradient.defined().then_some(gradient)
}

/// Whether elements that are not contiguous on the CPU are worth copying there on every call.
pub(crate) fn is_worth_a_copy(tensor: &Tensor, state: &TensorState<'_>) -> bool {
    let bytes = || tensor.numel() * tensor.kind().elt_size_in_bytes();
    layout::is_strided(tensor)
        && (bytes() < SMALL_BYTES || state.requires_grad() || gradient(tensor).is_some())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::identity::fingerprint::{Fingerprint, Fingerprinter};

    fn changed<T: Fingerprint + ?Sized>(snapshot: &Snapshot, value: &T) -> bool {
        let visit = |watcher: &mut Watcher| {
            value.fingerprint(&mut Fingerprinter::watch(watcher));
        };
        snapshot.compare(visit).changed
    }

    fn record<T: Fingerprint + ?Sized>(value: &T) -> Snapshot {
        let visit = |watcher: &mut Watcher| {
            value.fingerprint(&mut Fingerprinter::watch(watcher));
        };
        Snapshot::record(visit).0
    }

    /// Writes without a change of the version, as `nn::Sgd` does.
    fn write_unseen(tensor: &Tensor) {
        let _ = tensor.data().fill_(7.0);
    }

    #[test]
    fn a_write_in_place_is_noticed() {
        let mut tensor = Tensor::zeros([2], tch::kind::FLOAT_CPU);
        let snapshot = record(&tensor);
        assert!(!changed(&snapshot, &tensor));
        let _ = tensor.fill_(1.0);
        assert!(changed(&snapshot, &tensor));
    }

    /// Only the version counter shows it.
    #[test]
    fn an_edit_between_the_samples_is_noticed() {
        let tensor = Tensor::zeros([1 << 16], tch::kind::FLOAT_CPU);
        let snapshot = record(&tensor);
        assert!(!changed(&snapshot, &tensor));
        let _ = tensor.narrow(0, 5, 1).fill_(1.0);
        assert!(changed(&snapshot, &tensor));
    }

    #[test]
    fn an_unseen_write_to_any_row_of_a_table_is_noticed() {
        let float = tch::kind::FLOAT_CPU;
        for (rows, columns) in [(40_000, 8), (3_000, 64), (300, 768), (20, 5_000)] {
            for transposed in [false, true] {
                let table = match transposed {
                    false => Tensor::rand([rows, columns], float),
                    true => Tensor::rand([columns, rows], float).tr(),
                };
                let snapshot = record(&table);
                assert!(!changed(&snapshot, &table));
                for row in [0, 1, rows / 2, rows - 1] {
                    let row = table.narrow(0, row, 1);
                    let before = row.copy();
                    write_unseen(&row);
                    assert!(
                        changed(&snapshot, &table),
                        "{rows} x {columns}, {transposed}"
                    );
                    row.data().copy_(&before);
                    assert!(!changed(&snapshot, &table));
                }
            }
        }
    }

    #[test]
    fn the_sampled_columns_move_from_row_to_row() {
        let table = Tensor::zeros([1_000, 64], tch::kind::FLOAT_CPU);
        let snapshot = record(&table);
        for column in 0..64 {
            let column = table.narrow(1, column, 1);
            write_unseen(&column);
            assert!(changed(&snapshot, &table));
            let _ = column.data().fill_(0.0);
        }
        assert!(!changed(&snapshot, &table));
    }

    /// Works on any device.
    #[test]
    fn a_weight_on_a_device_is_compared_with_its_gradient() {
        let weight = Tensor::rand([300, 400], tch::kind::FLOAT_CPU).set_requires_grad(true);
        weight.square().sum(tch::Kind::Float).backward();
        let visit = |watcher: &mut Watcher| {
            let mut state = TensorState::new();
            assert!(state.read(&weight));
            watcher.elements_on_device(&weight, &state, &state.extents().unwrap());
        };
        let (snapshot, _) = Snapshot::record(visit);
        let changed = || snapshot.compare(visit).changed;
        assert!(!changed());
        for tensor in [&weight, &weight.grad()] {
            let before = tensor.copy();
            write_unseen(tensor);
            assert!(changed());
            tensor.data().copy_(&before);
            assert!(!changed());
        }
    }

    #[test]
    fn replaced_storage_is_noticed() {
        let mut tensor = Tensor::from_slice(&[1.000_1f32; 4096]);
        let snapshot = record(&tensor);
        // Rounds the weights, keeps version, kind and shape, and frees the first storage.
        let half = tensor.to_kind(tch::Kind::Half);
        tensor.set_data(&half);
        let float = tensor.to_kind(tch::Kind::Float);
        tensor.set_data(&float);
        drop((half, float));
        assert!(changed(&snapshot, &tensor));
    }

    #[test]
    fn a_write_to_the_values_of_a_sparse_tensor_is_noticed() {
        let dense = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 0.0]).view([2, 2]);
        for sparse in [
            dense.to_sparse(None, None::<&[i64]>, None).coalesce(),
            dense.to_sparse_csr(None),
        ] {
            let snapshot = record(&sparse);
            assert!(!changed(&snapshot, &sparse));
            let _ = sparse.values().fill_(5.0);
            assert!(changed(&snapshot, &sparse), "{sparse:?}");
        }
    }

    #[test]
    fn a_transposed_square_matrix_is_noticed() {
        let tensor = Tensor::rand([3, 3], tch::kind::FLOAT_CPU);
        assert!(changed(&record(&tensor), &tensor.tr()));
    }

    #[test]
    fn plain_values_are_watched() {
        let snapshot = record(&(1u8, "ab".to_owned()));
        assert!(!changed(&snapshot, &(1u8, "ab".to_owned())));
        assert!(changed(&snapshot, &(1u8, "ac".to_owned())));
        assert!(changed(&snapshot, &(2u8, "ab".to_owned())));
        assert!(changed(&snapshot, &1u8));
    }

    /// Each of the values differs from the first.
    fn differ<T: Fingerprint>(values: impl IntoIterator<Item = T>) {
        let values: Vec<T> = values.into_iter().collect();
        let snapshot = record(&values[0]);
        assert!(!changed(&snapshot, &values[0]));
        for (number, value) in values.iter().enumerate().skip(1) {
            assert!(changed(&snapshot, value), "value {number}");
        }
    }

    #[test]
    fn any_change_of_a_collection_is_noticed() {
        let mut vocabulary: HashMap<String, i64> =
            (0..20_000).map(|n| (format!("token {n}"), n)).collect();
        let snapshot = record(&vocabulary);
        assert!(snapshot.words.len() < 100, "{}", snapshot.words.len());
        for n in (0..20_000).step_by(999) {
            let value = vocabulary.get_mut(&format!("token {n}")).unwrap();
            *value += 1;
            assert!(changed(&snapshot, &vocabulary), "{n}");
            *vocabulary.get_mut(&format!("token {n}")).unwrap() -= 1;
            assert!(!changed(&snapshot, &vocabulary), "{n}");
        }
        let list = |at: usize, by: f64| {
            let mut list = vec![1.5; 50_000];
            list[at] += by;
            list
        };
        differ([(0, 0.0), (0, 1.0), (30_000, -3.0), (49_999, 1e-9)].map(|(at, by)| list(at, by)));
        differ([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]);
        differ([
            vec!["ab", "c"],
            vec!["a", "bc"],
            vec!["abc", ""],
            vec!["ab"],
            vec!["ab", "c", ""],
        ]);
        differ([
            vec![vec![1u8], vec![]],
            vec![vec![], vec![1]],
            vec![vec![1, 0], vec![]],
            vec![vec![1]],
        ]);
        differ([vec![None, Some(0u8)], vec![Some(0), None], vec![None, None]]);
    }

    #[test]
    fn the_types_of_elements_are_watched() {
        fn boxed<T: Fingerprint + 'static>(value: T) -> Box<dyn Fingerprint> {
            Box::new(value)
        }
        differ([boxed(5i64), boxed(5u64), boxed(5.0f64)].map(|value| vec![Some(value), None]));
        // The type of a collection depends on a value.
        struct Either(bool);
        impl Fingerprint for Either {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                match self.0 {
                    true => f.field("x", &vec![1u32, 2]),
                    false => f.field("x", &vec![1i32, 2]),
                }
            }
        }
        differ([Either(true), Either(false)]);
        let tensors = |n: f64| vec![(1, Some(Tensor::from_slice(&[n]))), (2, None)];
        differ([tensors(1.0), tensors(2.0)]);
    }

    /// One value in a field and type whose names are given.
    struct Named(&'static str, &'static str);

    impl Fingerprint for Named {
        fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
            f.field(self.0, &Typed(self.1));
        }
    }

    struct Typed(&'static str);

    impl Fingerprint for Typed {
        fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
            f.plain(self.0, &[1], &1);
        }
    }

    #[test]
    fn names_and_types_are_watched() {
        let snapshot = record(&Named("scale", "f32"));
        assert!(!changed(&snapshot, &Named("scale", "f32")));
        assert!(changed(&snapshot, &Named("shift", "f32")));
        assert!(changed(&snapshot, &Named("scale", "i32")));
    }

    /// Fields in fields, or next to each other.
    struct Tree(bool);

    impl Fingerprint for Tree {
        fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
            if self.0 {
                f.field("a", &Named("b", "u8"));
            } else {
                f.field("a", &());
                f.field("b", &Typed("u8"));
            }
        }
    }

    #[test]
    fn nesting_is_watched() {
        let snapshot = record(&Tree(true));
        assert!(!changed(&snapshot, &Tree(true)));
        assert!(changed(&snapshot, &Tree(false)));
    }

    #[test]
    fn a_tensor_is_trainable_only_in_grad_mode() {
        let tensor = Tensor::zeros([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let (snapshot, seen) = Snapshot::record(|watcher| watcher.tensor(&tensor));
        assert!(seen.trainable);
        let _guard = tch::no_grad_guard();
        assert!(
            !snapshot
                .compare(|watcher| watcher.tensor(&tensor))
                .trainable
        );
    }
}
