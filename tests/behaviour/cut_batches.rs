//! Forwards that work on the batches of the program, and fail on the part of one that is not cached.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use tch::nn::{self, Module};
use tch::{CModule, Kind, Tensor};
use torchcache::{Batched, Cached, Fingerprint, Prefill, TorchCache, prefill, torchcache};

use crate::support::{
    Ran, assert_panics, device, logged, panic_of, random, same, version, warnings,
};

/// What the forward does with a batch that is not `rows` long.
#[derive(Debug, Clone, Copy, PartialEq, Fingerprint)]
enum Fails {
    /// Panics in libtorch.
    Views,
    Panics,
    /// Panics in a `no_grad` closure, which does not restore the grad mode.
    PanicsWithoutGrad,
    Errs,
    LosesARow,
    LosesTheRows,
    AddsADimension,
    IsSparse,
    IsUndefined,
}

const ALL: [Fails; 9] = [
    Fails::Views,
    Fails::Panics,
    Fails::PanicsWithoutGrad,
    Fails::Errs,
    Fails::LosesARow,
    Fails::LosesTheRows,
    Fails::AddsADimension,
    Fails::IsSparse,
    Fails::IsUndefined,
];

/// Doubles batches of eight rows.
#[torchcache]
#[derive(Debug)]
struct OfEight {
    fails: Fails,
    #[torchcache(skip)]
    ran: Ran,
    torchcache_verify: f64,
    torchcache_whole_batch: bool,
    torchcache: TorchCache,
}

#[torchcache]
impl OfEight {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Box<dyn Error + Send + Sync>> {
        self.ran.note(xs);
        let doubled = xs * 2.0;
        let rows = xs.size()[0];
        if rows == 8 {
            return Ok(doubled);
        }
        Ok(match self.fails {
            Fails::Views => doubled.view([8, 4]),
            Fails::Panics => panic!("batches have eight rows"),
            Fails::PanicsWithoutGrad => tch::no_grad(|| panic!("batches have eight rows")),
            Fails::Errs => return Err(format!("{rows} rows").into()),
            Fails::LosesARow => doubled.narrow(0, 0, rows - 1),
            Fails::LosesTheRows => doubled.sum(Kind::Float),
            Fails::AddsADimension => doubled.unsqueeze(-1),
            Fails::IsSparse => doubled.to_sparse(None::<tch::Layout>, None::<&[i64]>, None),
            Fails::IsUndefined => Tensor::new(),
        })
    }
}

fn of_eight(fails: Fails) -> OfEight {
    OfEight {
        fails,
        ran: Ran::default(),
        torchcache_verify: 0.0,
        torchcache_whole_batch: false,
        torchcache: TorchCache::default(),
    }
}

/// The first rows of `old`, then new ones.
fn partly_new(old: &Tensor, new: i64) -> Tensor {
    let columns = old.size()[1];
    let kept = old.narrow(0, 0, old.size()[0] - new);
    Tensor::cat(&[&kept, &random(&[new, columns])], 0)
}

fn records_gradients() -> bool {
    let leaf = Tensor::ones([1], (Kind::Float, device())).set_requires_grad(true);
    (leaf * 2).requires_grad()
}

#[test]
fn a_cut_that_fails_is_repeated_as_the_whole_batch() {
    for fails in ALL {
        let model = of_eight(fails);
        let xs = random(&[8, 4]);
        model.forward(&xs).unwrap();
        assert_eq!(model.ran.take(), (1, 8));
        let mixed = partly_new(&xs, 3);
        let (output, lines) = logged(|| model.forward(&mixed).unwrap());
        assert!(same(&output, &(&mixed * 2.0)), "{fails:?}");
        assert_eq!(model.ran.take(), (2, 11), "{fails:?}");
        assert_eq!(model.torchcache.stats().bypassed, 1, "{fails:?}");
        assert_eq!(model.torchcache.stats().stored, 8, "{fails:?}");
        assert_eq!(warnings(&lines, ""), 1, "{fails:?}: {lines:#?}");
        if fails != Fails::AddsADimension {
            for words in ["3 of the 8 rows", "whole batches", "`whole_batch = true`"] {
                assert_eq!(warnings(&lines, words), 1, "{fails:?}, {words}: {lines:#?}");
            }
        }
        assert!(records_gradients(), "{fails:?}");
        assert!(Tensor::ones([1], (Kind::Float, device())).f_neg().is_ok());
        // The rows cached before are hits.
        assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
        assert_eq!(model.ran.take(), (0, 0), "{fails:?}");
    }
}

