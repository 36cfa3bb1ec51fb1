//! What looks as if it worked and does not: options without effect, directories that are not what they
//! seem, calls and values that users do not mean. Each is refused, or one warning names it.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};
use torchcache::{
    Cached, Error, ErrorKind, Fingerprint, Fingerprinter, FlushError, Options, TorchCache,
    torchcache,
};

use crate::multi_process::{child, succeed};
use crate::persistent_module::kept;
use crate::random_inputs::rounded;
use crate::support::{Ran, Scale, device, logged, random, same, version, warnings};

/// `x * 1`, with the options that depend on others as fields.
#[torchcache]
#[derive(Debug)]
struct Copied {
    /// Gives each test its own identity.
    name: &'static str,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: Option<PathBuf>,
    torchcache_max_persistent_cache_size: Option<u64>,
    torchcache_zstd_compression: Option<bool>,
    torchcache_zstd_compression_level: Option<i32>,
    torchcache_zstd_compression_threads: Option<u32>,
    torchcache_use_mmap_on_load: Option<bool>,
    torchcache_cache_dtype: Option<Kind>,
    torchcache_verify: f64,
    #[torchcache(skip)]
    ran: Ran,
    torchcache: TorchCache,
}

#[torchcache]
impl Copied {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        self.ran.note(xs);
        Ok(xs * 1.0)
    }
}

fn copied(name: &'static str) -> Copied {
    Copied {
        name,
        torchcache_persistent: false,
        torchcache_persistent_cache_dir: None,
        torchcache_max_persistent_cache_size: None,
        torchcache_zstd_compression: None,
        torchcache_zstd_compression_level: None,
        torchcache_zstd_compression_threads: None,
        torchcache_use_mmap_on_load: None,
        torchcache_cache_dtype: None,
        torchcache_verify: 0.0,
        ran: Ran::default(),
        torchcache: TorchCache::default(),
    }
}

/// In a directory by an expression, which is not known when the program is compiled.
#[torchcache(persistent = true, persistent_cache_dir = ["~", "features"].join("/"))]
#[derive(Debug)]
struct AtHome {
    torchcache: TorchCache,
}

#[torchcache]
impl AtHome {
    fn forward(&self, xs: &Tensor) -> Result<Tensor, Error> {
        Ok(xs * 2.0)
    }
}

#[test]
fn a_directory_that_only_a_shell_expands_is_refused() {
    let xs = random(&[2, 2]);
    let by_attribute = AtHome {
        torchcache: TorchCache::default(),
    };
    let by_field = |directory: &str| {
        let model = Copied {
            torchcache_persistent: true,
            torchcache_persistent_cache_dir: Some(PathBuf::from(directory)),
            ..copied("at home")
        };
        model.forward(&xs)
    };
    let builder = || Options::builder().persistent(true);
    for refused in [
        by_attribute.forward(&xs),
        by_field("~/features"),
        by_field("~"),
        by_field("~someone/features"),
        by_field("$HOME/features"),
        by_field("${HOME}/features"),
    ] {
        let error = refused.expect_err("nothing expands it");
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(
            error.to_string().contains("only a shell expands"),
            "{error}"
        );
    }
    for name in ["~", "$HOME", "features"] {
        assert!(!Path::new(name).exists(), "{name} was made");
    }
    let error = builder().persistent_cache_dir("~/features").build();
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("got \"~/features\"")
    );
    builder()
        .persistent_cache_dir("./~/features")
        .build()
        .unwrap();
}

#[test]
fn a_directory_that_is_removed_at_exit_is_warned_of_once() {
    let xs = random(&[4, 2]);
    let mut model = copied("temporary");
    model.torchcache_persistent = true;
    let ((), lines) = logged(|| {
        model.forward(&xs).unwrap();
        model.forward(&xs).unwrap();
        model.torchcache_verify = 0.5;
        model.forward(&xs).unwrap();
    });
    assert_eq!(warnings(&lines, "`persistent_cache_dir`"), 1, "{lines:#?}");
    assert_eq!(warnings(&lines, "until the process ends"), 1, "{lines:#?}");
    let root = tempfile::tempdir().unwrap();
    model.torchcache_persistent_cache_dir = Some(root.path().to_owned());
    let other = Copied {
        torchcache: TorchCache::default(),
        ..model
    };
    let (_, lines) = logged(|| other.forward(&xs).unwrap());
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
}

