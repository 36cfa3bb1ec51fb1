//! Autocast changes the kind of outputs: calls under it have rows of their own.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};
use torchcache::{Cached, TorchCache, torchcache};

use crate::raw::{autocast, is_autocast};
use crate::support::{Ran, counts, random, same, version};

/// Doubles, in half precision under autocast, as a linear layer on a GPU is.
fn doubled(xs: &Tensor) -> Tensor {
    let xs = xs * 2.0;
    match is_autocast() {
        true => xs.to_kind(Kind::Half),
        false => xs,
    }
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Double {
    #[torchcache(skip)]
    ran: Ran,
    torchcache_persistent_cache_dir: String,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Double {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        doubled(xs)
    }
}

#[test]
fn calls_under_autocast_share_no_rows_with_others() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Double {
        ran: Ran::default(),
        torchcache_persistent_cache_dir: directory.path().to_str().unwrap().to_owned(),
        torchcache: TorchCache::default(),
    };
    let model = open();
    let xs = random(&[5, 3]);
    let call = |model: &Double| {
        assert!(same(&model.forward(&xs), &(&xs * 2.0)));
        let halves = autocast(|| model.forward(&xs));
        assert!(same(&halves, &(&xs * 2.0).to_kind(Kind::Half)));
        assert!(!is_autocast());
    };
    call(&model);
    assert_eq!(model.ran.take(), (2, 10));
    call(&model);
    assert_eq!(model.ran.take(), (0, 0));
    assert_eq!(counts(&model.torchcache), (10, 10, 0));
    model.torchcache.flush().unwrap();
    drop(model);
    // A new handle reads them from disk, in the other order.
    let again = open();
    let mixed = Tensor::cat(&[xs.narrow(0, 0, 2), random(&[2, 3])], 0);
    let halves = autocast(|| again.forward(&mixed));
    assert!(same(&halves, &(&mixed * 2.0).to_kind(Kind::Half)));
    call(&again);
    assert_eq!(again.ran.take(), (1, 2));
}

#[test]
fn wrapped_modules_share_no_rows_under_autocast() {
    let net = Cached::new(nn::func(doubled), (), version("autocast")).unwrap();
    let xs = random(&[5, 3]);
    let halves = autocast(|| net.forward(&xs));
    assert!(same(&halves, &(&xs * 2.0).to_kind(Kind::Half)));
    assert!(same(&net.forward(&xs), &(&xs * 2.0)));
    assert_eq!(net.cache().stats().misses, 10);
}

/// Panics under autocast on a part of the batch.
#[torchcache]
fn panicking(xs: &Tensor) -> Tensor {
    if xs.size()[0] < 4 {
        autocast(|| panic!("a part of the batch"));
    }
    doubled(xs)
}

#[test]
fn a_panic_under_autocast_does_not_leave_it_on() {
    let xs = random(&[4, 3]);
    panicking(&xs);
    let mixed = Tensor::cat(&[xs.narrow(0, 0, 2), random(&[2, 3])], 0);
    assert!(same(&panicking(&mixed), &(&mixed * 2.0)));
    assert!(!is_autocast());
}

/// With a GPU, what `tch::autocast` itself does.
#[torchcache]
fn product(xs: &Tensor) -> Tensor {
    xs.matmul(&xs.tr())
}

#[test]
fn products_under_autocast_are_those_without_the_cache() {
    let xs = random(&[4, 4]);
    for _ in 0..2 {
        let outside = product(&xs);
        let inside = tch::autocast(true, || product(&xs));
        let expected = tch::autocast(true, || xs.matmul(&xs.tr()));
        assert_eq!(inside.kind(), expected.kind());
        assert_eq!(outside.kind(), Kind::Float);
    }
}