/// No other row would show that one alone has another shape.
#[test]
fn new_rows_that_are_all_equal_run_as_the_whole_batch() {
    for fails in ALL {
        let model = of_eight(fails);
        let xs = random(&[1, 4]).repeat([8, 1]);
        let (output, lines) = logged(|| model.forward(&xs).unwrap());
        assert!(same(&output, &(&xs * 2.0)), "{fails:?}");
        assert_eq!(model.ran.take(), (1, 8), "{fails:?}");
        assert_eq!(warnings(&lines, ""), 0, "{fails:?}: {lines:#?}");
        assert!(same(&model.forward(&xs).unwrap(), &output), "{fails:?}");
        assert_eq!(model.ran.take(), (0, 0), "{fails:?}");
    }
}

#[test]
fn whole_batch_runs_all_rows_and_stores_the_missing_ones() {
    for fails in ALL {
        let mut model = of_eight(fails);
        model.torchcache_whole_batch = true;
        let xs = random(&[8, 4]);
        let first = model.forward(&xs).unwrap();
        let mixed = partly_new(&xs, 3);
        let ((), lines) = logged(|| {
            for _ in 0..2 {
                let output = model.forward(&mixed).unwrap();
                assert!(same(&output, &(&mixed * 2.0)), "{fails:?}");
                assert!(same(&output.narrow(0, 0, 5), &first.narrow(0, 0, 5)));
            }
            let equal = random(&[1, 4]).repeat([8, 1]);
            assert!(same(&model.forward(&equal).unwrap(), &(&equal * 2.0)));
        });
        assert_eq!(model.ran.take(), (3, 24), "{fails:?}");
        let stats = model.torchcache.stats();
        assert_eq!((stats.bypassed, stats.misses), (0, 12), "{fails:?}");
        assert_eq!((stats.memory.hits, stats.stored), (13, 12), "{fails:?}");
        assert_eq!(warnings(&lines, ""), 0, "{fails:?}: {lines:#?}");
    }
}

/// A forward that is random: hits keep their value although they are computed again.
#[torchcache(whole_batch = true)]
fn noise(xs: &Tensor) -> Tensor {
    xs.rand_like()
}

#[test]
fn whole_batch_returns_the_cached_value_of_hits() {
    let xs = random(&[6, 3]);
    let first = noise(&xs);
    let mixed = partly_new(&xs, 2);
    let second = noise(&mixed);
    assert!(same(&second.narrow(0, 0, 4), &first.narrow(0, 0, 4)));
    assert!(same(&noise(&mixed), &second));
    let stats = noise_cache().stats();
    assert_eq!((stats.misses, stats.memory.hits), (8, 10));
}

/// A module that fails on each cut runs them less and less often.
#[test]
fn a_module_that_needs_whole_batches_does_not_run_twice_forever() {
    for fails in ALL {
        let model = of_eight(fails);
        let xs = random(&[8, 4]);
        model.forward(&xs).unwrap();
        model.ran.take();
        let ((), lines) = logged(|| {
            for _ in 0..50 {
                let mixed = partly_new(&xs, 2);
                assert!(same(&model.forward(&mixed).unwrap(), &(&mixed * 2.0)));
            }
        });
        let (times, _) = model.ran.take();
        assert!(times <= 50 + 6, "{fails:?}: {times} runs");
        assert_eq!(warnings(&lines, ""), 1, "{fails:?}: {lines:#?}");
        // Those that ran as whole batches were stored.
        assert!(model.torchcache.stats().stored >= 8 + 2 * 44, "{fails:?}");
    }
}