#[test]
fn options_without_effect_are_warned_of_once() {
    let xs = random(&[4, 2]);
    let root = tempfile::tempdir().unwrap();
    let named = |set: fn(&mut Copied)| {
        let mut model = copied("without effect");
        set(&mut model);
        model
    };
    for (model, words) in [
        (
            named(|model| model.torchcache_max_persistent_cache_size = Some(5_000_000_000)),
            "`max_persistent_cache_size` has no effect without `persistent = true`",
        ),
        (
            named(|model| model.torchcache_zstd_compression_level = Some(7)),
            "`zstd_compression_level` has no effect without `persistent = true`",
        ),
        (
            named(|model| {
                model.torchcache_persistent_cache_dir = Some("features".into());
                model.torchcache_use_mmap_on_load = Some(true);
            }),
            "`persistent_cache_dir` and `use_mmap_on_load` have no effect",
        ),
        (
            Copied {
                torchcache_persistent: true,
                torchcache_persistent_cache_dir: Some(root.path().to_owned()),
                torchcache_zstd_compression_threads: Some(2),
                ..copied("without effect")
            },
            "`zstd_compression_threads` has no effect without `zstd_compression = true`",
        ),
    ] {
        let (_, lines) = logged(|| {
            model.forward(&xs).unwrap();
            model.forward(&xs).unwrap();
        });
        assert_eq!(warnings(&lines, words), 1, "{words}: {lines:#?}");
        assert_eq!(warnings(&lines, ""), 1, "{lines:#?}");
    }
    assert!(!Path::new("features").exists());
    let compressed = Copied {
        torchcache_persistent: true,
        torchcache_persistent_cache_dir: Some(root.path().to_owned()),
        torchcache_zstd_compression: Some(true),
        torchcache_zstd_compression_level: Some(7),
        ..copied("with effect")
    };
    let (_, lines) = logged(|| compressed.forward(&xs).unwrap());
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_new_identity_in_a_read_only_directory_warns() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o555)).unwrap();
    without_privileges(|| {
        let (directory, probe) = (root.path(), root.path().join("probe"));
        fs::create_dir(&probe).expect_err("it is read-only");
        let (model, xs) = (kept(directory), random(&[5, 4]));
        let (output, lines) = logged(|| model.forward(&xs).unwrap());
        assert!(same(&output, &(&xs * 2.0)));
        assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
        assert_eq!(model.ran.take(), (1, 5), "its rows are in memory");
        let words = "the disk tier could not be opened";
        assert_eq!(warnings(&lines, words), 1, "{lines:#?}");
        assert_eq!(warnings(&lines, &directory.display().to_string()), 1);
        assert_eq!(model.torchcache.stats().faults.open, 1);
        let flushed = model.torchcache.flush();
        assert!(
            matches!(flushed, Err(FlushError::Directory(_))),
            "{flushed:?}"
        );
        // A root that does not exist there was never usable.
        let error = kept(&directory.join("deeper")).forward(&xs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Directory, "{error}");
    });
}

