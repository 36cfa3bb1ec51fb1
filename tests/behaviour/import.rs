//! `TorchCache::import`: rows that the caller has become those of a call, without its body.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};
use torchcache::{Batched, Error, ErrorKind, Imported, TorchCache, torchcache};

use crate::persistent_module::kept;
use crate::support::{Ran, Scale, counts, random, same};

fn done(imported: Imported) -> (u64, u64) {
    (imported.imported, imported.present)
}

/// `(kind, message)` of an error.
fn refused(result: Result<Imported, Error>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), String::from(error))
}

#[test]
fn imported_rows_are_hits_and_no_body_runs() {
    let model = Scale::by(2.0);
    let xs = random(&[5, 3]);
    model.forward(&xs.narrow(0, 0, 2));
    assert_eq!(model.ran.take(), (1, 2));
    let batch = Tensor::cat(&[&xs, &xs.narrow(0, 4, 1)], 0);
    // Cached rows keep their values, and the first of equal rows counts.
    let given = Tensor::cat(&[&xs * 9.0, &xs.narrow(0, 4, 1) * 8.0], 0);
    let before = model.cache.stats();
    let imported = model.cache.import(given, || model.forward(&batch)).unwrap();
    assert_eq!(done(imported), (3, 3));
    let since = model.cache.stats().since(&before);
    assert_eq!((since.calls, since.misses, since.stored), (0, 0, 0));
    assert_eq!((since.imported, model.cache.stats().memory.rows), (3, 5));
    let expected = Tensor::cat(&[&xs.narrow(0, 0, 2) * 2.0, &xs.narrow(0, 2, 3) * 9.0], 0);
    assert!(same(&model.forward(&xs), &expected));
    assert_eq!(model.ran.take(), (0, 0), "no body ran");
    assert_eq!(counts(&model.cache), (2, 5, 0));
    let again = model.cache.import(random(&[5, 3]), || model.forward(&xs));
    assert_eq!(done(again.unwrap()), (0, 5));
    assert!(same(&model.forward(&xs), &expected));
}

#[test]
fn files_of_features_are_imported_into_all_tiers() {
    let root = tempfile::tempdir().unwrap();
    let (npy, safetensors) = (root.path().join("1.npy"), root.path().join("2.safetensors"));
    let xs = random(&[7, 4]);
    let features = (&xs * 2.0).to_device(tch::Device::Cpu);
    features.narrow(0, 2, 3).write_npy(&npy).unwrap();
    Tensor::write_safetensors(
        &[("output", features.narrow(0, 5, 2).contiguous())],
        &safetensors,
    )
    .unwrap();
    let model = kept(root.path());
    let call = |at, rows| model.forward(&xs.narrow(0, at, rows));
    call(0, 2).unwrap();
    model.ran.take();
    let part = Tensor::read_npy(&npy).unwrap();
    let imported = model.torchcache.import(part, || call(2, 3)).unwrap();
    assert_eq!(done(imported), (3, 0));
    let (_, part) = Tensor::read_safetensors(&safetensors).unwrap().remove(0);
    // One row is present.
    let part = Tensor::cat(&[&features.narrow(0, 4, 1), &part], 0);
    let imported = model.torchcache.import(part, || call(4, 3)).unwrap();
    assert_eq!(done(imported), (2, 1));
    model.torchcache.flush().unwrap();
    assert_eq!(model.torchcache.stats().disk.rows, 7);
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (0, 0));
    drop(model);
    let reopened = kept(root.path());
    let output = reopened.forward(&xs).unwrap();
    assert!(
        same(&output, &(&xs * 2.0)),
        "where the function returns it: {:?}",
        output.device()
    );
    assert_eq!(counts(&reopened.torchcache), (0, 0, 7));
    assert_eq!(reopened.ran.take(), (0, 0));
}

#[derive(Batched)]
struct Parts {
    rows: Tensor,
    layers: Vec<Tensor>,
}

