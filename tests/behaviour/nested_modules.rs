//! Modules inside modules: inner modules are part of the outer identity, and the manifest lists their
//! parts.

use std::path::{Path, PathBuf};

use tch::nn::Module;
use tch::{Kind, Tensor, nn};
use torchcache::{Cached, Options, OptionsBuilder, TorchCache, torchcache};

use crate::support::{Scale, device, events, logged, random, same, version};

/// The inner module, plus one.
#[torchcache]
#[derive(Debug)]
pub(crate) struct Wrapper<M> {
    pub(crate) inner: M,
    pub(crate) torchcache: TorchCache,
}

#[torchcache]
impl<M: Module> Module for Wrapper<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + 1.0
    }
}

impl<M> Wrapper<M> {
    pub(crate) fn new(inner: M) -> Self {
        Wrapper {
            inner,
            torchcache: TorchCache::default(),
        }
    }
}

#[test]
fn generic_modules_differ_by_the_modules_they_hold() {
    let wrap = |factor| Wrapper::new(Scale::by(factor));
    let xs = random(&[2, 3]);
    let (two, three) = (wrap(2.0), wrap(3.0));
    assert!(same(&two.forward(&xs), &(&xs * 2.0 + 1.0)));
    assert!(same(&three.forward(&xs), &(&xs * 3.0 + 1.0)));
    let mut vs = nn::VarStore::new(device());
    let linear = nn::linear(vs.root(), 3, 3, Default::default());
    vs.freeze();
    let linear = Wrapper::new(linear);
    assert!(same(&linear.forward(&xs), &(xs.apply(&linear.inner) + 1.0)));
    let nested = Wrapper::new(wrap(2.0));
    assert!(same(&nested.forward(&xs), &(&xs * 2.0 + 1.0 + 1.0)));
}

/// Category and path of each part in a manifest.
fn manifest(root: &Path, hash: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root.join(hash).join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let parts = manifest["parts"].as_array().unwrap();
    parts
        .iter()
        .map(|part| {
            (
                part["category"].as_str().unwrap().into(),
                part["path"].as_str().unwrap().into(),
            )
        })
        .collect()
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct Recorded {
    outer: Wrapper<Scale>,
    torchcache_persistent_cache_dir: String,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Recorded {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.outer.forward(xs)
    }
}

#[test]
fn code_of_inner_modules_is_part_of_the_identity() {
    let root = tempfile::tempdir().unwrap();
    let outer = Wrapper::new(Scale::by(2.0));
    let directory = root.path().to_str().unwrap().to_owned();
    let model = Recorded {
        outer,
        torchcache_persistent_cache_dir: directory,
        torchcache: TorchCache::default(),
    };
    model.forward(&random(&[1, 2]));
    let parts = manifest(root.path(), &model.torchcache.module_hash().unwrap());
    for path in ["forward", "outer.forward", "outer.inner.forward"] {
        let code = ("code".to_owned(), path.to_owned());
        assert_eq!(
            parts.iter().filter(|part| **part == code).count(),
            1,
            "{path}: {parts:?}"
        );
    }
    for path in ["outer.type", "outer.inner.type", "outer.inner.factor"] {
        let field = ("field".to_owned(), path.to_owned());
        assert!(parts.contains(&field), "{path}: {parts:?}");
    }
}

#[torchcache(version = "1")]
#[derive(Debug)]
struct Versioned {
    factor: f64,
    torchcache_version: Option<&'static str>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Versioned {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.factor
    }
}

#[test]
fn options_of_inner_modules_are_part_of_the_identity() {
    let hash = |factor, version| {
        let outer = Wrapper::new(Versioned {
            factor,
            torchcache_version: version,
            torchcache: TorchCache::default(),
        });
        outer.forward(&random(&[1, 2]));
        outer.torchcache.module_hash().unwrap()
    };
    let before = hash(2.0, None);
    assert_eq!(hash(2.0, Some("1")), before, "the version of the attribute");
    assert_ne!(hash(2.0, Some("2")), before);
    assert_ne!(hash(3.0, None), before);
}

