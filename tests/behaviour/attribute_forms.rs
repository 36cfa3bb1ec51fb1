//! The attribute in code of all shapes: it compiles without warnings and caches.

#![deny(warnings)]

use tch::{Kind, Tensor};

use crate::support::{device, random, same};

/// No prelude, user types with the prelude's names, and a renamed import.
mod without_a_prelude {
    #![no_implicit_prelude]

    use ::tch::Tensor;
    use ::tch::nn::Module;
    use ::torchcache::TorchCache;
    use ::torchcache::torchcache as remember;

    #[derive(::std::fmt::Debug)]
    pub(super) struct Result;
    #[derive(::std::fmt::Debug)]
    pub(super) struct Option;
    #[expect(dead_code, reason = "shadows the prelude's type")]
    pub(super) struct Vec;
    #[expect(dead_code, reason = "shadows the prelude's type")]
    pub(super) struct String;

    #[remember(enabled = true)]
    #[derive(::std::fmt::Debug)]
    pub(super) struct Plain {
        #[torchcache(skip)]
        pub(super) result: Result,
        #[torchcache(skip)]
        pub(super) option: Option,
        pub(super) torchcache: TorchCache,
    }

    #[remember]
    impl Module for Plain {
        fn forward(&self, xs: &Tensor) -> Tensor {
            xs.f_mul_scalar(2).unwrap()
        }
    }

    /// A documented function.
    #[remember]
    pub(super) fn doubled(xs: &Tensor) -> Tensor {
        xs.f_mul_scalar(2).unwrap()
    }
}

#[test]
fn generated_code_does_not_depend_on_names_in_scope() {
    use tch::nn::Module;
    let model = without_a_prelude::Plain {
        result: without_a_prelude::Result,
        option: without_a_prelude::Option,
        torchcache: torchcache::TorchCache::default(),
    };
    let _ = (&model.result, &model.option);
    let xs = random(&[2, 3]);
    for _ in 0..2 {
        assert!(same(&model.forward(&xs), &(&xs * 2)));
        assert!(same(&without_a_prelude::doubled(&xs), &(&xs * 2)));
    }
    assert_eq!(model.torchcache.stats().memory.hits, 2);
    assert_eq!(without_a_prelude::doubled::cache().stats().memory.hits, 2);
}

mod inherent {
    use tch::Tensor;
    use torchcache::{TorchCache, torchcache};

    #[torchcache]
    #[derive(Debug)]
    pub(super) struct Attention<'a> {
        pub(super) heads: &'a str,
        pub(super) cache: TorchCache,
    }

    #[torchcache]
    impl Attention<'_> {
        const FACTOR: f64 = 0.5;

        /// Several tensors, plain arguments of many types, patterns, `return` and `?`.
        pub(super) fn forward(
            &self,
            query: &Tensor,
            mut key: Tensor,
            mask: Option<&Tensor>,
            (low, high): (f64, f64),
            sizes: &[i64],
            _name: &str,
        ) -> Result<(Tensor, Vec<Tensor>), anyhow::Failure> {
            if sizes.is_empty() {
                return Err(anyhow::Failure("no sizes".into()));
            }
            let length: i64 = "3"
                .parse()
                .map_err(|_| anyhow::Failure("unreachable".into()))?;
            key = key.g_add_scalar(low);
            let mixed = query * high * Self::FACTOR + key;
            let masked = match mask {
                Some(mask) => &mixed * mask,
                None => mixed.shallow_clone(),
            };
            Ok((mixed, vec![masked.narrow(1, 0, length)]))
        }

        pub(super) fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
            if train {
                xs.shallow_clone()
            } else {
                xs * self.untouched()
            }
        }

        pub(super) fn untouched(&self) -> f64 {
            self.heads.len() as f64
        }
    }

    pub(super) mod anyhow {
        #[derive(Debug)]
        pub(crate) struct Failure(pub(crate) String);

        impl From<torchcache::Error> for Failure {
            fn from(error: torchcache::Error) -> Self {
                Failure(error.to_string())
            }
        }
    }
}

