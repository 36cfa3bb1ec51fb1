//! Modules in fields whose `Fingerprint` is derived or written by hand: their code is part of the outer
//! identity, or the program says that it is not.

use std::path::Path;
use std::process::Command;

use tch::Tensor;
use tch::nn::Module;
use torchcache::{Fingerprint, Fingerprinter, TorchCache, torchcache};

use crate::cached::copy_of_child;
use crate::multi_process::{program, succeed};
use crate::nested_modules::Wrapper;
use crate::support::{logged, random, same, warnings};

/// The outer modules of the child that found their rows on disk, and those that computed them.
fn found_and_computed(program: &Path, directory: &Path) -> (String, String) {
    let mut command = Command::new(program);
    command.arg("derived").env("TORCHCACHE_DIR", directory);
    let report = succeed(command);
    let with = |end: &str| {
        let names = report.lines().filter_map(|line| line.strip_suffix(end));
        names.collect::<Vec<_>>().join(", ")
    };
    (with(": 3 hits, 0 misses"), with(": 0 hits, 3 misses"))
}

#[test]
fn a_rebuild_computes_rows_of_unknown_inner_code_again() {
    let directory = tempfile::tempdir().unwrap();
    let rows = directory.path().join("rows");
    let unknown =
        "module, module with training, module in a list, generic, weights, weights in a field";
    let known = "versioned, annotated, plain";
    let all = format!("{unknown}, {known}");
    assert_eq!(
        found_and_computed(&program(), &rows),
        (String::new(), all.clone())
    );
    assert_eq!(found_and_computed(&program(), &rows), (all, String::new()));
    let rebuilt = copy_of_child(directory.path(), "child", b"other code");
    assert_eq!(
        found_and_computed(&rebuilt, &rows),
        (known.into(), unknown.into())
    );
}

/// A module, which its derive does not see.
#[derive(Debug, Fingerprint)]
struct Shift<'a>(&'a f64);

impl Module for Shift<'_> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + *self.0
    }
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Stored {
    inner: Shift<'static>,
    torchcache_persistent_cache_dir: Option<std::path::PathBuf>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Stored {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs)
    }
}

#[test]
fn unknown_inner_code_is_warned_of_where_rows_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (kept, expected) in [(Some(directory.path().to_owned()), 1), (None, 0)] {
        let model = Stored {
            inner: Shift(&2.0),
            torchcache_persistent_cache_dir: kept,
            torchcache: TorchCache::default(),
        };
        let xs = random(&[2, 3]);
        let (ys, lines) = logged(|| [model.forward(&xs), model.forward(&xs)]);
        assert!(ys.iter().all(|ys| same(ys, &(&xs + 2.0))));
        assert_eq!(
            warnings(&lines, "Shift<'_>` is unknown"),
            expected,
            "{lines:?}"
        );
    }
}

trait Step: Module + Fingerprint {}

/// Types without fields and with a `Fingerprint` by hand.
macro_rules! steps {
    ($($step:ident $factor:expr;)*) => {$(
        #[derive(Debug)]
        struct $step;

        impl Step for $step {}

        impl Module for $step {
            fn forward(&self, xs: &Tensor) -> Tensor {
                xs * $factor
            }
        }

        impl Fingerprint for $step {
            fn fingerprint(&self, _: &mut Fingerprinter<'_>) {}
        }
    )*};
}

steps! {
    Twice 2;
    Thrice 3;
}

#[torchcache]
#[derive(Debug)]
struct Steps {
    steps: Vec<Box<dyn Step>>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Steps {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.steps
            .iter()
            .fold(xs.shallow_clone(), |xs, step| step.forward(&xs))
    }
}

#[test]
fn types_behind_pointers_are_part_of_the_identity() {
    let model = |step: Box<dyn Step>| Steps {
        steps: vec![step],
        torchcache: TorchCache::default(),
    };
    let (mut twice, thrice) = (model(Box::new(Twice)), model(Box::new(Thrice)));
    let xs = random(&[2, 3]);
    assert!(same(&twice.forward(&xs), &(&xs * 2)));
    assert!(same(&thrice.forward(&xs), &(&xs * 3)));
    twice.steps[0] = Box::new(Thrice);
    assert!(same(&twice.forward(&xs), &(&xs * 3)));
    assert_eq!(twice.torchcache.stats().hits(), 2, "the rows of the other");
}

/// An inner module without a cache of its own.
#[torchcache(enabled = false)]
#[derive(Debug)]
struct Uncached {
    shift: f64,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Uncached {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + self.shift
    }
}

#[test]
fn a_disabled_inner_module_is_hashed_with_its_code() {
    let outer = |shift| {
        Wrapper::new(Uncached {
            shift,
            torchcache: TorchCache::default(),
        })
    };
    let xs = random(&[2, 3]);
    let model = outer(4.0);
    assert!(same(&model.forward(&xs), &(&xs + 4.0 + 1.0)));
    assert!(same(&model.forward(&xs), &(&xs + 4.0 + 1.0)));
    assert_eq!(model.torchcache.stats().memory.hits, 2);
    assert_eq!(model.inner.torchcache.stats().memory.rows, 0);
    assert!(same(&outer(5.0).forward(&xs), &(&xs + 5.0 + 1.0)));
}