#[test]
fn the_log_says_what_changed_the_identity() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().to_str().unwrap().to_owned();
    let build = |factor| Recorded {
        outer: Wrapper::new(Scale::by(factor)),
        torchcache_persistent_cache_dir: directory.clone(),
        torchcache: TorchCache::default(),
    };
    let xs = random(&[1, 2]);
    build(2.0).forward(&xs);
    let (_, lines) = logged(|| build(3.0).forward(&xs));
    let wanted = "the field `outer.inner.factor` changed; code, weights and options did not";
    assert_eq!(events(&lines, "INFO", wanted), 1, "{lines:#?}");
    // Also within one instance.
    let mut model = build(4.0);
    model.forward(&xs);
    model.outer.inner.factor = 5.0;
    let (_, lines) = logged(|| model.forward(&xs));
    assert_eq!(events(&lines, "INFO", wanted), 1, "{lines:#?}");
}

/// Holds a `Cached`.
#[torchcache]
#[derive(Debug)]
struct Holder {
    inner: Cached<nn::Func<'static>>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Holder {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + 1.0
    }
}

/// `x * factor`, always wrapped in this place and identified by the file `weights`.
fn wrapped(factor: f64, weights: &Path, options: Options) -> Cached<nn::Func<'static>> {
    Cached::new(nn::func(move |xs| xs * factor), weights, options).unwrap()
}

fn holder(factor: f64, weights: &Path, options: Options) -> Holder {
    Holder {
        inner: wrapped(factor, weights, options),
        torchcache: TorchCache::default(),
    }
}

/// Two files with different bytes.
fn two_files(root: &Path) -> [PathBuf; 2] {
    ["one", "two"].map(|name| {
        let path = root.join(name);
        std::fs::write(&path, name).unwrap();
        path
    })
}

#[test]
fn a_wrapped_field_brings_its_weights_options_and_version() {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = two_files(root.path());
    let xs = random(&[2, 3]);
    let plain = Options::builder().version("1");
    let hash = |weights: &Path, options: &OptionsBuilder| {
        let model = holder(2.0, weights, options.clone().build().unwrap());
        model.forward(&xs);
        model.torchcache.module_hash().unwrap()
    };
    let variants = [
        (&one, plain.clone()),
        (&one, Options::builder().version("2")),
        (&one, Options::builder()),
        (&one, plain.clone().cache_dtype(Kind::Half)),
        (&one, plain.clone().cache_dtype(Kind::BFloat16)),
        (&one, plain.clone().subsample_count(2)),
        (&two, plain.clone()),
    ];
    let hashes: Vec<_> = variants
        .iter()
        .map(|(weights, options)| hash(weights, options))
        .collect();
    for (number, left) in hashes.iter().enumerate() {
        assert!(!hashes[..number].contains(left), "{:?}", variants[number]);
    }
    assert_eq!(
        hash(&one, &plain),
        hashes[0],
        "an equal one has the same hash"
    );
    assert_eq!(
        hash(&one, &plain.max_memory_cache_size("1 MB")),
        hashes[0],
        "bounds are not part of it"
    );
}

#[test]
fn replacing_a_wrapped_field_changes_the_identity() {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = two_files(root.path());
    let xs = random(&[2, 3]);
    let mut model = holder(2.0, &one, version("2"));
    assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    model.inner = wrapped(3.0, &one, version("3"));
    assert!(same(&model.forward(&xs), &(&xs * 3.0 + 1.0)), "its version");
    model.inner = wrapped(4.0, &two, version("3"));
    assert!(same(&model.forward(&xs), &(&xs * 4.0 + 1.0)), "its file");
    let half = version("3").to_builder().cache_dtype(Kind::Half).build();
    model.inner = wrapped(4.0, &two, half.unwrap());
    let rounded = (&xs * 4.0).to_kind(Kind::Half).to_kind(Kind::Float);
    assert!(same(&model.forward(&xs), &(rounded + 1.0)), "its rounding");
    model.inner = Cached::new(nn::func(|xs| xs * 5.0), (), Options::default()).unwrap();
    assert!(same(&model.forward(&xs), &(&xs * 5.0 + 1.0)), "its place");
    model.inner = wrapped(2.0, &one, version("2"));
    let misses = model.torchcache.stats().misses;
    assert!(same(&model.forward(&xs), &(&xs * 2.0 + 1.0)));
    assert_eq!(
        model.torchcache.stats().misses,
        misses,
        "put back, its rows are valid again"
    );
}
