//! Bad input and failing forwards: the error, and the cached rows, which stay.

use std::cell::Cell;

use tch::nn::Module;
use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Error, ErrorKind, TorchCache, prefill, torchcache};

use crate::raw;
use crate::support::{
    Ran, Scale, assert_panics, device, logged, panic_of, panic_place, random, same, version,
    warnings,
};

#[torchcache]
fn fallible(xs: Option<&Tensor>, ys: Option<&Tensor>) -> Result<Tensor, Error> {
    Ok(xs
        .or(ys)
        .map_or_else(|| Tensor::zeros([1], (Kind::Float, device())), |xs| xs * 2))
}

#[test]
fn no_tensor_argument_is_an_error() {
    let error = fallible(None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoTensorArgument);
    assert!(
        error
            .to_string()
            .contains("bad_input::fallible: no tensor argument"),
        "{error}"
    );
}

#[test]
fn different_batch_sizes_are_an_error() {
    let (xs, ys) = (random(&[3, 2]), random(&[4, 2]));
    let error = fallible(Some(&xs), Some(&ys)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BatchSizeMismatch);
    assert!(
        error
            .to_string()
            .contains("argument `xs` has 3 rows, argument `ys` has 4"),
        "{error}"
    );
    assert!(fallible(Some(&xs), None).is_ok());
}

#[test]
fn a_0d_tensor_is_an_error() {
    let error = fallible(Some(&Tensor::from(1.0f32)), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ZeroDimensionalArgument);
    assert!(
        error.to_string().contains("argument `xs` is a 0-d tensor"),
        "{error}"
    );
    let text = "support::Scale: argument `xs` is a 0-d tensor";
    assert_panics(&[text], || Scale::by(1.0).forward(&Tensor::from(1.0f32)));
}

#[torchcache]
fn summed(xs: &Tensor) -> Tensor {
    xs.sum(Kind::Float)
}

#[test]
fn misuse_panics_point_at_the_call() {
    let (xs, scale) = (Tensor::from(1.0f32), Scale::by(1.0));
    let cached = || Cached::new(nn::func(|xs| xs * 2), (), version("double")).unwrap();
    let (wrapped, eval) = (cached(), cached().eval());
    let at = |line| Some((file!().to_owned(), line));
    assert_eq!(panic_place(|| summed(&xs)), at(line!()));
    assert_eq!(panic_place(|| scale.forward(&xs)), at(line!()));
    assert_eq!(panic_place(|| wrapped.forward(&xs)), at(line!()));
    assert_eq!(panic_place(|| wrapped.forward_t(&xs, false)), at(line!()));
    assert_eq!(panic_place(|| eval.forward(&xs)), at(line!()));
    assert_eq!(panic_place(|| prefill(&scale, [&xs])), at(line!()));
    assert_eq!(panic_place(|| prefill(&wrapped, [&xs])), at(line!()));
    assert_eq!(panic_place(|| prefill(&eval, [&xs])), at(line!()));
}

#[torchcache]
fn halved(xs: &Tensor) -> (Tensor, Tensor) {
    (xs.shallow_clone(), xs.narrow(0, 0, xs.size()[0] / 2))
}

#[torchcache]
fn fallible_sum(xs: &Tensor) -> Result<Tensor, Error> {
    Ok(xs.sum(Kind::Float))
}

#[test]
fn an_output_without_a_row_per_input_row_is_an_error() {
    let xs = random(&[4, 2]);
    let error = fallible_sum(&xs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutputBatchMismatch);
    let text = "the output has shape []; expected a first dimension of 4, the rows of the batch";
    assert_panics(&[text], || summed(&xs));
    assert_panics(&["output `1` has shape [2, 2]"], || halved(&xs));
    let [summed, halved] = [summed_cache(), halved_cache()].map(|cache| cache.stats().stored);
    assert_eq!((summed, halved), (0, 0));
}

/// Cuts each batch to its longest row, as tokenizers do.
#[torchcache]
#[derive(Debug, Default)]
struct Trimmed {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Trimmed {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        let longest = xs
            .ne(0.0)
            .sum_dim_intlist(1, false, Kind::Int64)
            .max()
            .int64_value(&[]);
        xs.narrow(1, 0, longest)
    }
}

