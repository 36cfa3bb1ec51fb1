//! Tensors that cannot be cut into rows, or not even measured, in every position: such calls return
//! what they return without the cache, and leave no error behind.

use std::rc::Rc;

use tch::nn::Module;
use tch::{Device, Kind, Layout, Tensor};
use torchcache::{
    Batched, ErrorKind, Fingerprint, Fingerprinter, PlainArgument, TorchCache, torchcache,
};

use crate::support::{Ran, logged, warnings};

const FLOAT: (Kind, Device) = tch::kind::FLOAT_CPU;

fn dense() -> Tensor {
    Tensor::arange(8, FLOAT).view([4, 2]) + 1.0
}

/// Of two parts, `[2, 2]` and `[3, 2]`.
fn nested() -> Tensor {
    let rows = |values: &[i64]| Tensor::from_slice(values).view([2, 2]);
    let offsets = Tensor::from_slice(&[0i64, 4]);
    let (sizes, strides) = (rows(&[2, 2, 3, 2]), rows(&[2, 1, 2, 1]));
    Tensor::arange(10, FLOAT).internal_nested_view_from_buffer(&sizes, &strides, &offsets)
}

fn sparse() -> Tensor {
    dense().to_sparse(None::<Layout>, None::<&[i64]>, None)
}

/// Whether the cache can hash a kind, in a field or in an argument.
fn is_hashed(kind: &str) -> bool {
    !["nested", "unknown kind"].contains(&kind)
}

/// Every odd kind, with its name.
fn kinds() -> Vec<(&'static str, Tensor)> {
    let quantized = dense().quantize_per_tensor(0.5, 0, Kind::QInt8);
    vec![
        ("undefined", Tensor::new()),
        ("nested", nested()),
        ("coo", sparse()),
        ("csr", dense().to_sparse_csr(None)),
        ("bsr", dense().to_sparse_bsr([2, 2], None)),
        ("quantized", quantized),
        ("mkldnn", dense().to_mkldnn()),
        ("unknown kind", crate::raw::of_unknown_kind()),
    ]
}

/// A tensor of any kind as plain values: whether it is defined, and its elements in order.
fn describe(tensor: &Tensor) -> (bool, Vec<f64>) {
    if !tensor.defined() {
        return (false, Vec::new());
    }
    let dense = match tensor.f_kind() {
        Err(_) => tensor.to_kind(Kind::Double),
        Ok(Kind::QInt8) => tensor.dequantize(),
        Ok(_) if tensor.f_to_padded_tensor(0.0, None::<&[i64]>).is_ok() => {
            tensor.to_padded_tensor(0.0, None::<&[i64]>)
        }
        Ok(_) if tensor.is_mkldnn() || tensor.f_to_dense(None, false).is_ok() => {
            tensor.to_dense(None, false)
        }
        Ok(_) => tensor.shallow_clone(),
    };
    let flat = dense.contiguous().view(-1).to_kind(Kind::Double);
    (true, Vec::try_from(flat).unwrap())
}

/// A fallible call returns an error that another call left behind.
#[track_caller]
fn assert_no_error_is_pending() {
    Tensor::zeros([1], FLOAT).f_neg().unwrap();
}

/// Calls twice. Both return what `expected` is, with at most one warning. Returns the log.
#[track_caller]
fn check(name: &str, expected: &Tensor, call: impl Fn() -> Tensor) -> Vec<String> {
    let ((), lines) = logged(|| {
        for _ in 0..2 {
            let output = call();
            assert_no_error_is_pending();
            assert_eq!(describe(&output), describe(expected), "{name}");
        }
    });
    assert!(warnings(&lines, "") <= 1, "{name}: {lines:#?}");
    lines
}