/// Fails on the first cut only.
#[torchcache]
#[derive(Debug, Default)]
struct FailsOnce {
    #[torchcache(skip)]
    failed: std::cell::Cell<bool>,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for FailsOnce {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        assert!(xs.size()[0] == 8 || self.failed.replace(true), "not now");
        xs * 2.0
    }
}

#[test]
fn cuts_are_tried_again_after_a_failure() {
    let model = FailsOnce::default();
    let xs = random(&[8, 4]);
    model.forward(&xs);
    for _ in 0..5 {
        model.forward(&partly_new(&xs, 2));
    }
    model.ran.take();
    for _ in 0..5 {
        let mixed = partly_new(&xs, 2);
        assert!(same(&model.forward(&mixed), &(&mixed * 2.0)));
    }
    assert_eq!(model.ran.take(), (5, 10));
}

#[test]
fn what_fails_on_the_whole_batch_as_well_fails_as_before() {
    let seven = random(&[7, 4]);
    let twice = Tensor::cat(&[&seven.narrow(0, 0, 3), &seven.narrow(0, 0, 4)], 0);
    for (fails, text) in [
        (Fails::Views, "shape '[8, 4]' is invalid"),
        (Fails::Panics, "batches have eight rows"),
        (Fails::PanicsWithoutGrad, "batches have eight rows"),
    ] {
        let model = of_eight(fails);
        let _guard = tch::no_grad_guard();
        let ((), lines) = logged(|| assert_panics(&[text], || model.forward(&twice)));
        assert_eq!(model.ran.take(), (2, 11), "{fails:?}");
        assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
    }
    let model = of_eight(Fails::Errs);
    let (error, lines) = logged(|| model.forward(&twice).unwrap_err());
    assert_eq!(error.to_string(), "7 rows");
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
}

#[test]
fn more_rows_with_another_row_count_are_still_an_error() {
    for rows in [2, 7] {
        let model = of_eight(Fails::LosesARow);
        let error = model.forward(&random(&[rows, 4])).unwrap_err();
        let text = format!("expected a first dimension of {rows}");
        assert!(error.to_string().contains(&text), "{error}");
        assert_eq!(model.ran.take(), (1, rows));
        assert_eq!(model.torchcache.stats().stored, 0);
    }
}

#[torchcache]
#[derive(Debug, Default)]
struct Squeezed {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Squeezed {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        (xs * 2.0).unsqueeze(1).squeeze()
    }
}

/// What it returns without the cache.
fn squeezed(xs: &Tensor) -> Tensor {
    (xs * 2.0).squeeze()
}

#[test]
fn a_squeezing_forward_returns_what_it_does_without_the_cache() {
    // The columns decide whether a row is a vector or a number.
    for columns in [5, 1] {
        let model = Squeezed::default();
        let xs = random(&[32, columns]);
        let ((), lines) = logged(|| {
            assert!(same(&model.forward(&xs), &squeezed(&xs)), "all new");
            let one_new = partly_new(&xs, 1);
            assert!(same(&model.forward(&one_new), &squeezed(&one_new)));
            let equal = random(&[1, columns]).repeat([32, 1]);
            assert!(same(&model.forward(&equal), &squeezed(&equal)));
            let two_new = partly_new(&xs, 2);
            assert!(same(&model.forward(&two_new), &squeezed(&two_new)));
            for row in [random(&[1, columns]), xs.narrow(0, 4, 1)] {
                for _ in 0..2 {
                    assert!(same(&model.forward(&row), &squeezed(&row)));
                }
            }
            assert!(same(&model.forward(&xs), &squeezed(&xs)), "all cached");
        });
        assert_eq!(warnings(&lines, "1 of the 32 rows"), 1, "{lines:#?}");
        assert_eq!(warnings(&lines, "a batch of one row"), 1, "{lines:#?}");
        assert_eq!(warnings(&lines, ""), 2, "{lines:#?}");
    }
}

#[torchcache]
#[derive(Debug, Default)]
struct SqueezedFirst {
    torchcache: TorchCache,
}

#[torchcache]
impl Module for SqueezedFirst {
    fn forward(&self, xs: &Tensor) -> Tensor {
        (xs * 2.0).squeeze_dim(0)
    }
}