#[test]
fn inherent_forward_takes_many_arguments() {
    let model = inherent::Attention {
        heads: "four",
        cache: torchcache::TorchCache::default(),
    };
    let (query, key) = (random(&[5, 3]), random(&[5, 3]));
    let run = |mask: Option<&Tensor>, low| {
        let (mixed, parts) = model
            .forward(&query, key.shallow_clone(), mask, (low, 2.0), &[1, 2], "n")
            .unwrap();
        (mixed, parts.into_iter().next().unwrap())
    };
    let (mixed, part) = run(None, 0.0);
    assert!(same(&mixed, &(&query * 2.0 * 0.5 + &key)) && same(&part, &mixed));
    let (again, _) = run(None, 0.0);
    assert!(same(&again, &mixed));
    assert_eq!(model.cache.stats().misses, 5);
    let _ = run(Some(&query), 0.0);
    let _ = run(None, 1.0);
    assert_eq!(model.cache.stats().misses, 15);
    let failed = model
        .forward(&query, key.shallow_clone(), None, (0.0, 2.0), &[], "n")
        .unwrap_err();
    assert_eq!(failed.0, "no sizes");
    let odd = model
        .forward(&query, random(&[4, 3]), None, (0.0, 2.0), &[1], "n")
        .unwrap_err();
    assert!(odd.0.contains("batch sizes differ"), "{}", odd.0);
    for _ in 0..2 {
        assert!(same(&model.forward_t(&query, false), &(&query * 4.0)));
        assert!(same(&model.forward_t(&query, true), &query));
    }
    assert!((model.untouched() - 4.0).abs() < f64::EPSILON);
}

#[test]
fn a_nested_function_has_its_own_cache() {
    use torchcache::torchcache;

    #[torchcache]
    fn inner(xs: &Tensor, kind: Kind) -> Tensor {
        xs.to_kind(kind)
    }

    let xs = random(&[2, 2]);
    assert_eq!(inner(&xs, Kind::Half).kind(), Kind::Half);
    assert_eq!(inner(&xs, Kind::Double).kind(), Kind::Double);
    assert_eq!(inner(&xs, Kind::Half).device(), device());
    assert_eq!(
        (
            inner::cache().stats().misses,
            inner::cache().stats().memory.hits
        ),
        (4, 2)
    );
    assert_eq!(
        inner::cache().module_hash().map(|hash| hash.len()),
        Some(64)
    );
}

#[test]
fn a_function_has_its_hash_before_the_first_call() {
    assert_eq!(
        without_a_prelude::doubled::cache()
            .module_hash()
            .map(|hash| hash.len()),
        Some(64)
    );
}

/// Two functions with nested items of equal names and tokens, which refer to different constants.
mod same_names {
    use tch::Tensor;
    use tch::nn::Module;
    use torchcache::{TorchCache, torchcache};

    type Items = (fn(&Tensor) -> Tensor, &'static TorchCache, Box<dyn Module>);

    macro_rules! function {
        ($name:ident, $k:literal) => {
            pub(super) fn $name() -> Items {
                const K: f64 = $k;

                #[torchcache]
                fn scaled(xs: &Tensor) -> Tensor {
                    xs * K
                }

                #[torchcache]
                #[derive(Debug)]
                struct Scaled {
                    torchcache: TorchCache,
                }

                #[torchcache]
                impl Module for Scaled {
                    fn forward(&self, xs: &Tensor) -> Tensor {
                        xs * K
                    }
                }

                let torchcache = TorchCache::default();
                (scaled, scaled::cache(), Box::new(Scaled { torchcache }))
            }
        };
    }

    function!(two, 2.0);
    function!(three, 3.0);
}

#[test]
fn equally_named_nested_functions_do_not_share() {
    let ((two, two_cache, _), (three, three_cache, _)) = (same_names::two(), same_names::three());
    let xs = random(&[2, 3]);
    for _ in 0..2 {
        assert!(same(&two(&xs), &(&xs * 2.0)));
        assert!(same(&three(&xs), &(&xs * 3.0)));
    }
    assert_ne!(two_cache.module_hash(), three_cache.module_hash());
    for cache in [two_cache, three_cache] {
        assert_eq!((cache.stats().misses, cache.stats().memory.hits), (2, 2));
    }
}

#[test]
fn equally_named_nested_structs_do_not_share() {
    // Both are alive at once: only then could they share a memory tier.
    let ((_, _, two), (_, _, three)) = (same_names::two(), same_names::three());
    let xs = random(&[2, 3]);
    for _ in 0..2 {
        assert!(same(&two.forward(&xs), &(&xs * 2.0)));
        assert!(same(&three.forward(&xs), &(&xs * 3.0)));
    }
    for model in [two, three] {
        assert!(format!("{model:?}").contains("module_hash: Some"));
    }
}