#[test]
fn batch_dependent_row_shapes_bypass_with_one_warning() {
    let model = Trimmed::default();
    let row = |length: i64| {
        Tensor::cat(
            &[
                random(&[1, length]).abs() + 1.0,
                Tensor::zeros([1, 8 - length], (Kind::Float, device())),
            ],
            1,
        )
    };
    let (short, long) = (row(3), row(6));
    assert_eq!(model.forward(&short).size(), [1, 3]);
    model.ran.take();
    let both = Tensor::cat(&[&short, &long], 0);
    let (outputs, lines) = logged(|| [model.forward(&both), model.forward(&both)]);
    for output in outputs {
        assert!(same(&output, &both.narrow(1, 0, 6)));
    }
    assert_eq!(warnings(&lines, "changes with the batch"), 1, "{lines:?}");
    assert_eq!(model.torchcache.stats().bypassed, 2);
    // The failure makes the shape of a row alone doubtful.
    assert_eq!(model.forward(&short).size(), [1, 3]);
    model.ran.take();
    assert_eq!(model.forward(&short).size(), [1, 3]);
    assert_eq!(model.ran.take(), (0, 0), "rows cached before are hits");
}

/// Adds to its arguments in place, where the first is positive.
fn add_in_place(
    mut first: Tensor,
    second: Option<&Tensor>,
    rest: &[Tensor],
    shared: &Tensor,
) -> Tensor {
    let out = &first * 2.0 + shared;
    if first.max().double_value(&[]) > 0.0 {
        let all = second.into_iter().chain(rest).chain([shared]);
        for mut tensor in all.map(Tensor::shallow_clone) {
            tensor += 1.0;
        }
        first += 1.0;
    }
    out
}

#[torchcache]
fn written(
    first: Tensor,
    second: Option<&Tensor>,
    rest: &[Tensor],
    #[shared] shared: &Tensor,
) -> Tensor {
    add_in_place(first, second, rest, shared)
}

#[torchcache]
#[derive(Debug, Default)]
struct InPlace {
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for InPlace {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs.shallow_clone().relu_() + 1.0
    }
}

#[torchcache]
#[derive(Debug, Default)]
struct Outer {
    inner: InPlace,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Outer {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) * 2.0
    }
}

/// A hit would not write: the program would find other values in its tensors.
#[test]
fn a_forward_that_writes_to_an_argument_bypasses_the_cache() {
    let model = Outer::default();
    let base = random(&[4, 3]);
    let ((), lines) = logged(|| {
        for rows in [4, 4, 1, 3] {
            let xs = base.narrow(0, 0, rows).copy();
            let expected = (xs.relu() + 1.0) * 2.0;
            assert!(same(&model.forward(&xs), &expected));
            assert!(same(&xs, &base.narrow(0, 0, rows).relu()));
        }
    });
    assert_eq!(model.inner.ran.take(), (4, 12));
    let texts = "argument `xs` was written in place during the forward";
    assert_eq!(
        warnings(&lines, texts),
        2,
        "once for each module: {lines:?}"
    );
    for cache in [&model.torchcache, &model.inner.torchcache] {
        assert_eq!((cache.stats().stored, cache.stats().bypassed), (0, 4));
    }
}

#[test]
fn writes_to_arguments_of_every_kind_are_seen() {
    let positive = |rows| random(&[rows, 3]).abs() + 0.1;
    let negative = random(&[4, 3]).abs() * -1.0 - 0.1;
    let mixed = Tensor::cat(&[&negative, &positive(2)], 0);
    for (first, writes) in [(&negative, false), (&mixed, true), (&positive(4), true)] {
        for has_second in [false, true] {
            let rows = first.size()[0];
            let made = || [first.copy(), positive(rows), positive(rows), positive(1)];
            let given = made();
            let plain = given.each_ref().map(Tensor::copy);
            for _ in 0..3 {
                let call =
                    |f: fn(Tensor, Option<&Tensor>, &[Tensor], &Tensor) -> Tensor,
                     [first, second, rest, shared]: &[Tensor; 4]| {
                        let second = has_second.then_some(second);
                        f(
                            first.shallow_clone(),
                            second,
                            std::slice::from_ref(rest),
                            shared,
                        )
                    };
                let before = written_cache().stats().bypassed;
                let (ys, expected) = (call(written, &given), call(add_in_place, &plain));
                assert!(same(&ys, &expected));
                for (given, plain) in given.iter().zip(&plain) {
                    assert!(same(given, plain));
                }
                let bypassed = written_cache().stats().bypassed - before;
                assert_eq!(bypassed, u64::from(writes));
            }
        }
    }
    let stats = written_cache().stats();
    assert_eq!(
        (stats.misses, stats.memory.hits),
        (8, 16),
        "those without a write"
    );
}

#[torchcache]
fn dense(xs: &Tensor) -> Tensor {
    if xs.is_sparse() {
        xs.to_dense(None, false)
    } else {
        xs.dequantize()
    }
}