/// A batch of one row loses its dimension, and the next one may look like it.
#[test]
fn a_forward_that_squeezes_the_batch_is_cached_with_its_rows() {
    for shape in [&[1, 5][..], &[1, 1, 5], &[5], &[1], &[1, 1]] {
        let model = SqueezedFirst::default();
        let made = |rows: i64| random(&[&[rows], shape].concat());
        let (xs, row) = (made(4), made(1));
        let repeats: Vec<i64> = [4].into_iter().chain(shape.iter().map(|_| 1)).collect();
        let one_new = Tensor::cat(&[xs.narrow(0, 0, 3), made(1)], 0);
        for (batch, name) in [
            (&xs, "all new"),
            (&row.repeat(&repeats), "equal"),
            (&xs.narrow(0, 1, 1), "a cached row"),
            (&row, "a row cached of equal ones"),
            (&made(1), "a new row"),
            (&one_new, "one new row"),
            (&xs, "all cached"),
        ] {
            for _ in 0..2 {
                let expected = (batch * 2.0).squeeze_dim(0);
                assert!(same(&model.forward(batch), &expected), "{shape:?}, {name}");
            }
        }
        let hits = model.torchcache.stats().memory.hits;
        assert!(hits >= 12, "{shape:?}: {hits}");
    }
}

#[test]
fn equal_rows_of_a_wrapped_module_keep_their_dimensions() {
    let squeezing = nn::func(|xs| (xs * 2.0).squeeze_dim(0));
    let net = Cached::new(squeezing, (), version("squeezing the batch")).unwrap();
    let xs = random(&[1, 1, 5]).repeat([4, 1, 1]);
    for _ in 0..2 {
        assert!(same(&net.forward(&xs), &(&xs * 2.0)));
    }
    assert_eq!(net.cache().stats().memory.hits, 1);
}

#[test]
fn a_cached_row_of_a_squeezing_forward_has_no_batch_dimension() {
    let model = Squeezed::default();
    let xs = random(&[32, 5]);
    model.forward(&xs);
    let row = xs.narrow(0, 3, 1);
    assert_eq!(model.forward(&row).size(), [5]);
    assert_eq!(model.forward(&row).size(), [5]);
    assert_eq!(model.torchcache.stats().bypassed, 2);
}

#[test]
fn a_cached_row_of_a_wrapped_module_has_the_dimensions_of_its_output() {
    let columns = |columns: i64| {
        let squeezing = nn::func(|xs| (xs * 2.0).unsqueeze(1).squeeze());
        let net = Cached::new(squeezing, (), version(&format!("squeezing {columns}"))).unwrap();
        let xs = random(&[32, columns]);
        net.forward(&xs);
        let row = xs.narrow(0, 3, 1);
        for _ in 0..2 {
            assert!(same(&net.forward(&row), &squeezed(&row)));
        }
        assert_eq!(net.cache().stats().bypassed, 2);
    };
    columns(5);
    columns(1);
}

/// A forward that names `squeeze`, but keeps the dimension of the batch.
#[torchcache]
#[derive(Debug, Default)]
struct Unharmed {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Unharmed {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        let scale = Tensor::full([1, 1], 2.0, (Kind::Float, device())).squeeze();
        xs * scale
    }
}

#[test]
fn one_row_is_computed_once_where_the_dimension_is_in_doubt() {
    let model = Unharmed::default();
    let xs = random(&[8, 5]);
    model.forward(&xs);
    model.ran.take();
    let (_, lines) = logged(|| {
        for row in 0..8 {
            let row = xs.narrow(0, row, 1);
            assert!(same(&model.forward(&row), &(&row * 2.0)));
        }
    });
    assert_eq!(model.ran.take(), (1, 1));
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
    assert_eq!(model.torchcache.stats().bypassed, 0);
}

#[derive(Batched, Debug)]
struct Parts {
    whole: Tensor,
    parts: Vec<Tensor>,
    mean: Option<Tensor>,
}

