//! Items that the attribute knows under other names, gets from macros, or sees under conditions: they
//! cache as others do. What must compile is in `tests/programs/`.

use tch::nn::{Module as Layer, ModuleT as Trained};
use tch::{Kind, Tensor};
use torchcache::{TorchCache as Handle, torchcache};

use crate::support::{assert_computed_once, counts, random, same};

type Alias = Handle;
type Flag = bool;

#[torchcache]
#[derive(Debug, Default)]
struct Scale {
    by: f64,
    handle: Alias,
}

type Aliased = Scale;

#[torchcache]
impl Layer for Aliased {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.by
    }
}

#[test]
fn a_handle_of_another_name_is_the_cache_and_no_field() {
    let scale = |by| Scale {
        by,
        ..Scale::default()
    };
    let (two, three) = (scale(2.0), scale(3.0));
    assert_computed_once(&two.handle, |xs| two.forward(xs), |xs| xs * 2);
    assert_computed_once(&three.handle, |xs| three.forward(xs), |xs| xs * 3);
    assert_ne!(two.handle.module_hash(), three.handle.module_hash());
    let same_hash = scale(2.0);
    same_hash.forward(&random(&[1, 2]));
    assert_eq!(two.handle.module_hash(), same_hash.handle.module_hash());
}

#[torchcache]
#[derive(Debug)]
struct Dropped {
    handle: Handle,
}

#[torchcache]
impl Trained for Dropped {
    fn forward_t(&self, xs: &Tensor, flag: bool) -> Tensor {
        xs.dropout(0.5, flag)
    }
}

#[test]
fn the_flag_of_an_imported_trait_means_training() {
    let handle = Handle::default();
    let dropped = Dropped { handle };
    let call = |xs: &Tensor| dropped.forward_t(xs, false);
    assert_computed_once(&dropped.handle, call, Tensor::shallow_clone);
    let xs = random(&[4, 100]);
    let masks = [(); 2].map(|()| dropped.forward_t(&xs, true));
    assert!(!same(&masks[0], &masks[1]));
    assert_eq!(dropped.handle.stats().bypassed, 2);
}

#[torchcache]
fn dropped(xs: &Tensor, train: Flag) -> Tensor {
    xs.dropout(0.5, train)
}

#[test]
fn a_flag_whose_type_is_an_alias_means_training() {
    assert_computed_once(
        dropped_cache(),
        |xs| dropped(xs, false),
        Tensor::shallow_clone,
    );
    let xs = random(&[4, 100]);
    let masks = [(); 2].map(|()| dropped(&xs, true));
    assert!(!same(&masks[0], &masks[1]));
    assert_eq!(dropped_cache().stats().bypassed, 2);
}

#[torchcache]
fn with_a_plain_flag(xs: &Tensor, train: Kind) -> Tensor {
    xs.to_kind(train)
}

#[test]
fn an_argument_that_is_no_flag_is_part_of_the_key() {
    let xs = random(&[3, 2]);
    for kind in [Kind::Half, Kind::Float, Kind::Half] {
        assert_eq!(with_a_plain_flag(&xs, kind).kind(), kind);
    }
    assert_eq!(counts(with_a_plain_flag_cache()), (6, 3, 0));
}

#[torchcache]
#[derive(Debug)]
struct Conditional(
    #[cfg(any())] NoSuchType,
    f64,
    #[cfg_attr(all(), torchcache(skip))] i64,
    #[cfg(any())] Handle,
    #[cfg(not(any()))] Handle,
);

#[torchcache]
impl Conditional {
    #[cfg(any())]
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs.no_such_method()
    }

    #[cfg(not(any()))]
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.0
    }

    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        xs.dropout(0.5, train) / self.0
    }
}