/// Runs on a thread to which the modes of files apply, also where the user is root.
#[cfg(target_os = "linux")]
fn without_privileges(run: impl FnOnce() + Send) {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let restricted = || {
        let mut own = capabilities(None).unwrap();
        let ignores_modes = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        own.effective.remove(ignores_modes);
        set_capabilities(None, own).unwrap();
        run();
    };
    let ended = std::thread::scope(|scope| scope.spawn(restricted).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_process_without_a_temporary_directory_computes() {
    let mut child = child(None, &["store", "0", "10"]);
    child.env("TMPDIR", "/nowhere/at/all").env_remove("HOME");
    assert_eq!(
        succeed(child),
        "hits 0 misses 10 faults [(\"opening the disk tier\", 1)]"
    );
}

#[test]
fn an_output_is_never_cached_as_infinity_or_as_another_number() {
    for (kind, dtype, large) in [
        (Kind::Float, Kind::Half, 1e6),
        (Kind::Float, Kind::Half, -70_000.0),
        (Kind::Double, Kind::Float, 1e300),
        (Kind::Float, Kind::BFloat16, f64::from(f32::MAX)),
        (Kind::Float, Kind::Float8e5m2, 1e5),
        (Kind::Half, Kind::Float8e4m3fn, -465.0),
        (Kind::BFloat16, Kind::Float8e4m3fn, f64::NEG_INFINITY),
        (Kind::Double, Kind::QInt8, 1e39),
        (Kind::Half, Kind::QInt8, f64::INFINITY),
        (Kind::Float, Kind::QInt8, f64::NAN),
    ] {
        let model = Copied {
            torchcache_cache_dtype: Some(dtype),
            ..copied("overflow")
        };
        let small = random(&[3, 8]).to_kind(kind);
        let one = random(&[1, 8]).to_kind(kind);
        let _ = one.narrow(1, 2, 1).fill_(large);
        let both = Tensor::cat(&[&small, &one], 0);
        let (first, lines) = logged(|| {
            let first = model.forward(&both).unwrap();
            model.forward(&one).unwrap();
            first
        });
        assert!(same(&first, &both), "past the cache");
        assert_eq!(model.ran.take(), (2, 5));
        let message = format!("which `cache_dtype = Kind::{dtype:?}` cannot hold");
        assert_eq!(warnings(&lines, &message), 1, "{lines:#?}");
        let rounded = rounded(&small, Some(dtype));
        for _ in 0..2 {
            assert!(same(&model.forward(&small).unwrap(), &rounded));
        }
        assert_eq!(model.ran.take(), (1, 3), "other rows are cached");
        // Alone, the missing row overflows; then the whole batch runs.
        assert!(same(&model.forward(&both).unwrap(), &both));
        assert_eq!(model.ran.take(), (2, 5));
        let stats = model.torchcache.stats();
        assert_eq!((stats.bypassed, stats.stored, stats.memory.rows), (3, 3, 3));
    }
}

#[test]
fn infinities_and_nan_of_the_forward_are_cached() {
    let values = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.5];
    for (dtype, values) in [
        (Kind::Half, &values[..]),
        (Kind::Float8e5m2, &values),
        (Kind::Float8e4m3fn, &values[2..]),
    ] {
        let model = Copied {
            torchcache_cache_dtype: Some(dtype),
            ..copied("infinite")
        };
        let xs = Tensor::from_slice(values);
        let xs = xs.to_device(device()).unsqueeze(1);
        let (first, lines) = logged(|| model.forward(&xs).unwrap());
        assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
        assert!(first.isnan().equal(&xs.isnan()), "{dtype:?}");
        assert!(first.isclose(&xs, 0.0, 0.0, true).all().int64_value(&[]) == 1);
        assert!(same(&model.forward(&xs).unwrap(), &first));
        assert_eq!(model.ran.take(), (1, values.len() as i64));
    }
}

#[test]
fn a_one_dimensional_input_gets_one_warning() {
    let model = Scale::by(801.0);
    let ((), lines) = logged(|| {
        for shape in [&[6][..], &[6], &[3, 2]] {
            let xs = random(shape);
            assert!(same(&model.forward(&xs), &(&xs * 801.0)));
        }
    });
    assert_eq!(warnings(&lines, "`unsqueeze(0)`"), 1, "{lines:#?}");
    let words = "argument `xs` has one dimension, so each of its 6 elements is a row";
    assert_eq!(warnings(&lines, words), 1, "{lines:#?}");

    // A batch of one value, batches of vectors, and vectors next to them.
    let model = Scale::by(802.0);
    let pair = Pair {
        torchcache: TorchCache::default(),
    };
    let ((), lines) = logged(|| {
        model.forward(&random(&[1]));
        model.forward(&random(&[6, 1]));
        pair.forward(&random(&[6, 3]), &random(&[6]));
    });
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
    let ((), lines) = logged(|| {
        pair.forward(&random(&[6]), &random(&[6]));
    });
    assert_eq!(warnings(&lines, "argument `left`"), 1, "{lines:#?}");
}

/// Two arguments.
#[torchcache]
#[derive(Debug)]
struct Pair {
    torchcache: TorchCache,
}

#[torchcache]
impl Pair {
    fn forward(&self, left: &Tensor, right: &Tensor) -> Tensor {
        left.sum_dim_intlist(-1, left.dim() == 2, Kind::Float) + right.unsqueeze(-1)
    }
}

#[test]
fn misses_and_hits_return_contiguous_outputs() {
    type Forward = fn(&Tensor) -> Tensor;
    let forwards: [(&str, Forward); 6] = [
        ("transposed rows", |xs| {
            xs.view([-1, 3, 8]).transpose(1, 2) * 1.0
        }),
        ("channels last", |xs| {
            let images = xs.view([-1, 2, 3, 4]).permute([0, 2, 3, 1]);
            images.contiguous().permute([0, 3, 1, 2])
        }),
        ("transposed batch", |xs| xs.tr().contiguous().tr()),
        ("expanded", |xs| xs.narrow(1, 0, 1).expand([-1, 5], false)),
        ("every second element", |xs| xs.slice(1, 0, None, 2)),
        ("a view of one row", |xs| {
            xs.view([-1, 1, 24]).transpose(0, 1).transpose(0, 1)
        }),
    ];
    let plain = |tensor: &Tensor| {
        let size = tensor.size();
        let inner = |dimension| size[dimension + 1..].iter().map(|&size| size.max(1));
        (0..size.len())
            .map(|dimension| inner(dimension).product())
            .collect::<Vec<i64>>()
    };
    for (name, forward) in forwards {
        for dtype in [None, Some(Kind::Half)] {
            let options = version(name).to_builder().cache_dtype(dtype);
            let net = Cached::new(nn::func(forward), (), options.build().unwrap()).unwrap();
            let (xs, others) = (random(&[4, 24]), random(&[2, 24]));
            let half = Tensor::cat(&[&xs.narrow(0, 0, 2), &others], 0);
            let twice = Tensor::cat(&[&xs, &xs], 0);
            let one = random(&[1, 24]);
            for (call, batch) in [
                ("a miss", &xs),
                ("a hit", &xs),
                ("some hits", &half),
                ("repeated rows", &twice),
                ("one row", &one),
                ("one row again", &one),
            ] {
                let output = net.forward(batch);
                let expected = forward(batch);
                let expected = match dtype {
                    Some(dtype) => expected.to_kind(dtype).to_kind(Kind::Float),
                    None => expected,
                };
                assert!(same(&output, &expected), "{name}, {call}");
                assert_eq!(output.stride(), plain(&output), "{name}, {call}");
            }
        }
    }
}

#[test]
fn queued_rows_show_in_the_statistics() {
    let root = tempfile::tempdir().unwrap();
    // They are written after a second, which may be over on a busy machine.
    let model = |attempt: i32| kept(&root.path().join(attempt.to_string()));
    let queued = (0..20).map(model).find_map(|model| {
        model.forward(&random(&[20, 16])).unwrap();
        let stats = model.torchcache.stats();
        (stats.queued > 0).then_some((model, stats))
    });
    let (model, stats) = queued.expect("rows are queued first");
    assert_eq!((stats.queued, stats.disk.rows), (20, 20), "{stats}");
    assert!(stats.disk.bytes >= 20 * 16 * 4, "{stats}");
    let table = stats.to_string();
    assert!(table.contains("20 rows not written yet"), "{table}");
    model.torchcache.flush().unwrap();
    let stats = model.torchcache.stats();
    assert_eq!((stats.queued, stats.disk.rows), (0, 20), "{stats}");
    assert!(!stats.to_string().contains("not written"), "{stats}");
}

/// A field that its own forward changes.
#[derive(Debug)]
struct Steps(Cell<i64>);

impl Fingerprint for Steps {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.0.get().fingerprint(f);
    }
}