/// One part of the output loses its rows.
#[torchcache]
fn in_parts(xs: &Tensor) -> Parts {
    Parts {
        whole: xs * 2.0,
        parts: vec![xs * 3.0, xs.mean_dim(1, true, Kind::Float).squeeze()],
        mean: Some(xs * 4.0),
    }
}

#[test]
fn an_output_struct_is_repeated_as_the_whole_batch() {
    let xs = random(&[8, 4]);
    in_parts(&xs);
    let mixed = partly_new(&xs, 1);
    let (output, lines) = logged(|| in_parts(&mixed));
    assert!(same(&output.whole, &(&mixed * 2.0)));
    assert_eq!(output.parts[1].size(), [8]);
    assert!(same(&output.mean.unwrap(), &(&mixed * 4.0)));
    let words = "output `parts.1` of shape []";
    assert_eq!(warnings(&lines, words), 1, "{lines:#?}");
    assert_eq!(in_parts(&mixed.narrow(0, 7, 1)).parts[1].size(), [0i64; 0]);
}

/// Takes ids alone, in pairs.
#[torchcache]
fn by_id(#[id] numbers: &[i64], #[shared] table: &Tensor) -> Tensor {
    assert_eq!(numbers.len() % 2, 0, "numbers come in pairs");
    table.index_select(0, &Tensor::from_slice(numbers).to_device(device()))
}

#[test]
fn ids_are_repeated_as_the_whole_batch() {
    let table = random(&[10, 3]);
    by_id(&[0, 1, 2, 3], &table);
    let (output, lines) = logged(|| by_id(&[0, 1, 2, 7], &table));
    assert!(same(&output.narrow(0, 3, 1), &table.narrow(0, 7, 1)));
    assert_eq!(warnings(&lines, "numbers come in pairs"), 1, "{lines:#?}");
}

#[test]
fn a_traced_module_of_fixed_batch_size_is_repeated_as_the_whole_batch() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("baked.pt");
    let mut fixed = |inputs: &[Tensor]| {
        vec![
            inputs[0]
                .view([32, 2, 2])
                .sum_dim_intlist(1, false, Kind::Float),
        ]
    };
    let example = random(&[32, 4]);
    let traced = CModule::create_by_tracing("M", "forward", &[example], &mut fixed).unwrap();
    traced.save(&path).unwrap();
    let traced = CModule::load_on_device(&path, device()).unwrap();
    let expected = |xs: &Tensor| xs.view([32, 2, 2]).sum_dim_intlist(1, false, Kind::Float);
    let cached = Cached::new(traced, path.as_path(), version("baked")).unwrap();
    let xs = random(&[32, 4]);
    assert!(same(&cached.forward(&xs), &expected(&xs)));
    let mixed = partly_new(&xs, 7);
    let ((), lines) = logged(|| {
        assert!(same(&cached.forward(&mixed), &expected(&mixed)));
        let mixed = partly_new(&xs, 7);
        assert!(same(&cached.forward(&mixed), &expected(&mixed)));
    });
    assert_eq!(warnings(&lines, "7 of the 32 rows"), 1, "{lines:#?}");
    assert_eq!(warnings(&lines, ""), 1, "{lines:#?}");
    assert!(same(&cached.forward(&xs), &expected(&xs)));
    assert_eq!(cached.cache().stats().bypassed, 1);
}

#[test]
fn verifying_a_cut_that_fails_is_no_mismatch() {
    for fails in ALL {
        let mut model = of_eight(fails);
        let xs = random(&[8, 4]);
        model.forward(&xs).unwrap();
        model.torchcache_verify = 1.0;
        // Of the rows, seven are distinct.
        let again = Tensor::cat(&[&xs.narrow(0, 0, 7), &xs.narrow(0, 0, 1)], 0);
        model.ran.take();
        let ((), lines) = logged(|| {
            for _ in 0..2 {
                let output = model.forward(&again).unwrap();
                assert!(same(&output, &(&again * 2.0)), "{fails:?}");
            }
        });
        assert_eq!(model.ran.take(), (3, 7 + 8 + 8), "{fails:?}");
        let stats = model.torchcache.stats();
        assert_eq!((stats.verified, stats.mismatched), (14, 0), "{fails:?}");
        assert_eq!(warnings(&lines, ""), 1, "{fails:?}: {lines:#?}");
    }
}