#[torchcache]
fn sparse(xs: &Tensor) -> Tensor {
    xs.to_sparse(None::<tch::Layout>, None::<&[i64]>, None)
}

#[test]
fn sparse_and_quantized_tensors_bypass_with_one_warning() {
    let xs = random(&[4, 3]).to_device(tch::Device::Cpu);
    let quantized = xs.quantize_per_tensor(0.1, 0, Kind::QInt8);
    let (_, lines) = logged(|| {
        for _ in 0..2 {
            assert!(same(
                &dense(&xs.to_sparse(None::<tch::Layout>, None::<&[i64]>, None)),
                &xs
            ));
            assert!(same(&dense(&quantized), &quantized.dequantize()));
            assert!(same(&sparse(&xs).to_dense(None, false), &xs));
        }
    });
    assert_eq!(dense_cache().stats().bypassed, 4);
    assert_eq!(sparse_cache().stats().bypassed, 2);
    let wanted = "argument `xs` is sparse or quantized and cannot be cut into rows";
    assert_eq!(warnings(&lines, wanted), 1, "{lines:?}");
    assert_eq!(warnings(&lines, "the output is sparse"), 1, "{lines:?}");
    assert_eq!(warnings(&lines, ""), 2, "{lines:?}");
}

#[test]
fn compressed_sparse_tensors_bypass_the_cache() {
    let xs = random(&[4, 3]).to_device(tch::Device::Cpu);
    let rows = Tensor::from_slice(&[0i64, 1, 1, 2, 2]);
    let columns = Tensor::from_slice(&[2i64, 0]);
    let values = Tensor::from_slice(&[1.0f32, 2.0]);
    let csr = Tensor::internal_sparse_csr_tensor_unsafe(
        &rows,
        &columns,
        &values,
        [4, 3],
        (Kind::Float, tch::Device::Cpu),
    );
    let model = Scale::by(1.0);
    assert_eq!(model.forward(&csr).size(), xs.size());
    assert_eq!(model.cache.stats().bypassed, 1);
}

#[test]
fn kinds_unknown_to_tch_bypass_with_one_warning() {
    let unknown = raw::of_unknown_kind();
    assert!(unknown.f_kind().is_err());
    let model = Trace::default();
    let (_, lines) = logged(|| {
        model.forward(&unknown);
        model.forward(&unknown);
    });
    assert_eq!(model.seen.get(), 2);
    assert_eq!(model.torchcache.stats().bypassed, 2);
    let wanted = "argument `xs` is undefined or of a kind that tch does not know";
    assert_eq!(warnings(&lines, wanted), 1, "{lines:?}");
    assert_eq!(warnings(&lines, ""), 1, "{lines:?}");
    // Kinds that tch knows are still cached.
    let xs = random(&[4, 2]);
    model.forward(&xs);
    model.forward(&xs);
    assert_eq!(model.seen.get(), 3);
}

#[torchcache]
#[derive(Debug, Default)]
struct Trace {
    #[torchcache(skip)]
    seen: Cell<usize>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Trace {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.seen.set(self.seen.get() + 1);
        xs.shallow_clone()
    }
}

#[torchcache]
fn sometimes(xs: &Tensor, fail: bool) -> Result<Tensor, Box<dyn std::error::Error + Send + Sync>> {
    if fail {
        Err("the forward failed".into())
    } else {
        Ok(xs * 2)
    }
}

#[test]
fn forward_errors_are_returned_and_not_cached() {
    let xs = random(&[4, 2]);
    for _ in 0..2 {
        assert_eq!(
            sometimes(&xs, true).unwrap_err().to_string(),
            "the forward failed"
        );
    }
    assert_eq!(sometimes_cache().stats().stored, 0);
    assert!(same(&sometimes(&xs, false).unwrap(), &(&xs * 2)));
}

#[torchcache]
#[derive(Debug, Default)]
struct Panics {
    #[torchcache(skip)]
    armed: Cell<bool>,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Panics {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        assert!(!self.armed.get(), "the forward panicked");
        xs * 2
    }
}

#[test]
fn a_panic_in_the_forward_stores_no_rows() {
    let model = Panics::default();
    let xs = random(&[4, 2]);
    model.forward(&xs.narrow(0, 0, 2));
    model.armed.set(true);
    assert_eq!(panic_of(|| model.forward(&xs)), "the forward panicked");
    model.armed.set(false);
    assert_eq!(model.torchcache.stats().stored, 2);
    model.ran.take();
    assert!(same(&model.forward(&xs), &(&xs * 2)));
    assert_eq!(model.ran.take(), (1, 2));
}