#[test]
fn what_does_not_fit_is_an_error_and_stores_nothing() {
    #[torchcache]
    #[derive(Debug, Default)]
    struct Net {
        torchcache_enabled: Option<bool>,
        torchcache_cache_dtype: Option<Kind>,
        cache: TorchCache,
    }
    #[torchcache]
    impl Net {
        #[torchcache]
        fn parts(&self, xs: &Tensor, #[id] _ids: &[i64], train: bool) -> Parts {
            let factor = if train { 3 } else { 2 };
            Parts {
                rows: xs * factor,
                layers: vec![xs + 1],
            }
        }

        #[torchcache]
        fn pair(&self, xs: &Tensor) -> (Tensor, Tensor) {
            (xs + 1, xs + 2)
        }
    }
    let mut net = Net {
        torchcache_enabled: Some(true),
        ..Net::default()
    };
    let xs = random(&[3, 2]);
    let parts = |rows: &Tensor, layers: &[&Tensor]| Parts {
        rows: rows.shallow_clone(),
        layers: layers.iter().map(|it| it.shallow_clone()).collect(),
    };
    let import =
        |net: &Net, value, ids: &[i64]| net.cache.import(value, || net.parts(&xs, ids, false));
    let good = || parts(&xs, &[&xs]);
    let (kind, text) = refused(import(&net, good(), &[1, 2, 3]));
    assert_eq!(kind, ErrorKind::NoCall);
    assert!(text.contains("call it once before"), "{text}");
    net.parts(&random(&[2, 2]), &[8, 9], false);
    let stats = |net: &Net| {
        let stats = net.cache.stats();
        (stats.memory.rows, stats.imported)
    };
    let (two, wide) = (xs.narrow(0, 0, 2), random(&[3, 5]));
    let cases: [(Parts, &[i64], &str); 8] = [
        (
            parts(&two, &[&two]),
            &[1, 2, 3],
            "output `rows` has shape [2, 2] in the imported value; expected a first dimension of 3",
        ),
        (
            parts(&xs, &[&two]),
            &[1, 2, 3],
            "output `layers.0` has shape [2, 2]",
        ),
        (
            parts(&wide, &[&xs]),
            &[1, 2, 3],
            "imported rows are `rows` Float [5], `layers.0` Float [2]",
        ),
        (
            parts(&xs.to_kind(Kind::Double), &[&xs]),
            &[1, 2, 3],
            "`rows` Double [2]",
        ),
        (
            parts(&xs, &[]),
            &[1, 2, 3],
            "other rows of this cache `rows` Float [2], `layers.0` Float [2]",
        ),
        (
            parts(&xs.to_device(Device::Cpu).to_sparse_sparse_dim(2), &[&xs]),
            &[1, 2, 3],
            "the imported rows cannot be cached: the output is sparse",
        ),
        (
            parts(&xs.copy().set_requires_grad(true), &[&xs]),
            &[1, 2, 3],
            "detach them",
        ),
        (
            parts(&wide, &[&wide]),
            &[8, 9, 3],
            "expected the kind and shape that the function returns",
        ),
    ];
    for (value, ids, expected) in cases {
        let (kind, text) = refused(import(&net, value, ids));
        assert_eq!(kind, ErrorKind::InvalidImport, "{text}");
        assert!(
            text.contains("Net") && text.contains(expected),
            "{expected}: {text}"
        );
        assert_eq!(stats(&net), (2, 0), "{expected}");
    }
    let of_call = |call: &dyn Fn() -> Parts| refused(net.cache.import(good(), call)).0;
    assert_eq!(of_call(&good), ErrorKind::NoCall);
    let twice = || {
        net.parts(&xs, &[1, 2, 3], false);
        net.parts(&xs, &[4, 5, 6], false)
    };
    assert_eq!(of_call(&twice), ErrorKind::InvalidImport);
    assert_eq!(
        of_call(&|| net.parts(&xs, &[1, 2, 3], true)),
        ErrorKind::Bypassed
    );
    assert_eq!(
        of_call(&|| net.parts(&xs, &[1, 2], false)),
        ErrorKind::IdCountMismatch
    );
    assert_eq!(
        of_call(&|| net.parts(&xs, &[1, 1, 3], false)),
        ErrorKind::DuplicateId
    );
    let empty = |rows: &Tensor| {
        let none = random(&[0, 2]);
        net.cache
            .import(parts(rows, &[rows]), || net.parts(&none, &[], false))
    };
    assert_eq!(refused(empty(&xs)).0, ErrorKind::InvalidImport);
    assert_eq!(done(empty(&xs.narrow(0, 0, 0)).unwrap()), (0, 0));
    let other_type = || {
        net.parts(&xs, &[1, 2, 3], false);
        xs.shallow_clone()
    };
    let (kind, text) = refused(net.cache.import(xs.shallow_clone(), other_type));
    assert_eq!(kind, ErrorKind::InvalidImport);
    assert!(text.contains("the structure `T`"), "{text}");
    assert_eq!(stats(&net), (2, 0));
    // Of a method whose body did not run.
    let pair = || net.cache.import((&xs + 1, &xs + 2), || net.pair(&xs));
    assert_eq!(refused(pair()).0, ErrorKind::NoCall);
    net.pair(&random(&[2, 2]));
    assert_eq!(done(pair().unwrap()), (3, 0));
    let disabled = Net {
        torchcache_enabled: Some(false),
        ..Net::default()
    };
    assert_eq!(
        refused(import(&disabled, good(), &[1, 2, 3])).0,
        ErrorKind::Bypassed
    );

    net.torchcache_cache_dtype = Some(Kind::Half);
    net.parts(&random(&[2, 2]), &[8, 9], false);
    let (kind, text) = refused(import(&net, parts(&(&xs * 1e9), &[&xs]), &[1, 2, 3]));
    assert_eq!(kind, ErrorKind::InvalidImport, "{text}");
    let third = &xs / 3.0;
    assert_eq!(
        done(import(&net, parts(&third, &[&xs]), &[1, 2, 3]).unwrap()),
        (3, 0)
    );
    let found = net.parts(&xs, &[1, 2, 3], false).rows;
    let rounded = third.to_kind(Kind::Half).to_kind(Kind::Float);
    assert!(same(&found, &rounded), "as rows of the body are");
}