#[test]
fn whole_batch_verifies_with_the_whole_batch() {
    let mut model = of_eight(Fails::Panics);
    model.torchcache_whole_batch = true;
    model.torchcache_verify = 1.0;
    let xs = random(&[8, 4]);
    model.forward(&xs).unwrap();
    let mixed = partly_new(&xs, 3);
    model.ran.take();
    model.forward(&mixed).unwrap();
    assert_eq!(model.ran.take(), (2, 16));
    let stats = model.torchcache.stats();
    assert_eq!((stats.verified, stats.mismatched), (5, 0));
}

#[test]
fn prefill_fills_a_module_that_needs_whole_batches() {
    let options = version("whole").to_builder().whole_batch(true);
    let pairs = nn::func(|xs| xs.view([-1, 2, 3]).view([-1, 3]) * 2.0);
    let net = Cached::new(pairs, (), options.build().unwrap()).unwrap();
    let xs = random(&[8, 3]);
    let mixed = partly_new(&xs, 1);
    let stats = prefill(&net, [&xs, &mixed]);
    assert_eq!((stats.misses, stats.bypassed), (9, 0));
    assert_eq!(prefill(&net, [&mixed]).memory.hits, 8);
}

#[test]
fn prefill_warns_of_a_batch_that_bypassed_the_cache() {
    let model = of_eight(Fails::Errs);
    let (xs, new) = (random(&[8, 4]), random(&[3, 4]));
    let mixed = Tensor::cat(&[xs.narrow(0, 0, 5), new], 0);
    let fill = || {
        let prefill = Prefill::new(&model.torchcache);
        prefill.try_run([&xs, &mixed], |batch| model.forward(batch))
    };
    let words = "some calls bypassed the cache: their rows are not stored";
    let (stats, lines) = logged(|| fill().unwrap());
    assert_eq!((stats.bypassed, stats.stored), (1, 8));
    assert_eq!(warnings(&lines, words), 1, "{lines:#?}");
    // The next one runs whole batches.
    let (stats, lines) = logged(|| fill().unwrap());
    assert_eq!((stats.bypassed, stats.stored), (0, 3));
    assert_eq!(warnings(&lines, words), 0, "{lines:#?}");
}

/// A panic in a nested cache is one of the outer body.
#[torchcache]
#[derive(Debug)]
struct Around {
    inner: OfEight,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Around {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs).unwrap() + 1.0
    }
}

#[test]
fn nested_cuts_that_fail_are_repeated_as_the_whole_batch() {
    for fails in ALL {
        let inner = of_eight(fails);
        let torchcache = TorchCache::default();
        let model = Around { inner, torchcache };
        let xs = random(&[8, 4]);
        model.forward(&xs);
        let mixed = partly_new(&xs, 3);
        if fails == Fails::AddsADimension {
            continue;
        }
        assert!(
            same(&model.forward(&mixed), &(&mixed * 2.0 + 1.0)),
            "{fails:?}"
        );
        assert!(records_gradients());
    }
}

/// Writes to its argument where a row is above one.
#[torchcache]
fn clamped(xs: &Tensor) -> Tensor {
    let mut ys = xs.shallow_clone();
    if ys.max().double_value(&[]) > 1.0 {
        ys = ys.clamp_max_(1.0);
    }
    ys * 2.0
}

/// It would write to a copy of the program's rows.
#[test]
fn a_cut_that_writes_to_its_argument_is_repeated_as_the_whole_batch() {
    let below = random(&[4, 3]).clamp_max(1.0);
    let xs = Tensor::cat(&[&below, &(random(&[2, 3]).abs() + 2.0)], 0);
    clamped(&below);
    let ((), lines) = logged(|| {
        for _ in 0..2 {
            let batch = xs.copy();
            assert!(same(&clamped(&batch), &(xs.clamp_max(1.0) * 2.0)));
            assert!(same(&batch, &xs.clamp_max(1.0)));
        }
    });
    assert_eq!(
        warnings(&lines, "argument `xs` was written"),
        1,
        "{lines:?}"
    );
    let stats = clamped_cache().stats();
    assert_eq!((stats.stored, stats.bypassed), (4, 2));
}

