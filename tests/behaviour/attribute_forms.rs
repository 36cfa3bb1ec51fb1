//! The attribute in code of all shapes: it compiles without warnings and caches.

#![deny(warnings)]

use tch::{Kind, Tensor};

use crate::no_prelude::{self, Mode};
use crate::support::{assert_computed_once, counts, device, random, same};

#[test]
fn generated_code_does_not_depend_on_names_in_scope() {
    use tch::nn::Module;
    let named = Mode::Named {
        r#type: 3,
        label: no_prelude::Option,
    };
    let mut hashes = [Mode::Plain, Mode::Scaled(2.0, no_prelude::Function), named].map(|mode| {
        let model = no_prelude::Doubled {
            mode,
            result: no_prelude::Result,
            string: no_prelude::String,
            vec: no_prelude::Vec,
            torchcache_subsample_count: 1_000,
            torchcache: torchcache::TorchCache::default(),
        };
        assert_computed_once(&model.torchcache, |xs| model.forward(xs), |xs| xs * 2);
        model.torchcache.module_hash()
    });
    hashes.sort();
    assert!(
        hashes[0] < hashes[1] && hashes[1] < hashes[2],
        "each has its own"
    );
    assert_computed_once(no_prelude::doubled_cache(), no_prelude::doubled, |xs| {
        xs * 2
    });

    let (xs, table) = (random(&[2, 3]), random(&[3]));
    for _ in 0..2 {
        let encoded = no_prelude::pick(&xs, &[1, 2], &table);
        assert!(same(&encoded.r#type, &(&xs * &table)) && same(&encoded.inner.0, &xs));
        assert!(encoded.inner.1.is_none());
    }
    assert_eq!(counts(no_prelude::pick_cache()), (2, 2, 0));

    let given = no_prelude::Borrowed(&xs, &[]);
    assert!(matches!(
        no_prelude::turn(&given, no_prelude::Either::Nothing),
        no_prelude::Either::Nothing
    ));
    for _ in 0..2 {
        let one = no_prelude::turn(&given, no_prelude::Either::One(xs.copy(), 3));
        let no_prelude::Either::Named { r#type, inner } = one else {
            panic!("{one:?}")
        };
        assert!(same(&r#type, &(&xs * 3)) && same(&inner, &xs));
        let named = no_prelude::Either::Named { r#type, inner };
        let back = no_prelude::turn(&given, named);
        assert!(matches!(back, no_prelude::Either::One(_, 0)), "{back:?}");
    }
    assert_eq!(counts(no_prelude::turn_cache()), (4, 4, 0));
}

mod functions {
    use tch::Tensor;
    use torchcache::torchcache;

    /// An error with a lifetime of the signature, which no constant can name.
    #[derive(Debug, PartialEq)]
    pub(super) enum Failed<'a> {
        Body(&'a str),
        Cache,
    }

    impl From<torchcache::Error> for Failed<'_> {
        fn from(_: torchcache::Error) -> Self {
            Failed::Cache
        }
    }

    #[torchcache]
    pub(super) fn r#match<'a>(xs: &Tensor, name: &'a str) -> Result<Tensor, Failed<'a>> {
        #![inline]
        if name.is_empty() {
            return Err(Failed::Body(name));
        }
        Ok(xs * 2)
    }
}

#[test]
fn a_function_may_have_a_raw_name_and_lifetimes() {
    let (cache, xs) = (functions::match_cache(), random(&[2, 2]));
    assert_eq!(
        functions::r#match(&xs, ""),
        Err(functions::Failed::Body(""))
    );
    let failed = functions::r#match(&Tensor::from(1.0f32), "a");
    assert_eq!(failed, Err(functions::Failed::Cache));
    assert_computed_once(
        cache,
        |xs| functions::r#match(xs, "a").unwrap(),
        |xs| xs * 2,
    );
}

mod train {
    use tch::{Tensor, nn};
    use torchcache::{TorchCache as Renamed, torchcache};

    type TorchCache = Renamed;

    #[derive(Debug)]
    #[torchcache]
    pub(super) struct Inverted(
        pub(super) TorchCache,
        pub(super) f64,
        #[cfg(any())] NoSuchType,
    );

    #[torchcache]
    impl nn::ModuleT for Inverted {
        #[inline]
        fn forward_t(&self, xs: &Tensor, mut training: bool) -> Tensor {
            training = !training;
            'rows: for _ in 0..2 {
                for row in 0..xs.size()[0] {
                    if row == 1 {
                        break 'rows;
                    }
                }
            }
            if !training {
                return xs.neg();
            }
            xs * self.1
        }
    }
}

#[test]
fn forward_t_may_change_train_and_use_labels() {
    use tch::nn::ModuleT;
    let model = train::Inverted(torchcache::TorchCache::default(), 3.0);
    assert_computed_once(&model.0, |xs| model.forward_t(xs, false), |xs| xs * 3.0);
    let xs = random(&[3, 2]);
    assert!(same(&model.forward_t(&xs, true), &xs.neg()));
    assert_eq!((model.0.stats().bypassed, counts(&model.0)), (1, (3, 3, 0)));
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
            _: &str,
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
    assert_eq!(counts(inner_cache()), (4, 2, 0));
    assert_eq!(inner_cache().module_hash().map(|hash| hash.len()), Some(64));
}

#[test]
fn a_function_has_its_hash_before_the_first_call() {
    assert_eq!(
        crate::no_prelude::doubled_cache()
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
                (scaled, scaled_cache(), Box::new(Scaled { torchcache }))
            }
        };
    }

    function!(two, 2.0);
    function!(three, 3.0);
}

#[test]
fn equally_named_nested_items_do_not_share() {
    // All are alive at once: only then could they share a memory tier.
    let (two, three) = (same_names::two(), same_names::three());
    let xs = random(&[2, 3]);
    for _ in 0..2 {
        for ((function, _, module), factor) in [(&two, 2.0), (&three, 3.0)] {
            assert!(same(&function(&xs), &(&xs * factor)));
            assert!(same(&module.forward(&xs), &(&xs * factor)));
        }
    }
    assert_ne!(two.1.module_hash(), three.1.module_hash());
    for (_, cache, module) in [two, three] {
        assert_eq!(counts(cache), (2, 2, 0));
        assert!(format!("{module:?}").contains("module_hash: Some"));
    }
}