/// Modules whose forwards take a tensor in different positions, and count their runs.
macro_rules! takers {
    ($($name:ident: ($($(#[$role:ident])? $argument:ident: $type:ty),*) -> $output:ty { $($body:tt)* })*) => {$(
        #[torchcache]
        #[derive(Debug, Default)]
        struct $name {
            #[torchcache(skip)]
            ran: Ran,
            torchcache: TorchCache,
        }

        #[torchcache]
        impl $name {
            fn forward(&self, $($(#[$role])? $argument: $type),*) -> $output {
                self.ran.note(&dense());
                $($body)*
            }
        }
    )*};
}

takers! {
    First: (xs: &Tensor) -> Tensor { xs.shallow_clone() }
    Owned: (xs: Tensor) -> Tensor { xs }
    Second: (xs: &Tensor, ys: &Tensor) -> Tensor {
        assert_eq!(xs.size(), [4, 2]);
        ys.shallow_clone()
    }
    Optional: (xs: &Tensor, ys: Option<&Tensor>) -> Tensor {
        assert_eq!(xs.size(), [4, 2]);
        ys.unwrap().shallow_clone()
    }
    Last: (tensors: &[Tensor]) -> Tensor { tensors[tensors.len() - 1].shallow_clone() }
    Borrowed: (xs: &Tensor, tensors: &[&Tensor]) -> Tensor {
        assert_eq!(xs.size(), [4, 2]);
        tensors[0].shallow_clone()
    }
    Shared: (xs: &Tensor, #[shared] table: &Tensor) -> Tensor { xs * sum(table) }
    SharedTwice: (xs: &Tensor, #[shared] tables: &[&Tensor], #[shared] more: Option<Tensor>) -> Tensor {
        xs * (sum(tables[1]) + sum(&more.unwrap()))
    }
}

#[test]
fn odd_arguments_bypass_the_cache_with_one_warning() {
    let xs = dense();
    for (kind, odd) in kinds() {
        let both = [xs.shallow_clone(), odd.shallow_clone()];
        let again = || odd.shallow_clone();
        macro_rules! check {
            ($($taker:ident: $($argument:expr),*;)*) => {$(
                let name = format!("{kind}, {}", stringify!($taker: $($argument),*));
                let taker = $taker::default();
                let lines = check(&name, &odd, || taker.forward($($argument),*));
                assert_eq!(warnings(&lines, "bypass the cache"), 1, "{name}: {lines:#?}");
                assert_eq!(taker.ran.take().0, 2, "{name}");
                assert_eq!(taker.torchcache.stats().bypassed, 2, "{name}");
            )*};
        }
        check! {
            First: &odd;
            Owned: again();
            Second: &xs, &odd;
            Optional: &xs, Some(&odd);
            Last: &both[1..];
            Last: &both;
            Borrowed: &xs, &[&odd];
            Borrowed: &xs, &[&odd, &xs];
        }
    }
}

fn sum(tensor: &Tensor) -> f64 {
    describe(tensor).1.iter().sum()
}

#[test]
fn odd_shared_arguments_are_hashed_or_bypass_the_cache() {
    let xs = dense();
    for (kind, odd) in kinds() {
        let sharer = Shared::default();
        let lines = check(kind, &(&xs * sum(&odd)), || sharer.forward(&xs, &odd));
        // An undefined one is no value that a body could use.
        let is_hashed = is_hashed(kind) && odd.defined();
        let bypassed = if is_hashed { 0 } else { 2 };
        assert_eq!(sharer.torchcache.stats().bypassed, bypassed, "{kind}");
        assert_eq!(warnings(&lines, ""), bypassed as usize / 2, "{lines:#?}");
        let expected = &xs * (2.0 * sum(&odd));
        let sharer = SharedTwice::default();
        check(kind, &expected, || {
            sharer.forward(&xs, &[&xs, &odd], Some(odd.shallow_clone()))
        });
    }
}

/// Returns its field.
#[torchcache]
#[derive(Debug)]
struct Holder {
    odd: Tensor,
    list: Vec<Tensor>,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Holder {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * (sum(&self.odd) + sum(&self.list[0]))
    }
}

#[test]
fn odd_fields_are_hashed_or_bypass_the_cache() {
    let xs = dense();
    for (kind, odd) in kinds() {
        let holder = Holder {
            list: vec![odd.shallow_clone()],
            odd,
            ran: Ran::default(),
            torchcache: TorchCache::default(),
        };
        let expected = &xs * (2.0 * sum(&holder.odd));
        let lines = check(kind, &expected, || holder.forward(&xs));
        let bypassed = holder.torchcache.stats().bypassed;
        assert_eq!(bypassed, if is_hashed(kind) { 0 } else { 2 }, "{kind}");
        let warned = warnings(&lines, "a field is a tensor that cannot be hashed");
        assert_eq!(warned as u64, bypassed / 2, "{lines:#?}");
    }
}

/// The elements of a nested field change.
#[test]
fn a_write_to_an_odd_field_is_never_a_stale_row() {
    let xs = dense();
    for (kind, odd) in kinds() {
        if ["undefined", "quantized", "mkldnn", "unknown kind"].contains(&kind) {
            continue;
        }
        let mut holder = Holder {
            list: vec![dense()],
            odd,
            ran: Ran::default(),
            torchcache: TorchCache::default(),
        };
        let expected = |holder: &Holder| &xs * (sum(&holder.odd) + 36.0);
        check(kind, &expected(&holder), || holder.forward(&xs));
        let _ = holder.odd.values().data().fill_(7.0);
        check(kind, &expected(&holder), || holder.forward(&xs));
        holder.odd *= 2.0;
        check(kind, &expected(&holder), || holder.forward(&xs));
    }
}

#[torchcache]
fn by_id(xs: &Tensor, #[id] ids: &Tensor) -> Result<Tensor, torchcache::Error> {
    assert!(ids.defined());
    Ok(xs * 2.0)
}

#[test]
fn odd_ids_are_an_error() {
    for (kind, odd) in kinds() {
        let error = by_id(&dense(), &odd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidIds, "{kind}: {error}");
        assert_no_error_is_pending();
    }
}

/// A plain argument that holds a tensor.
#[derive(Debug, Clone)]
struct Config(Rc<Vec<Tensor>>);

impl Fingerprint for Config {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.field("tensor", &self.0[0]);
    }
}

impl PlainArgument for Config {}

#[torchcache]
fn configured(xs: &Tensor, config: Config) -> Tensor {
    xs * sum(&config.0[0])
}

#[test]
fn odd_tensors_in_plain_arguments_are_hashed_or_bypass_the_cache() {
    let xs = dense();
    for (kind, odd) in kinds() {
        let expected = &xs * sum(&odd);
        let config = Config(Rc::new(vec![odd]));
        let before = configured_cache().stats();
        check(kind, &expected, || configured(&xs, config.clone()));
        let stats = configured_cache().stats().since(&before);
        assert_eq!(
            stats.bypassed,
            if is_hashed(kind) { 0 } else { 2 },
            "{kind}"
        );
    }
}

#[derive(Batched, Debug)]
struct Outputs {
    first: Tensor,
    rest: Vec<Tensor>,
    last: Option<Tensor>,
}

/// Modules that return a skipped field in one place of their output.
macro_rules! givers {
    ($($name:ident: |$odd:ident, $xs:ident $(, $place:ident)?| -> $output:ty { $($body:tt)* })*) => {$(
        #[torchcache]
        #[derive(Debug)]
        struct $name {
            #[torchcache(skip)]
            odd: Tensor,
            torchcache: TorchCache,
        }

        #[torchcache]
        impl $name {
            fn forward(&self, $xs: &Tensor $(, $place: usize)?) -> $output {
                let $odd = self.odd.shallow_clone();
                $($body)*
            }
        }

        impl $name {
            fn giving(odd: &Tensor) -> Self {
                let odd = odd.shallow_clone();
                $name { odd, torchcache: TorchCache::default() }
            }
        }
    )*};
}

givers! {
    Alone: |odd, xs| -> Tensor {
        assert!(xs.defined());
        odd
    }
    Pair: |odd, xs| -> (Tensor, Tensor) { (xs * 2.0, odd) }
    Parts: |odd, xs, place| -> Result<Outputs, torchcache::Error> {
        let at = |here: usize| match here == place {
            true => odd.shallow_clone(),
            false => xs * 2.0,
        };
        Ok(Outputs { first: at(0), rest: vec![at(1), at(2)], last: Some(at(3)) })
    }
}

#[test]
fn odd_outputs_are_not_cached() {
    for (kind, odd) in kinds() {
        // Distinct rows, repeated ones, and one.
        let repeated = Tensor::cat(&[dense().narrow(0, 0, 2), dense().narrow(0, 0, 2)], 0);
        for (rows, xs) in [(4, dense()), (4, repeated), (1, dense().narrow(0, 0, 1))] {
            let name = format!("{kind}, {rows} rows");
            let one = Alone::giving(&odd);
            let lines = check(&name, &odd, || one.forward(&xs));
            assert_eq!(warnings(&lines, "it is not cached"), 1, "{lines:#?}");
            assert_eq!(one.torchcache.stats().bypassed, 2, "{name}");
            let one = Pair::giving(&odd);
            let lines = check(&name, &odd, || {
                let (doubled, odd) = one.forward(&xs);
                assert_eq!(describe(&doubled), describe(&(&xs * 2.0)));
                odd
            });
            assert_eq!(warnings(&lines, "it is not cached"), 1, "{lines:#?}");
            for place in 0..4 {
                let one = Parts::giving(&odd);
                let lines = check(&name, &odd, || {
                    let outputs = one.forward(&xs, place).unwrap();
                    let mut all = vec![outputs.first];
                    all.extend(outputs.rest);
                    all.extend(outputs.last);
                    all.swap_remove(place)
                });
                assert_eq!(warnings(&lines, "it is not cached"), 1, "{lines:#?}");
            }
        }
    }
}

/// Strided tensors that differ from plain memory are cached as before.
#[test]
fn conjugated_zero_dimensional_and_expanded_tensors_are_cached() {
    let complex = Tensor::complex(&dense(), &(dense() * 3.0)).conj();
    let imaginary = complex.imag();
    let expanded = Tensor::ones([1, 2], FLOAT).expand([4, 2], false);
    let zeros = Tensor::internal_efficientzerotensor([4, 2], FLOAT);
    for (name, xs, misses) in [
        ("conjugated", complex, 4),
        ("negated", imaginary, 4),
        ("transposed", dense().tr(), 2),
        ("expanded", expanded, 1),
        ("zeros", zeros, 1),
        ("empty rows", dense().narrow(1, 0, 0), 1),
    ] {
        let taker = First::default();
        let parts = |tensor: &Tensor| match tensor.is_complex() {
            true => describe(&tensor.resolve_conj().view_as_real()),
            false => describe(&(tensor + 0.0)),
        };
        for _ in 0..2 {
            assert_eq!(parts(&taker.forward(&xs)), parts(&xs), "{name}");
            assert_no_error_is_pending();
        }
        assert_eq!(taker.torchcache.stats().misses, misses, "{name}");
        assert_eq!(taker.torchcache.stats().bypassed, 0, "{name}");
    }
}
