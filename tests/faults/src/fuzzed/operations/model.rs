//! What a store must hold, by the numbers of rows: the possible values of each, the rows that a process
//! finds when it opens the directory, and those that survive a power cut.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use torchcache_store::{Key, Located, RowBatch, Store};

use super::input::RowPattern;
use crate::rows;

/// How many rows there are.
pub(super) const KEYS: usize = 32;

/// Rows, by their numbers.
pub(super) type Numbers = BTreeSet<usize>;

/// A key may be put with values of these lengths, each under a schema of its own.
const LENGTHS: [usize; 4] = [0, 8, 61, 900];

/// All keys, each with its values.
static ALL: LazyLock<Vec<(Key, [Vec<u8>; LENGTHS.len()])>> = LazyLock::new(|| {
    let key = |n| rows::key(n as u64);
    let values = |key: &Key| LENGTHS.map(|len| rows::value(key, len));
    (0..KEYS).map(|n| (key(n), values(&key(n)))).collect()
});

fn schema(variant: usize) -> [u8; 1] {
    [variant as u8]
}

/// The possible values of each row: a bit for each.
#[derive(Debug, Default)]
pub(super) struct Values([u8; KEYS]);

impl Values {
    pub(super) fn may_be(&mut self, number: usize, variant: usize) {
        self.0[number] |= 1 << variant;
    }

    pub(super) fn must_be(&mut self, number: usize, variant: usize) {
        self.0[number] = 1 << variant;
    }

    fn allow(&self, number: usize, schema_got: &[u8], value: &[u8]) -> bool {
        let mut variants = (0..LENGTHS.len()).filter(|variant| self.0[number] >> variant & 1 == 1);
        variants.any(|variant| (schema_got, value) == (&schema(variant), &*ALL[number].1[variant]))
    }

    /// Rows that a store has, each of them checked.
    pub(super) fn read_checked(
        &self,
        store: &Store,
        numbers: impl Iterator<Item = usize>,
    ) -> Numbers {
        let numbers: Vec<usize> = numbers.collect();
        let keys: Vec<Key> = numbers.iter().map(|number| ALL[*number].0).collect();
        let located = store.locate(&keys);
        let slots = numbers.into_iter().zip(located);
        let (numbers, found): (Vec<usize>, Vec<Located>) = slots
            .filter_map(|(number, found)| Some((number, found?)))
            .unzip();
        let mut values: Vec<Vec<u8>> = found.iter().map(|found| vec![0xEE; found.len]).collect();
        let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
        let read = store.read(&found, &mut out);
        let mut there = Numbers::new();
        for (((number, found), value), was_read) in
            numbers.into_iter().zip(&found).zip(&values).zip(read)
        {
            if was_read {
                let is_right = self.allow(number, found.schema(), value);
                assert!(is_right, "row {number} is {:?}, {value:?}", found.schema());
                there.insert(number);
            }
        }
        there
    }
}

/// Which rows a store finds, whether or not they can be read.
pub(super) fn located(store: &Store) -> usize {
    let keys: Vec<Key> = ALL.iter().map(|row| row.0).collect();
    store.locate(&keys).iter().flatten().count()
}

impl RowPattern {
    pub(super) fn numbers(self) -> Vec<usize> {
        let number = |n: usize| usize::from(self.from) + n * usize::from(self.step % 4);
        (0..usize::from(self.count % 12))
            .map(|n| number(n) % KEYS)
            .collect()
    }

    pub(super) fn keys(self) -> Vec<Key> {
        self.numbers()
            .into_iter()
            .map(|number| ALL[number].0)
            .collect()
    }

    pub(super) fn variant(self) -> usize {
        usize::from(self.variant) % LENGTHS.len()
    }

    pub(super) fn batch(self) -> RowBatch {
        let (rows, keys, variant) = (self.numbers(), self.keys(), self.variant());
        let values = rows
            .iter()
            .flat_map(|number| ALL[*number].1[variant].clone());
        let (schema, len) = (schema(variant).as_slice().into(), LENGTHS[variant]);
        let batch = RowBatch::new(keys, schema, values.collect(), len).expect("the parts fit");
        batch.element_bytes(1 << variant)
    }
}