#[test]
fn conditions_decide_which_fields_are_in_the_identity() {
    let module = |by, skipped| Conditional(by, skipped, Handle::default());
    let (first, skipped, other) = (module(2.0, 0), module(2.0, 1), module(4.0, 0));
    assert_computed_once(&first.2, |xs| first.forward(xs), |xs| xs * 2);
    assert_computed_once(&first.2, |xs| first.forward_t(xs, false), |xs| xs / 2);
    assert_computed_once(&other.2, |xs| other.forward(xs), |xs| xs * 4);
    let xs = random(&[1, 2]);
    assert!(same(&skipped.forward(&xs), &first.forward(&xs)));
    assert_ne!(first.1, skipped.1);
    assert_eq!(first.2.module_hash(), skipped.2.module_hash());
    assert_ne!(first.2.module_hash(), other.2.module_hash());
}

#[torchcache]
fn conditional(
    #[cfg(any())] none: NoSuchType,
    by: i64,
    #[cfg(not(any()))] xs: &Tensor,
    #[cfg(any())] plus: NoSuchType,
    #[cfg(not(any()))] plus: f64,
    #[cfg(any())] train: NoSuchType,
    #[cfg(not(any()))] training: bool,
) -> Tensor {
    (xs * by + plus).dropout(0.5, training)
}

#[test]
fn conditional_arguments_are_in_the_key() {
    for (by, plus) in [(2, 0.0), (3, 0.0), (2, 1.0)] {
        let call = |xs: &Tensor| conditional(by, xs, plus, false);
        assert_computed_once(conditional_cache(), call, |xs| xs * by + plus);
    }
    let masks = [(); 2].map(|()| conditional(2, &random(&[4, 100]), 0.0, true));
    assert!(!same(&masks[0], &masks[1]));
    assert_eq!(conditional_cache().stats().bypassed, 2);
}

macro_rules! module {
    ($name:ident, $self:ident, $xs:ident => $body:expr) => {
        #[torchcache]
        #[derive(Debug)]
        struct $name {
            by: f64,
            cache: Handle,
        }

        #[torchcache]
        impl Layer for $name {
            fn forward(&$self, $xs: &Tensor) -> Tensor {
                $body
            }
        }
    };
}

module!(OfMacro, self, ys => ys * self.by);

macro_rules! annotated {
    ($item:item) => {
        #[torchcache(handle = "rows")]
        $item
    };
}

annotated!(
    fn scaled(xs: &Tensor, (low, high): (f64, f64)) -> Tensor {
        xs * (low + high)
    }
);

#[test]
fn items_with_tokens_from_macros_cache() {
    let module = OfMacro {
        by: 2.0,
        cache: Handle::default(),
    };
    assert_computed_once(&module.cache, |xs| module.forward(xs), |xs| xs * 2);
    assert_computed_once(rows(), |xs| scaled(xs, (1.0, 2.0)), |xs| xs * 3);
}

trait Encoder {
    fn forward(&self, xs: Tensor, by: i64) -> Vec<Tensor>;
}

#[torchcache]
struct Encoded {
    cache: Handle,
}

#[torchcache]
impl Encoder for Encoded {
    fn forward(&self, xs: Tensor, by: i64) -> Vec<Tensor> {
        vec![&xs * by, xs]
    }
}

#[test]
fn an_impl_of_a_trait_of_the_users_caches() {
    let cache = Handle::default();
    let encoded = Encoded { cache };
    let call = |xs: &Tensor| encoded.forward(xs.shallow_clone(), 2).swap_remove(0);
    assert_computed_once(&encoded.cache, call, |xs| xs * 2);
}

mod embed {
    use tch::Tensor;

    pub(super) mod scale {
        pub(in super::super) const BY: i64 = 2;
    }

    #[torchcache::torchcache]
    pub(super) fn embed(xs: &Tensor) -> Tensor {
        xs * scale::BY
    }

    #[torchcache::torchcache]
    pub(super) fn scale(xs: &Tensor) -> Tensor {
        xs * scale::BY
    }
}

use embed::{embed, embed_cache};

#[test]
fn a_function_of_the_name_of_a_module_caches() {
    assert_computed_once(embed_cache(), embed, |xs| xs * 2);
    assert_computed_once(embed::scale_cache(), embed::scale, |xs| {
        xs * embed::scale::BY
    });
}
