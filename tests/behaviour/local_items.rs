//! Items that only their place in the source tells apart, in one process and in two.

#[path = "../local_items.rs"]
mod items;

use std::marker::PhantomData;

use items::WAYS;
use tch::Tensor;
use tch::nn::Module;
use torchcache::{Fingerprint, TorchCache, torchcache};

use crate::multi_process::{child, succeed};
use crate::support::{assert_computed_once, assert_panics, counts, random, same};

#[test]
fn items_of_one_name_do_not_share_rows() {
    let xs = random(&[3, 2]);
    for (way, make) in WAYS {
        // All are alive at once: only then could they share a memory tier.
        let items = make();
        for call in 0..2 {
            for item in &items {
                let (ys, stats) = (item.call)(&xs);
                assert!(same(&ys, &(&xs * item.factor)), "{way}: {}", item.factor);
                assert_eq!((stats.misses, stats.hits()), (3, 3 * call), "{way}");
            }
        }
    }
}

#[test]
fn items_of_one_name_keep_their_rows_across_processes() {
    let root = tempfile::tempdir().unwrap();
    for counts in ["hits 0 misses 4", "hits 4 misses 0"] {
        let expected = WAYS.map(|(way, _)| format!("{way}: right true {counts}"));
        for which in ["0", "1"] {
            let found = succeed(child(Some(root.path()), &["local-items", which]));
            assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{which}");
        }
    }
}

#[test]
fn items_that_nothing_tells_apart_are_refused() {
    let xs = random(&[3, 2]);
    let (two, cache) = {
        const K: f64 = 2.0;
        include!("../scaled.in")
    };
    let (three, _) = {
        const K: f64 = 3.0;
        include!("../scaled.in")
    };
    assert!(same(&two(&xs), &(&xs * 2.0)));
    let texts = [
        "scaled.in:3:5",
        "have the same identity",
        "different versions or names",
    ];
    assert_panics(&texts, || three(&xs));
    assert!(same(&two(&xs), &(&xs * 2.0)));
    assert_eq!(counts(cache), (3, 3, 0));
}

/// From the same tokens of one expansion, with one name for their module hashes, which stands for their code.
#[test]
fn items_with_one_module_hash_that_nothing_tells_apart_are_refused() {
    macro_rules! scaled {
        ($($version:literal: $k:literal),*) => {
            [$({
                #[torchcache(persistent_module_hash = "one-for-all")]
                #[derive(Debug, Default)]
                struct Scale {
                    torchcache: TorchCache,
                }
                #[torchcache]
                impl Scale {
                    #[torchcache(version = $version)]
                    fn scaled(&self, xs: &Tensor) -> Tensor {
                        xs * $k
                    }
                }
                let scale = Scale::default();
                Box::new(move |xs: &Tensor| scale.scaled(xs)) as Box<dyn Fn(&Tensor) -> Tensor>
            }),*]
        };
    }
    let xs = random(&[3, 2]);
    let [first, same_version, other_version] = scaled!["1": 2.0, "1": 3.0, "2": 4.0];
    assert!(same(&first(&xs), &(&xs * 2.0)));
    assert_panics(&["have the same identity"], || same_version(&xs));
    assert!(same(&other_version(&xs), &(&xs * 4.0)));
}

#[test]
fn a_handle_moved_to_an_item_of_one_name_is_that_items() {
    let xs = random(&[3, 2]);
    let torchcache = {
        #[torchcache]
        #[derive(Debug, Default)]
        struct Scale {
            torchcache: TorchCache,
        }
        #[torchcache]
        impl Module for Scale {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * 2
            }
        }
        let scale = Scale::default();
        assert!(same(&scale.forward(&xs), &(&xs * 2)));
        scale.torchcache
    };
    #[torchcache]
    #[derive(Debug)]
    struct Scale {
        torchcache: TorchCache,
    }
    #[torchcache]
    impl Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * 3
        }
    }
    let scale = Scale { torchcache };
    assert!(same(&scale.forward(&xs), &(&xs * 3)));
    assert_eq!(counts(&scale.torchcache), (6, 0, 0));
}

mod r#fn {
    use super::*;

    #[torchcache(persistent = true)]
    pub(super) fn r#match(xs: &Tensor) -> Tensor {
        xs * 2
    }

    #[derive(Debug, Fingerprint)]
    pub(super) enum Factor {
        Two,
    }

    #[torchcache(persistent = true)]
    #[derive(Debug)]
    pub(super) struct Generic<'a, T> {
        pub(super) factor: Factor,
        pub(super) name: &'a str,
        pub(super) mark: PhantomData<fn(&T) -> T>,
        pub(super) torchcache: TorchCache,
    }

    #[torchcache]
    impl<T: std::fmt::Debug> Module for Generic<'_, Option<T>> {
        fn forward(&self, xs: &Tensor) -> Tensor {
            match self.factor {
                Factor::Two => xs * 2,
            }
        }
    }
}

/// The parts of an identity.
fn manifest(cache: &TorchCache) -> String {
    let manifest = cache.directory().unwrap().join("manifest.json");
    std::fs::read_to_string(manifest).unwrap()
}

/// Or else every edit above an item would change its identity.
#[test]
fn the_place_of_an_item_in_a_module_is_not_in_its_identity() {
    let module = r#fn::Generic {
        factor: r#fn::Factor::Two,
        name: "a",
        mark: PhantomData::<fn(&Option<u8>) -> Option<u8>>,
        torchcache: TorchCache::default(),
    };
    let cache = r#fn::match_cache();
    assert_computed_once(cache, r#fn::r#match, |xs| xs * 2);
    assert_computed_once(&module.torchcache, |xs| module.forward(xs), |xs| xs * 2);
    for cache in [cache, &module.torchcache] {
        let manifest = manifest(cache);
        for part in ["\"place\"", "\"impl\"", "\"type id\"", "local_items.rs"] {
            assert!(!manifest.contains(part), "{part}: {manifest}");
        }
    }
}

/// Such a number is another one in other builds, and the place tells these apart.
#[test]
fn the_number_of_a_type_is_not_in_the_identity_of_written_items() {
    #[derive(Debug, Fingerprint)]
    struct Factor(f64);

    #[torchcache(persistent = true)]
    #[derive(Debug)]
    struct Scale {
        factor: Factor,
        torchcache: TorchCache,
    }

    #[torchcache]
    impl Module for Scale {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs * self.factor.0
        }
    }

    #[torchcache(persistent = true)]
    fn scaled(xs: &Tensor) -> Tensor {
        xs * 2
    }

    let scale = Scale {
        factor: Factor(2.0),
        torchcache: TorchCache::default(),
    };
    assert_computed_once(scaled_cache(), scaled, |xs| xs * 2);
    assert_computed_once(&scale.torchcache, |xs| scale.forward(xs), |xs| xs * 2);
    for cache in [scaled_cache(), &scale.torchcache] {
        let manifest = manifest(cache);
        assert!(manifest.contains("behaviour/local_items.rs:"), "{manifest}");
        // Nothing of it is as if a macro had made the item.
        assert!(!manifest.contains(" (from "), "{manifest}");
    }
}
