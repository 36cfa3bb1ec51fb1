//! Forwards that give one row another shape than each of several, in code that no attribute sees.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};
use torchcache::{Cached, Fingerprint, TorchCache, torchcache};

use crate::support::{Ran, random, same, version};

/// What becomes of the doubled rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Fingerprint)]
enum Reshape {
    Squeeze,
    SqueezeFirst,
    /// Of rows that have one element.
    Flatten,
    /// Of rows of which the first dimension has one element.
    Mean,
    SelectOfOne,
    FlattenOfOne,
    UnsqueezeOfOne,
    None,
}

const ALL: [Reshape; 8] = [
    Reshape::Squeeze,
    Reshape::SqueezeFirst,
    Reshape::Flatten,
    Reshape::Mean,
    Reshape::SelectOfOne,
    Reshape::FlattenOfOne,
    Reshape::UnsqueezeOfOne,
    Reshape::None,
];

impl Reshape {
    fn apply(self, xs: &Tensor) -> Tensor {
        let (doubled, shape) = (xs * 2.0, xs.size());
        let is_one = shape[0] == 1;
        match self {
            Reshape::Squeeze => doubled.squeeze(),
            Reshape::SqueezeFirst => doubled.squeeze_dim(0),
            Reshape::Flatten if xs.numel() == shape[0] as usize => doubled.view(-1),
            Reshape::Mean if is_one && shape.len() > 1 => doubled.mean_dim(0, false, Kind::Float),
            Reshape::SelectOfOne if is_one => doubled.select(0, 0),
            Reshape::FlattenOfOne if is_one && shape.len() > 1 => doubled.flatten(0, 1),
            Reshape::UnsqueezeOfOne if is_one => doubled.unsqueeze(-1),
            _ => doubled,
        }
    }
}

#[torchcache]
#[derive(Debug)]
struct Reshaping {
    reshape: Reshape,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Reshaping {
    #[torchcache]
    fn encode(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        self.reshape.apply(xs)
    }
}

#[torchcache]
impl Module for Reshaping {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        self.reshape.apply(xs)
    }
}

#[torchcache]
fn squeezed(xs: &Tensor) -> Tensor {
    Reshape::Squeeze.apply(xs)
}

#[torchcache]
fn squeezed_first(xs: &Tensor) -> Tensor {
    Reshape::SqueezeFirst.apply(xs)
}