/// Adds to its own state, in a plain field or in a tensor.
#[torchcache]
#[derive(Debug)]
struct Stateful {
    steps: Steps,
    state: Tensor,
    #[torchcache(skip)]
    in_tensor: bool,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: Option<PathBuf>,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Stateful {
    fn forward(&self, xs: &Tensor) -> Tensor {
        if self.in_tensor {
            let _ = self.state.shallow_clone().g_add_scalar_(1.0);
        } else {
            self.steps.0.set(self.steps.0.get() + 1);
        }
        xs + &self.state
    }
}

fn stateful(in_tensor: bool) -> Stateful {
    Stateful {
        steps: Steps(Cell::new(0)),
        state: Tensor::zeros([2], (Kind::Float, Device::Cpu)),
        in_tensor,
        torchcache_persistent: false,
        torchcache_persistent_cache_dir: None,
        torchcache: TorchCache::default(),
    }
}

#[test]
fn a_forward_that_changes_its_own_field_is_warned_of_once() {
    let root = tempfile::tempdir().unwrap();
    for (in_tensor, part) in [
        (false, "the field `steps`"),
        (true, "the weights of `state`"),
    ] {
        for persistent in [false, true] {
            let model = Stateful {
                torchcache_persistent: persistent,
                torchcache_persistent_cache_dir: persistent.then(|| root.path().to_owned()),
                ..stateful(in_tensor)
            };
            let xs = Tensor::rand([3, 2], (Kind::Float, Device::Cpu));
            let ((), lines) = logged(|| {
                for _ in 0..40 {
                    model.forward(&xs);
                }
            });
            assert_eq!(model.torchcache.stats().hits(), 0);
            let words = "the module hash changed 10 times in a row";
            assert_eq!(warnings(&lines, words), 1, "{lines:#?}");
            assert_eq!(warnings(&lines, part), 1, "{part}: {lines:#?}");
            assert_eq!(warnings(&lines, "while the forward ran"), 1, "{lines:#?}");
            assert_eq!(warnings(&lines, ""), 1, "{lines:#?}");
        }
    }
}

#[test]
fn a_module_that_changes_before_each_call_is_warned_of_once() {
    let mut model = Scale::by(801.0);
    let ((), lines) = logged(|| {
        for step in 0..40 {
            model.factor = 801.0 + 0.01 * f64::from(step);
            model.forward(&random(&[3, 2]));
        }
    });
    let words = "the module hash changed 10 times in a row";
    assert_eq!(warnings(&lines, words), 1, "{lines:#?}");
    assert_eq!(warnings(&lines, "the field `factor`"), 1, "{lines:#?}");
    assert_eq!(warnings(&lines, "while the forward ran"), 0, "{lines:#?}");
    assert_eq!(warnings(&lines, ""), 1, "{lines:#?}");
}

#[test]
fn module_hashes_that_return_or_last_are_not_warned_of() {
    // Each of three states comes again, and finds its rows.
    let mut model = Scale::by(802.0);
    let xs = random(&[3, 2]);
    let ((), lines) = logged(|| {
        for step in 0..40 {
            model.factor = 802.0 + 0.01 * f64::from(step % 3);
            model.forward(&xs);
        }
    });
    assert_eq!(model.cache.stats().hits(), 37 * 3);
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
    // An evaluation of some batches after each update.
    let mut model = Scale::by(803.0);
    let ((), lines) = logged(|| {
        for epoch in 0..30 {
            model.factor = 803.0 + 0.01 * f64::from(epoch);
            for _ in 0..5 {
                model.forward(&random(&[3, 2]));
            }
        }
    });
    assert_eq!(warnings(&lines, ""), 0, "{lines:#?}");
}

#[test]
fn the_memory_tiers_of_a_process_share_a_bound() {
    // Twenty modules with 0.6 MB of rows each.
    let bounded = |bound: &str| {
        let mut child = child(None, &["many-tiers"]);
        child.env("TORCHCACHE_MAX_MEMORY", bound);
        let printed = succeed(child);
        let numbers = printed.split(' ').map(|number| number.parse().unwrap());
        let numbers: Vec<u64> = numbers.collect();
        let [bytes, hits, warned] = numbers[..] else {
            panic!("{printed}");
        };
        (bytes, hits, warned)
    };
    let (bytes, hits, warned) = bounded("3 MB");
    assert!((1_500_000..=3_000_000).contains(&bytes), "{bytes}");
    assert!((1_000..2_600).contains(&hits), "{hits}");
    assert!((1..=20).contains(&warned), "{warned}");
    let (bytes, hits, warned) = bounded("1 GB");
    assert!(bytes > 10_000_000, "{bytes}");
    assert_eq!((hits, warned), (10_000, 0), "all rows fit");
    assert_eq!(bounded("0 B"), (0, 0, 20));
}

#[test]
fn a_bound_in_the_environment_without_a_unit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for (name, words) in [
        ("TORCHCACHE_MAX_MEMORY", &["many-tiers"][..]),
        ("TORCHCACHE_MAX_DIR_SIZE", &["wrapped", "1", "2"]),
    ] {
        for bound in ["8", "", "8e9", "much", "-1 GB", "8 parsecs"] {
            let mut child = child(Some(root.path()), words);
            child.env(name, bound);
            let output = child.output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{bound}");
            let message = format!("{name} is {bound:?}; expected a number and a unit");
            assert!(stderr.contains(&message), "{stderr}");
        }
    }
}

#[test]
fn the_environment_bounds_a_directory() {
    fn bytes(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        let bytes = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
            true => bytes(&entry.path()),
            false if entry.path().extension().is_some_and(|end| end == "tcs") => {
                entry.metadata().unwrap().len()
            }
            false => 0,
        };
        entries.map(bytes).sum()
    }
    let run = |root: &Path, version: &str, bound: Option<u64>| {
        let mut child = child(Some(root), &["wrapped", version, "2"]);
        if let Some(bound) = bound {
            child.env("TORCHCACHE_MAX_DIR_SIZE", format!("{bound} B"));
        }
        succeed(child);
        bytes(root)
    };
    let (unbounded, bounded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = run(unbounded.path(), "0", None);
    let bound = 3 * one;
    for version in 1..8 {
        let version = version.to_string();
        let all = run(unbounded.path(), &version, None);
        let kept = run(bounded.path(), &version, Some(bound));
        assert!(
            kept <= bound && kept > 0,
            "{kept} of {bound} bytes, {all} without a bound"
        );
    }
    assert!(bytes(unbounded.path()) > 2 * bound);
}
