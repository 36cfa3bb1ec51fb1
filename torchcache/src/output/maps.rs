//! Maps of tensors. Their keys are constants: the same for all rows, and kept with the lengths of vectors.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};

use tch::Tensor;

use super::{Batched, Constant, constants};

fn structure<V: Batched>(text: &mut String) {
    text.push('%');
    V::structure(text);
}

fn flatten<K: Constant, V: Batched>(
    entries: impl ExactSizeIterator<Item = (K, V)>,
    tensors: &mut Vec<Tensor>,
    lengths: &mut Vec<u32>,
) {
    lengths.push(u32::try_from(entries.len()).expect("fewer than 2^32 tensors"));
    for (key, value) in entries {
        constants::write(&key, lengths);
        value.flatten_into(tensors, lengths);
    }
}

fn unflatten<K: Constant, V: Batched, M: FromIterator<(K, V)>>(
    tensors: &mut dyn Iterator<Item = Tensor>,
    lengths: &mut dyn Iterator<Item = u32>,
) -> Option<M> {
    (0..lengths.next()?)
        .map(|_| Some((constants::read(lengths)?, V::unflatten(tensors, lengths)?)))
        .collect()
}

impl<K: Constant + Ord, V: Batched> Batched for BTreeMap<K, V> {
    fn structure(text: &mut String) {
        structure::<V>(text);
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        flatten(self.into_iter(), tensors, lengths);
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        unflatten(tensors, lengths)
    }
}

/// In the order of the keys' bytes: that of the map differs between calls.
impl<K: Constant + Eq + Hash, V: Batched, S: BuildHasher + Default> Batched for HashMap<K, V, S> {
    fn structure(text: &mut String) {
        structure::<V>(text);
    }

    fn flatten_into(self, tensors: &mut Vec<Tensor>, lengths: &mut Vec<u32>) {
        let mut entries: Vec<_> = self.into_iter().collect();
        entries.sort_by_cached_key(|(key, _)| {
            let mut bytes = Vec::new();
            key.write(&mut bytes);
            bytes
        });
        flatten(entries.into_iter(), tensors, lengths);
    }

    fn unflatten(
        tensors: &mut dyn Iterator<Item = Tensor>,
        lengths: &mut dyn Iterator<Item = u32>,
    ) -> Option<Self> {
        unflatten(tensors, lengths)
    }
}