fn reshaping(reshape: Reshape) -> Reshaping {
    Reshaping {
        reshape,
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

const SHAPES: [&[i64]; 7] = [&[], &[1], &[5], &[1, 5], &[5, 1], &[1, 1], &[1, 1, 5]];

/// Calls with rows that are new, found, computed alone and computed with others.
fn assert_same_as_uncached(reshape: Reshape, shape: &[i64], call: &dyn Fn(&Tensor) -> Tensor) {
    let row = || random(&[&[1], shape].concat());
    let [a, b, c, d, e, f, g] = [(); 7].map(|()| row());
    for (rows, name) in [
        (&[&a, &a][..], "two equal rows"),
        (&[&b, &b, &b], "three equal rows"),
        (&[&a, &c], "a found row and a new one"),
        (&[&d, &d, &a], "equal new rows and a found one"),
        (&[&a], "a found row"),
        (&[&e], "a new row"),
        (&[&e], "a row computed alone"),
        (&[&e, &a], "rows computed alone and with others"),
        (&[&e, &f], "a row computed alone and a new one"),
        (&[&f, &f], "equal found rows"),
        (&[&g, &g, &e], "equal new rows and one computed alone"),
        (&[&a, &b, &c, &d, &e, &f, &g], "all"),
    ] {
        let xs = Tensor::cat(rows, 0);
        let (output, expected) = (call(&xs), reshape.apply(&xs));
        assert!(
            same(&output, &expected),
            "{name}: {reshape:?} of {:?} returned {:?}, not {:?}",
            xs.size(),
            output.size(),
            expected.size(),
        );
    }
}

#[test]
fn a_method_returns_what_it_does_without_the_cache() {
    for reshape in ALL {
        for shape in SHAPES {
            let model = reshaping(reshape);
            assert_same_as_uncached(reshape, shape, &|xs| model.encode(xs));
            assert_same_as_uncached(reshape, shape, &|xs| model.forward(xs));
        }
    }
}

#[test]
fn a_function_returns_what_it_does_without_the_cache() {
    for shape in SHAPES {
        assert_same_as_uncached(Reshape::Squeeze, shape, &squeezed);
        assert_same_as_uncached(Reshape::SqueezeFirst, shape, &squeezed_first);
    }
}

#[test]
fn a_wrapped_module_returns_what_it_does_without_the_cache() {
    for reshape in ALL {
        for shape in SHAPES {
            let module = nn::func(move |xs| reshape.apply(xs));
            let options = version(&format!("{reshape:?} {shape:?}"));
            let net = Cached::new(module, (), options).unwrap();
            assert_same_as_uncached(reshape, shape, &|xs| net.forward(xs));
        }
    }
}

/// Only where no other row shows the shape of the row.
#[test]
fn equal_rows_are_computed_once_next_to_others() {
    let model = reshaping(Reshape::None);
    let [a, b, c] = [(); 3].map(|()| random(&[1, 1, 5]));
    for (rows, ran) in [
        (&[&a, &a, &a][..], (1, 3)),
        (&[&a, &a], (0, 0)),
        (&[&b, &b, &b, &a], (1, 1)),
        (&[&c, &c, &random(&[1, 1, 5])], (1, 2)),
    ] {
        let xs = Tensor::cat(rows, 0);
        assert!(same(&model.forward(&xs), &(&xs * 2.0)));
        assert_eq!(model.ran.take(), ran);
    }
    let stats = model.torchcache.stats();
    assert_eq!((stats.stored, stats.misses, stats.bypassed), (4, 4, 0));
}

/// Where the process calls a function with single rows alone, or with whole batches before.
#[test]
fn a_row_alone_is_checked_once() {
    let model = reshaping(Reshape::None);
    let row = || random(&[1, 5]);
    let (a, b) = (row(), row());
    for (xs, ran) in [(&a, (2, 3)), (&b, (1, 1)), (&a, (0, 0)), (&row(), (1, 1))] {
        assert!(same(&model.forward(xs), &(xs * 2.0)));
        assert_eq!(model.ran.take(), ran);
    }
    let model = reshaping(Reshape::None);
    let xs = random(&[3, 5]);
    for (xs, ran) in [
        (&xs, (1, 3)),
        (&xs.narrow(0, 1, 1), (1, 1)),
        (&xs.narrow(0, 2, 1), (0, 0)),
        (&row(), (1, 1)),
    ] {
        assert!(same(&model.forward(xs), &(xs * 2.0)));
        assert_eq!(model.ran.take(), ran);
    }
    assert_eq!(model.torchcache.stats().bypassed, 0);
}

#[torchcache]
#[derive(Debug, Default)]
struct OfOne {
    #[torchcache(skip)]
    ran: Ran,
    torchcache_whole_batch: bool,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for OfOne {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs.view([1, 5]) * 2.0
    }
}

/// It fails on two rows, which it does not get with `whole_batch`.
#[test]
fn a_module_for_single_rows_does_not_run_twice_forever() {
    for torchcache_whole_batch in [false, true] {
        let model = OfOne {
            torchcache_whole_batch,
            ..OfOne::default()
        };
        for row in 0..20 {
            let xs = random(&[1, 5]);
            for _ in 0..2 {
                assert!(same(&model.forward(&xs), &(&xs * 2.0)), "{row}");
            }
        }
        let (times, _) = model.ran.take();
        assert!(times <= 25, "{times} runs");
        assert_eq!(model.torchcache.stats().memory.hits, 20);
    }
}

/// The outer function gets some rows of a batch, and calls the inner one with one.
#[torchcache]
fn doubled(xs: &Tensor) -> Tensor {
    squeezed_first_of(xs) * 2
}

fn squeezed_first_of(xs: &Tensor) -> Tensor {
    squeezed_inside(xs)
}

#[torchcache]
fn squeezed_inside(xs: &Tensor) -> Tensor {
    Reshape::SqueezeFirst.apply(xs)
}

#[test]
fn an_inner_function_keeps_no_row_alone_of_another_shape() {
    let [a, b, c] = [(); 3].map(|()| random(&[1, 1, 5]));
    let batch = |rows: &[&Tensor]| Tensor::cat(rows, 0);
    for rows in [&[&a, &b][..], &[&a, &c], &[&c, &c]] {
        let xs = batch(rows);
        assert!(same(&doubled(&xs), &(&xs * 4.0)));
    }
    for rows in [&[&c, &c][..], &[&a, &c], &[&a, &b, &c]] {
        let xs = batch(rows);
        assert!(same(&squeezed_inside(&xs), &(&xs * 2.0)));
    }
}
