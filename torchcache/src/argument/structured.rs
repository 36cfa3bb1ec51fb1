//! [`Argument`] for tensors, and for values made of them: references, options, lists, tuples, maps and
//! recurrent states.
//!
//! The structure of a value is part of the keys: how long its lists are, which options are `Some`, and
//! its plain values. Its tensors are added in order, and taken in the same order from the rows to compute.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};

use tch::{Tensor, nn};

use super::arguments::Arguments;
use super::rows::Nothing;
use super::{Argument, PlainArgument, RowTensors};
use crate::identity::{Collector, Fingerprint, Fingerprinter};
use crate::tensor::layout;

/// The rows of the next tensor.
fn next<'r>(tensors: &mut RowTensors<'r>) -> &'r Tensor {
    tensors
        .next()
        .expect("there are rows of each tensor that was described")
}

impl<'r> Argument<'r> for Tensor {
    type Held = Nothing;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.tensor(self);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, _: &'r mut Nothing) -> Self {
        next(tensors).shallow_clone()
    }
}

impl<'r, T: Argument<'r>> Argument<'r> for &'r T {
    type Held = (Option<T>, T::Held);

    fn describe(&self, arguments: &mut Arguments) {
        T::describe(self, arguments);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, (value, held): &'r mut Self::Held) -> Self {
        value.insert(T::rows(self, tensors, held))
    }
}

impl<'r, T: Argument<'r>> Argument<'r> for Option<T> {
    type Held = T::Held;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.mark(if self.is_some() { b"?1" } else { b"?0" });
        if let Some(value) = self {
            value.describe(arguments);
        }
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut T::Held) -> Self {
        self.as_ref().map(|value| value.rows(tensors, held))
    }
}

fn describe_list<'r, T: Argument<'r>>(list: &[T], arguments: &mut Arguments) {
    arguments.mark_list(list.len());
    list.iter().for_each(|value| value.describe(arguments));
}

fn list_rows<'r, T: Argument<'r>>(
    list: &[T],
    tensors: &mut RowTensors<'r>,
    held: &'r mut Vec<T::Held>,
) -> Vec<T> {
    held.resize_with(list.len(), T::Held::default);
    let values = list.iter().zip(held);
    values
        .map(|(value, held)| value.rows(tensors, held))
        .collect()
}

impl<'r, T: Argument<'r>> Argument<'r> for Vec<T> {
    type Held = Vec<T::Held>;

    fn describe(&self, arguments: &mut Arguments) {
        describe_list(self, arguments);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut Self::Held) -> Self {
        list_rows(self, tensors, held)
    }
}

impl<'r, T: Argument<'r>> Argument<'r> for &'r [T] {
    type Held = (Vec<T>, Vec<T::Held>);

    fn describe(&self, arguments: &mut Arguments) {
        describe_list(self, arguments);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, (values, held): &'r mut Self::Held) -> Self {
        *values = list_rows(self, tensors, held);
        values
    }
}

impl<'r, T: Argument<'r>, const N: usize> Argument<'r> for [T; N] {
    type Held = Vec<T::Held>;

    fn describe(&self, arguments: &mut Arguments) {
        describe_list(self, arguments);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut Self::Held) -> Self {
        let values = list_rows(self, tensors, held).try_into();
        values.unwrap_or_else(|_| unreachable!("as many as in the array"))
    }
}

macro_rules! tuples {
    ($(($($type:ident $position:tt),+))*) => {$(
        impl<'r, $($type: Argument<'r>),+> Argument<'r> for ($($type,)+) {
            type Held = ($($type::Held,)+);

            fn describe(&self, arguments: &mut Arguments) {
                arguments.mark(b"(");
                $(self.$position.describe(arguments);)+
                arguments.mark(b")");
            }

            fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut Self::Held) -> Self {
                ($(self.$position.rows(tensors, &mut held.$position),)+)
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

fn describe_map<'r, 'm, K: PlainArgument + 'm, T: Argument<'r> + 'm>(
    entries: impl ExactSizeIterator<Item = (&'m K, &'m T)>,
    arguments: &mut Arguments,
) {
    arguments.mark(b"map");
    arguments.mark_list(entries.len());
    for (key, value) in entries {
        arguments.value(key);
        value.describe(arguments);
    }
}

fn map_rows<'r, 'm, K: PlainArgument + 'm, T: Argument<'r> + 'm, M: FromIterator<(K, T)>>(
    entries: impl ExactSizeIterator<Item = (&'m K, &'m T)>,
    tensors: &mut RowTensors<'r>,
    held: &'r mut Vec<T::Held>,
) -> M {
    held.resize_with(entries.len(), T::Held::default);
    let entries = entries.zip(held);
    entries
        .map(|((key, value), held)| (key.clone(), value.rows(tensors, held)))
        .collect()
}

impl<'r, K: PlainArgument + Ord, T: Argument<'r>> Argument<'r> for BTreeMap<K, T> {
    type Held = Vec<T::Held>;

    fn describe(&self, arguments: &mut Arguments) {
        describe_map(self.iter(), arguments);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut Self::Held) -> Self {
        map_rows(self.iter(), tensors, held)
    }
}

impl<'r, K, T, S> Argument<'r> for HashMap<K, T, S>
where
    K: PlainArgument + Eq + Hash,
    T: Argument<'r>,
    S: BuildHasher + Default,
{
    type Held = Vec<T::Held>;

    fn describe(&self, arguments: &mut Arguments) {
        describe_map(by_digest(self).into_iter(), arguments);
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, held: &'r mut Self::Held) -> Self {
        map_rows(by_digest(self).into_iter(), tensors, held)
    }
}

/// The entries in an order that equal maps share.
fn by_digest<K: Fingerprint, T, S>(map: &HashMap<K, T, S>) -> Vec<(&K, &T)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_cached_key(|(key, _)| {
        let mut collector = Collector::default();
        key.fingerprint(&mut Fingerprinter::hash(&mut collector));
        collector.digest()
    });
    entries
}

/// Of a state of several layers, `[layers, batch, size]`, each layer is a part of the row.
impl<'r> Argument<'r> for nn::GRUState {
    type Held = Nothing;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.mark(b"GRU");
        arguments.tensor(&layout::batch_first(&self.0));
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, _: &'r mut Nothing) -> Self {
        nn::GRUState(state_rows(&self.0, tensors))
    }
}

impl<'r> Argument<'r> for nn::LSTMState {
    type Held = Nothing;

    fn describe(&self, arguments: &mut Arguments) {
        arguments.mark(b"LSTM");
        arguments.tensor(&layout::batch_first(&self.0.0));
        arguments.tensor(&layout::batch_first(&self.0.1));
    }

    fn rows(&self, tensors: &mut RowTensors<'r>, _: &'r mut Nothing) -> Self {
        let (h, c) = &self.0;
        nn::LSTMState((state_rows(h, tensors), state_rows(c, tensors)))
    }
}

/// The next tensor with the layers first: the caller's own where all of its rows are to be computed, else contiguous.
fn state_rows(state: &Tensor, tensors: &mut RowTensors<'_>) -> Tensor {
    let rows = next(tensors);
    // Only strided tensors are cut.
    let is_whole = !layout::is_strided(rows)
        || rows.data_ptr() == state.data_ptr() && layout::batch_first(state).size() == rows.size();
    match is_whole {
        true => state.shallow_clone(),
        false => layout::layers_first(rows),
    }
}