#[test]
fn a_panic_of_a_whole_batch_passes_through_at_once() {
    let model = of_eight(Fails::Panics);
    let xs = random(&[7, 4]);
    assert_eq!(panic_of(|| model.forward(&xs)), "batches have eight rows");
    assert_eq!(model.ran.take(), (1, 7));
}

/// Forwards that take only some batches.
#[derive(Debug, Clone, Copy, PartialEq, Fingerprint)]
enum Picky {
    Squeezes,
    TakesPairs,
    TakesThreeOrMore,
    IsSparseIfOdd,
    PanicsOnFive,
}

impl Picky {
    fn forward(self, xs: &Tensor) -> Result<Tensor, Box<dyn Error + Send + Sync>> {
        let (rows, doubled) = (xs.size()[0], xs * 2.0);
        Ok(match self {
            Picky::Squeezes => doubled.unsqueeze(-1),
            Picky::TakesPairs => doubled.view([-1, 2, 3]).view([-1, 3]),
            Picky::TakesThreeOrMore if rows < 3 => return Err("too few".into()),
            Picky::IsSparseIfOdd if rows % 2 == 1 => {
                doubled.to_sparse(None::<tch::Layout>, None::<&[i64]>, None)
            }
            Picky::PanicsOnFive => tch::no_grad(|| {
                assert_ne!(rows, 5);
                doubled
            }),
            _ => doubled,
        })
    }
}

#[torchcache]
#[derive(Debug)]
struct PickyModule {
    picky: Picky,
    /// Gives each case its own identity.
    case: u64,
    torchcache_whole_batch: bool,
    torchcache_verify: f64,
    torchcache: TorchCache,
}

#[torchcache]
impl PickyModule {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Box<dyn Error + Send + Sync>> {
        let output = self.picky.forward(xs)?;
        Ok(match self.picky {
            Picky::Squeezes => output.squeeze(),
            _ => output,
        })
    }
}

fn dense(tensor: &Tensor) -> Tensor {
    match tensor.is_sparse() {
        true => tensor.to_dense(None, false),
        false => tensor.shallow_clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever batches came before, a batch that works without the cache returns the same with it.
    #[test]
    fn batches_that_work_without_the_cache_work_with_it(
        picky in prop::sample::select(vec![
            Picky::Squeezes,
            Picky::TakesPairs,
            Picky::TakesThreeOrMore,
            Picky::IsSparseIfOdd,
            Picky::PanicsOnFive,
        ]),
        case: u64,
        torchcache_whole_batch: bool,
        torchcache_verify in prop::sample::select(vec![0.0, 0.5]),
        batches in prop::collection::vec(prop::collection::vec(0i64..9, 1..8), 1..14),
    ) {
        let torchcache = TorchCache::default();
        let model = PickyModule { picky, case, torchcache_whole_batch, torchcache_verify, torchcache };
        let pool = Tensor::arange(27, (Kind::Float, device())).view([9, 3]);
        for batch in batches {
            let xs = pool.index_select(0, &Tensor::from_slice(&batch).to_device(device()));
            let run = |run: &dyn Fn() -> Result<Tensor, Box<dyn Error + Send + Sync>>| {
                catch_unwind(AssertUnwindSafe(run)).ok().and_then(Result::ok)
            };
            let expected = run(&|| {
                let output = picky.forward(&xs)?;
                Ok(if picky == Picky::Squeezes { output.squeeze() } else { output })
            });
            let before = model.torchcache.stats();
            let output = run(&|| model.forward(&xs));
            if let Some(expected) = expected {
                let output = output.expect("it works without the cache");
                prop_assert!(same(&dense(&output), &dense(&expected)), "{:?}", batch);
                let stats = model.torchcache.stats().since(&before);
                // A sparse output is another one than the cached rows.
                if !expected.is_sparse() {
                    prop_assert_eq!(stats.mismatched, 0, "{:?}", batch);
                }
            }
        }
    }
}
