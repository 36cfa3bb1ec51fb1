//! The store against a map, over random sequences of what a caller and the world may do.

use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;
use torchcache_store::{Compression, Config, Key, RowBatch, Store};

use crate::common::{batch, count_right, fetch_all, key, keys, patient, segments};

/// Few enough that keys meet again.
const KEYS: u64 = 60;

#[derive(Clone, Debug)]
enum Step {
    Put { from: u64, rows: u64, len: usize },
    Flush,
    Reopen { compressed: bool, mmap: bool },
    Refresh,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..KEYS, 1..9u64, 0..40usize).prop_map(|(from, rows, len)| Step::Put { from, rows, len }),
        5 => Just(Step::Flush),
        2 => any::<(bool, bool)>().prop_map(|(compressed, mmap)| Step::Reopen { compressed, mmap }),
        1 => Just(Step::Refresh),
        1 => Just(Step::Clear),
    ]
}

#[derive(Clone, Debug)]
enum Harm {
    Put { from: u64, rows: u64 },
    Flush,
    Reopen,
    Flip { file: usize, at: usize, by: u8 },
    Cut { file: usize, at: usize },
    Remove { file: usize },
    Double { file: usize },
    Clear,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        8 => (0..KEYS, 1..9u64).prop_map(|(from, rows)| Harm::Put { from, rows }),
        5 => Just(Harm::Flush),
        3 => Just(Harm::Reopen),
        3 => any::<(usize, usize, u8)>().prop_map(|(file, at, by)| Harm::Flip { file, at, by }),
        1 => any::<(usize, usize)>().prop_map(|(file, at)| Harm::Cut { file, at }),
        1 => any::<usize>().prop_map(|file| Harm::Remove { file }),
        1 => any::<usize>().prop_map(|file| Harm::Double { file }),
        1 => Just(Harm::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_harm_the_store_is_a_map_where_the_first_value_wins(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut store = Store::open(dir.path(), patient()).expect("it opens");
        let mut model: HashMap<Key, Vec<u8>> = HashMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { from, rows, len } => {
                    let keys = keys(from..from + rows);
                    // The step's number is in the value, so that a later put is told apart.
                    let values = vec![n as u8; keys.len() * len];
                    for key in &keys {
                        model.entry(*key).or_insert_with(|| vec![n as u8; len]);
                    }
                    store.put(RowBatch::new(keys, b"u8"[..].into(), values, len).expect("it fits"));
                }
                Step::Flush => store.flush().expect("it is written"),
                Step::Reopen { compressed, mmap } => {
                    drop(store);
                    let compression = compressed.then_some(Compression { level: 1, threads: 1 });
                    let config = Config { compression, mmap, ..patient() };
                    store = Store::open(dir.path(), config).expect("it opens");
                }
                Step::Refresh => store.refresh(),
                Step::Clear => {
                    store.clear();
                    model.clear();
                }
            }
            let all = keys(0..KEYS + 10);
            for (key, row) in all.iter().zip(fetch_all(&store, &all)) {
                prop_assert_eq!(row.as_ref(), model.get(key));
            }
            let stats = store.stats();
            prop_assert_eq!((stats.rows + stats.pending_rows, stats.faults.total()), (model.len() as u64, 0));
        }
    }

    #[test]
    fn with_any_harm_a_row_is_right_or_a_miss(harms in prop::collection::vec(harm(), 1..60)) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = Config { compression: Some(Compression { level: 1, threads: 1 }), ..patient() };
        let mut store = Store::open(dir.path(), config.clone()).expect("it opens");
        for harm in harms {
            let files = segments(dir.path());
            let pick = |file: usize| files.get(file % files.len().max(1)).cloned();
            match harm {
                Harm::Put { from, rows } => {
                    store.put(batch(&keys(from..from + rows), "u8", 90));
                }
                Harm::Flush => store.flush().expect("the disk works"),
                Harm::Reopen => {
                    drop(store);
                    store = Store::open(dir.path(), config.clone()).expect("it opens");
                }
                Harm::Flip { file, at, by } => if let Some(path) = pick(file) {
                    let mut bytes = fs::read(&path).expect("it can be read");
                    let at = at % bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(at) { *byte ^= by }
                    fs::write(&path, bytes).expect("it can be written");
                },
                Harm::Cut { file, at } => if let Some(path) = pick(file) {
                    let bytes = fs::read(&path).expect("it can be read");
                    fs::write(&path, &bytes[..at % (bytes.len() + 1)]).expect("it can be written");
                },
                Harm::Remove { file } => if let Some(path) = pick(file) {
                    fs::remove_file(path).expect("it can be removed");
                },
                Harm::Double { file } => if let Some(path) = pick(file) {
                    let mut name = path.file_stem().expect("a name").to_owned();
                    name.push("-again.tcs");
                    fs::copy(&path, dir.path().join(name)).expect("it is copied");
                },
                Harm::Clear => store.clear(),
            }
            // Panics over a wrong row.
            count_right(&store, &keys(0..KEYS + 10), 90);
        }
        // And whatever happened, the store still works.
        store.put(batch(&[key(KEYS + 50)], "u8", 90));
        store.flush().expect("the disk works");
        prop_assert_eq!(count_right(&store, &[key(KEYS + 50)], 90), 1);
    }
}