/// Their code is in the keys, and only the body shows it.
#[test]
fn imported_rows_have_the_code_of_callees_in_their_keys() {
    #[torchcache]
    fn inner(xs: &Tensor) -> Tensor {
        xs + 1
    }
    fn helper(xs: &Tensor) -> Tensor {
        inner(xs)
    }
    #[torchcache(persistent = true)]
    #[derive(Debug)]
    struct Outer {
        torchcache_persistent_cache_dir: PathBuf,
        torchcache_persistent_module_hash: Option<&'static str>,
        #[torchcache(skip)]
        ran: Ran,
        cache: TorchCache,
    }
    #[torchcache]
    impl nn::Module for Outer {
        fn forward(&self, xs: &Tensor) -> Tensor {
            self.ran.note(xs);
            helper(xs) * 2
        }
    }
    let outer = |root: &Path, hash| Outer {
        torchcache_persistent_cache_dir: root.to_owned(),
        torchcache_persistent_module_hash: hash,
        ran: Ran::default(),
        cache: TorchCache::default(),
    };
    let root = tempfile::tempdir().unwrap();
    let (xs, other) = (random(&[4, 3]), random(&[2, 3]));
    let import = |model: &Outer| model.cache.import(&xs * 7, || model.forward(&xs));
    let first = outer(root.path(), None);
    assert_eq!(refused(import(&first)).0, ErrorKind::NoCall);
    first.forward(&other);
    assert_eq!(done(import(&first).unwrap()), (4, 0));
    assert!(same(&first.forward(&xs), &(&xs * 7)));
    assert_eq!(first.ran.take(), (1, 2));
    drop(first);
    // Which rows are valid, the second one knows once the body ran: then the first copy of a row wins.
    let second = outer(root.path(), None);
    let two = xs.narrow(0, 0, 2);
    assert!(same(&second.forward(&two), &(&two * 7)));
    assert_eq!(second.ran.take(), (1, 2));
    assert!(same(&second.forward(&xs), &(&xs * 7)));
    assert_eq!(second.ran.take(), (0, 0));
    // The program answers for the code of a named hash.
    let named = outer(root.path(), Some("features"));
    assert_eq!(done(import(&named).unwrap()), (4, 0));
    assert!(same(&named.forward(&xs), &(&xs * 7)));
    assert_eq!(named.ran.take(), (0, 0));
}

/// A hit shows what the function calls, as its body does: rows are stored after that ran.
#[test]
fn a_process_that_found_a_row_imports_others() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[4, 2]);
    kept(root.path()).forward(&xs.narrow(0, 0, 1)).unwrap();
    let model = kept(root.path());
    let import = |at, rows| {
        let xs = xs.narrow(0, at, rows);
        model.torchcache.import(&xs * 2.0, || model.forward(&xs))
    };
    assert_eq!(refused(import(1, 3)).0, ErrorKind::NoCall);
    assert_eq!(done(import(0, 2).unwrap()), (1, 1), "one of them is cached");
    assert_eq!(refused(import(2, 2)).0, ErrorKind::NoCall);
    model.forward(&xs.narrow(0, 0, 2)).unwrap();
    assert_eq!(done(import(2, 2).unwrap()), (2, 0));
    model.forward(&xs).unwrap();
    assert_eq!(counts(&model.torchcache), (0, 5, 1));
}

