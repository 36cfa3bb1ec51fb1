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
    for path in ["outer.forward", "outer.inner.forward"] {
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
    Cached::shared(nn::func(move |xs| xs * factor), weights, options).unwrap()
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

/// `x` plus the sum of a table, of which a few elements are compared on each call.
#[torchcache]
#[derive(Debug)]
struct Table {
    weight: Tensor,
    torchcache_persistent_module_hash: Option<&'static str>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Table {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs + self.weight.sum(Kind::Float)
    }
}

impl Table {
    fn new() -> Self {
        Table {
            weight: Tensor::zeros([64, 4096], (Kind::Float, device())),
            torchcache_persistent_module_hash: None,
            torchcache: TorchCache::default(),
        }
    }

    /// Changes an element that no call compares.
    fn write_unseen(&self, value: f64) {
        let row = self.weight.data().narrow(0, 20, 1);
        let _ = row.narrow(1, 1_001, 1).fill_(value);
    }
}

/// Whether `model` computes right rows after an unseen change of its table, which `report` reports.
fn is_right_after(model: &impl Module, table: &Table, report: impl Fn()) -> bool {
    let xs = random(&[2, 2]);
    model.forward(&xs);
    let offset = table.weight.sum(Kind::Float).double_value(&[]) + 1.0;
    table.write_unseen(offset);
    model.forward(&xs);
    report();
    same(&model.forward(&xs), &(&xs + offset + 1.0))
}

#[test]
fn refreshing_the_outer_module_refreshes_inner_ones() {
    let model = Wrapper::new(Table::new());
    let refresh = || model.torchcache.refresh();
    assert!(is_right_after(&model, &model.inner, refresh));
    let deep = Wrapper::new(Wrapper::new(Table::new()));
    let xs = random(&[2, 2]);
    deep.forward(&xs);
    deep.inner.inner.write_unseen(7.0);
    deep.torchcache.refresh();
    assert!(same(&deep.forward(&xs), &(&xs + 7.0 + 1.0 + 1.0)));
}

#[test]
fn refreshing_an_inner_module_refreshes_the_outer_one() {
    let model = Wrapper::new(Table::new());
    let refresh = || model.inner.torchcache.refresh();
    assert!(is_right_after(&model, &model.inner, refresh));
}

/// What the outer module notices first: another of its weights moves the module hash.
#[torchcache]
#[derive(Debug)]
struct Shifted {
    inner: Table,
    shift: f64,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Shifted {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + self.shift
    }
}

#[test]
fn a_stale_inner_row_is_not_stored_under_a_new_outer_hash() {
    let mut model = Shifted {
        inner: Table::new(),
        shift: 0.0,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 2]);
    model.forward(&xs);
    model.inner.write_unseen(7.0);
    model.shift = 1.0;
    assert!(same(&model.forward(&xs), &(&xs + 7.0 + 1.0)));
}

#[test]
fn a_wrapped_inner_module_is_refreshed_with_the_outer_one() {
    let vs = nn::VarStore::new(device());
    let weight = vs.root().zeros("weight", &[64, 4096]);
    let mut vs = vs;
    vs.freeze();
    let read = weight.shallow_clone();
    let net = nn::func(move |xs| xs + read.sum(Kind::Float));
    let inner = Cached::new(net, &vs, version("refreshed")).unwrap();
    let model = Holder {
        inner,
        torchcache: TorchCache::default(),
    };
    let xs = random(&[2, 2]);
    model.forward(&xs);
    let _ = weight
        .data()
        .narrow(0, 20, 1)
        .narrow(1, 1_001, 1)
        .fill_(7.0);
    model.torchcache.refresh();
    assert!(same(&model.forward(&xs), &(&xs + 7.0 + 1.0)));
}

#[test]
fn the_given_hash_of_an_inner_module_is_part_of_the_outer_one() {
    let hash = |name| {
        let mut inner = Table::new();
        inner.torchcache_persistent_module_hash = name;
        let outer = Wrapper::new(inner);
        outer.forward(&random(&[1, 2]));
        outer.torchcache.module_hash().unwrap()
    };
    let hashes = [None, Some("first"), Some("second")].map(hash);
    assert_ne!(hashes[0], hashes[1]);
    assert_ne!(hashes[1], hashes[2]);
    assert_eq!(hash(Some("second")), hashes[2]);
}

/// A factor that no module hash knows.
#[torchcache]
#[derive(Debug)]
struct Unknown {
    #[torchcache(skip)]
    factor: std::cell::Cell<f64>,
    ran: std::marker::PhantomData<()>,
    torchcache_cache_dtype: Option<Kind>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Unknown {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.factor.get()
    }
}

#[torchcache(verify = 1.0)]
#[derive(Debug)]
struct Verified {
    inner: Unknown,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Verified {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.forward(xs) + 1.0
    }
}

#[test]
fn verification_goes_past_the_caches_of_inner_modules() {
    for (cache_dtype, wrong) in [(None, 0), (Some(Kind::Half), 0), (None, 2)] {
        let model = Verified {
            inner: Unknown {
                factor: 2.0.into(),
                ran: std::marker::PhantomData,
                torchcache_cache_dtype: cache_dtype,
                torchcache: TorchCache::default(),
            },
            torchcache: TorchCache::default(),
        };
        let xs = random(&[2, 3]);
        model.forward(&xs);
        let rows = model.inner.torchcache.stats().memory.rows;
        if wrong > 0 {
            model.inner.factor.set(3.0);
        }
        model.forward(&xs);
        let stats = model.torchcache.stats();
        assert_eq!((stats.verified, stats.mismatched), (2, wrong));
        let inner = model.inner.torchcache.stats();
        assert_eq!((inner.memory.hits, inner.memory.rows), (0, rows));
    }
}