#[test]
fn rows_that_are_cleared_meanwhile_are_not_kept() {
    let model = Scale::by(2.0);
    let xs = random(&[3, 2]);
    model.forward(&random(&[2, 2]));
    let import = |clears: bool| {
        let call = || {
            let placeholder = model.forward(&xs);
            if clears {
                model.cache.clear();
            }
            placeholder
        };
        model.cache.import(&xs * 2.0, call).unwrap();
        model.cache.stats().memory.rows
    };
    assert_eq!((import(true), import(false)), (0, 3));
}

#[test]
fn verify_compares_imported_rows_with_those_of_the_body() {
    #[torchcache(verify = 1.0)]
    fn double(xs: &Tensor) -> Tensor {
        xs * 2
    }
    let xs = random(&[4, 2]);
    double(&random(&[2, 2]));
    let wrong = Tensor::cat(&[&xs.narrow(0, 0, 3) * 2, &xs.narrow(0, 3, 1) * 3], 0);
    double_cache().import(wrong, || double(&xs)).unwrap();
    double(&xs);
    let stats = double_cache().stats();
    assert_eq!((stats.verified, stats.mismatched), (4, 1));
}

/// A length that no forward has shown is tried on two rows, as for rows that the body returned.
#[test]
fn rows_with_padding_and_ids_of_any_shape_are_imported() {
    thread_local!(static ROWS: Cell<i64> = const { Cell::new(0) });
    #[torchcache]
    fn sum(#[padded(0)] tokens: &Tensor) -> Tensor {
        ROWS.set(ROWS.get() + tokens.size()[0]);
        tokens.sum_dim_intlist(1, true, Kind::Float)
    }
    #[torchcache]
    fn pooled(images: &Tensor, #[id(any_shape)] ids: &[i64]) -> Tensor {
        assert_eq!(images.size()[0] as usize, ids.len());
        ROWS.set(ROWS.get() + images.size()[0]);
        images.mean_dim(1, true, Kind::Float)
    }
    let tokens = |length: i64| {
        let row = Tensor::arange(length - 1, (Kind::Int64, crate::support::device())) + 1;
        row.expand([3, -1], false).constant_pad_nd([0, 1])
            * (Tensor::arange(3, (Kind::Int64, crate::support::device())).unsqueeze(1) + length)
    };
    let expected = |tokens: &Tensor| tokens.sum_dim_intlist(1, true, Kind::Float);
    sum(&tokens(4));
    sum(&tokens(9));
    ROWS.set(0);
    for length in [5, 12] {
        let tokens = tokens(length);
        let imported = sum_cache().import(expected(&tokens), || sum(&tokens));
        assert_eq!(done(imported.unwrap()), (3, 0));
        assert!(same(&sum(&tokens), &expected(&tokens)));
        assert_eq!(ROWS.take(), if length == 5 { 0 } else { 2 });
    }
    let images = |size| random(&[2, size]);
    pooled(&images(4), &[1, 2]);
    ROWS.set(0);
    let features = random(&[2, 1]);
    let given = features.shallow_clone();
    pooled_cache()
        .import(given, || pooled(&images(6), &[3, 4]))
        .unwrap();
    let found = pooled(&images(4), &[4, 3]);
    assert!(same(&found, &features.flip([0])));
    assert_eq!(ROWS.take(), 0);
}

/// A hit shows the kind of rows, although no forward of this handle did.
#[test]
fn rows_of_another_kind_than_a_row_that_was_found_are_refused() {
    let (first, second) = (Scale::by(0.371), Scale::by(0.371));
    let xs = random(&[5, 11]);
    first.forward(&xs.narrow(0, 0, 2));
    second.forward(&xs.narrow(0, 0, 2));
    assert_eq!(second.ran.take(), (0, 0));
    let others = xs.narrow(0, 2, 3);
    let rows = &others * 0.371;
    let import = |rows| second.cache.import(rows, || second.forward(&others));
    let error = import(rows.to_kind(Kind::Double)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImport, "{error}");
    assert_eq!(import(rows).unwrap().imported, 3);
    assert!(same(&second.forward(&others), &(&others * 0.371)));
    assert_eq!(second.ran.take(), (0, 0));
}
