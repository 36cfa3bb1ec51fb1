//! Options given by attribute, field and builder, and their precedence.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{ErrorKind, Eviction, Options, RemoteMode, TorchCache, torchcache};

use crate::support::{Ran, assert_panics, random, same};

#[torchcache(
    enabled = true,
    memory_cache_device = Device::Cpu,
    max_memory_cache_size = "3 MB",
    eviction = "never",
    subsample_count = 100,
    persistent = true,
    persistent_cache_dir = std::env::temp_dir().join(format!("torchcache-options-{}", std::process::id())),
    max_persistent_cache_size = 5e9,
    zstd_compression = true,
    zstd_compression_level = 7,
    zstd_compression_threads = 2,
    cache_dtype = Kind::BFloat16,
    use_mmap_on_load = true,
    version = "two",
    verify = 0.25,
    single_flight_timeout = 2.5,
    remote = format!("file://{}", std::env::temp_dir().display()),
    remote_mode = "read-only",
    remote_timeout = 0,
)]
fn everything(xs: &Tensor) -> Tensor {
    xs * 2
}

#[test]
fn every_option_is_an_attribute_argument() {
    let options = everything_cache().effective_options();
    let directory = options.persistent_cache_dir().unwrap();
    let expected = Options::builder()
        .memory_cache_device(Device::Cpu)
        .max_memory_cache_size(3_000_000)
        .eviction(Eviction::Never)
        .subsample_count(100)
        .persistent(true)
        .persistent_cache_dir(directory)
        .max_persistent_cache_size(5_000_000_000)
        .zstd_compression(true)
        .zstd_compression_level(7)
        .zstd_compression_threads(2)
        .cache_dtype(Kind::BFloat16)
        .use_mmap_on_load(true)
        .version("two")
        .verify(0.25)
        .single_flight_timeout(2.5)
        .remote(format!("file://{}", std::env::temp_dir().display()))
        .remote_mode(RemoteMode::ReadOnly)
        .remote_timeout(0.0)
        .build()
        .unwrap();
    assert_eq!(options, expected);
    everything(&random(&[2, 2]));
    everything_cache().flush().unwrap();
    let own = everything_cache().directory().unwrap();
    assert!(own.starts_with(directory) && own.is_dir());
    std::fs::remove_dir_all(directory).unwrap();
}

static RAN: AtomicUsize = AtomicUsize::new(0);

#[torchcache(enabled = false, memory_cache_device = None, persistent_module_hash = "off")]
fn switched_off(xs: &Tensor) -> Tensor {
    RAN.fetch_add(1, SeqCst);
    xs * 2
}

#[test]
fn enabled_false_computes_every_call() {
    let expected = Options::builder()
        .enabled(false)
        .memory_cache_device(None)
        .persistent_module_hash("off")
        .build()
        .unwrap();
    assert_eq!(switched_off_cache().effective_options(), expected);
    let xs = random(&[2, 2]);
    for _ in 0..3 {
        assert!(same(&switched_off(&xs), &(&xs * 2)));
    }
    assert_eq!(RAN.load(SeqCst), 3, "computed at every call");
    let stats = switched_off_cache().stats();
    assert_eq!(
        (stats.calls, stats.stored, stats.memory.rows, stats.hits()),
        (0, 0, 0, 0)
    );
    assert_eq!(switched_off_cache().module_hash(), None);
}

#[torchcache(max_memory_cache_size = "1 GB", version = "attribute")]
#[derive(Debug)]
struct Overridden {
    /// Another one in each instance: those of tests that run at once share no memory tier and no bound.
    number: u64,
    torchcache_enabled: Option<bool>,
    torchcache_memory_cache_device: Option<Option<Device>>,
    torchcache_max_memory_cache_size: u64,
    torchcache_eviction: Eviction,
    torchcache_subsample_count: Option<usize>,
    torchcache_persistent: bool,
    torchcache_persistent_cache_dir: Option<std::path::PathBuf>,
    torchcache_persistent_module_hash: Option<String>,
    torchcache_max_persistent_cache_size: &'static str,
    torchcache_zstd_compression: bool,
    torchcache_zstd_compression_level: i32,
    torchcache_zstd_compression_threads: Option<u32>,
    torchcache_cache_dtype: Option<Kind>,
    torchcache_use_mmap_on_load: bool,
    torchcache_version: Option<String>,
    torchcache_verify: f64,
    #[torchcache(skip)]
    ran: Ran,
    handle: TorchCache,
}

#[torchcache]
impl Module for Overridden {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * 2
    }
}

fn overridden() -> Overridden {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    Overridden {
        number: NUMBER.fetch_add(1, SeqCst),
        torchcache_enabled: None,
        torchcache_memory_cache_device: Some(None),
        torchcache_max_memory_cache_size: 1_000_000,
        torchcache_eviction: Eviction::Never,
        torchcache_subsample_count: None,
        torchcache_persistent: false,
        torchcache_persistent_cache_dir: None,
        torchcache_persistent_module_hash: None,
        torchcache_max_persistent_cache_size: "2 GB",
        torchcache_zstd_compression: false,
        torchcache_zstd_compression_level: 9,
        torchcache_zstd_compression_threads: Some(0),
        torchcache_cache_dtype: None,
        torchcache_use_mmap_on_load: true,
        torchcache_version: None,
        torchcache_verify: 0.0,
        ran: Ran::default(),
        handle: TorchCache::default(),
    }
}

#[test]
fn override_fields_replace_attribute_options() {
    let mut model = overridden();
    model.forward(&random(&[2, 2]));
    let expected = Options::builder()
        .memory_cache_device(None)
        .max_memory_cache_size(1_000_000)
        .eviction(Eviction::Never)
        .max_persistent_cache_size("2 GB")
        .zstd_compression_level(9)
        .zstd_compression_threads(0)
        .use_mmap_on_load(true)
        .version("attribute")
        .verify(0.0)
        .build()
        .unwrap();
    assert_eq!(model.handle.effective_options(), expected);
    model.torchcache_version = Some("field".into());
    model.torchcache_subsample_count = Some(5);
    model.torchcache_cache_dtype = Some(Kind::Half);
    model.torchcache_verify = 0.5;
    model.forward(&random(&[2, 2]));
    assert_eq!(
        model.handle.effective_options(),
        expected
            .to_builder()
            .version("field")
            .subsample_count(5)
            .cache_dtype(Kind::Half)
            .verify(0.5)
            .build()
            .unwrap()
    );
}

#[test]
fn a_changed_override_field_applies_to_the_next_call() {
    let mut model = overridden();
    // An identity of its own: an equal one would share the memory tier and its bound.
    model.torchcache_subsample_count = Some(1_000);
    let xs = random(&[3, 2]);
    model.forward(&xs);
    model.torchcache_enabled = Some(false);
    model.forward(&xs);
    model.forward(&xs);
    assert_eq!(model.ran.take(), (3, 9));
    model.torchcache_enabled = Some(true);
    model.forward(&xs);
    assert_eq!(
        model.ran.take(),
        (0, 0),
        "rows cached before it was disabled are hits"
    );
    // A version is another identity; going back finds its rows. A smaller bound drops rows.
    model.torchcache_version = Some("other".into());
    model.forward(&xs);
    assert_eq!(model.ran.take(), (1, 3));
    model.torchcache_version = None;
    model.forward(&xs);
    assert_eq!(model.ran.take(), (0, 0));
    model.torchcache_max_memory_cache_size = 0;
    model.forward(&xs);
    model.forward(&xs);
    assert_eq!(model.ran.take(), (2, 6));
    assert_eq!(model.handle.stats().memory.bytes, 0);
}

#[test]
fn a_version_changed_while_disabled_applies_once_enabled() {
    let mut module = overridden();
    let xs = random(&[2, 3]);
    module.forward(&xs);
    let hash = module.handle.module_hash();
    module.torchcache_enabled = Some(false);
    module.torchcache_version = Some("changed".into());
    module.forward(&xs);
    module.torchcache_enabled = Some(true);
    module.forward(&xs);
    assert_ne!(module.handle.module_hash(), hash);
    assert_eq!(module.handle.stats().misses, 4);
}

#[test]
fn out_of_range_override_fields_panic_until_fixed() {
    let mut model = overridden();
    let xs = random(&[3, 2]);
    model.torchcache_zstd_compression_level = 99;
    let text = "options::Overridden: option `zstd_compression_level`: got 99; expected -7 to 22";
    assert_panics(&[text], || model.forward(&xs));
    model.torchcache_zstd_compression_level = 3;
    model.torchcache_zstd_compression = true;
    assert_panics(&["zstd_compression", "persistent = true"], || {
        model.forward(&xs)
    });
    model.torchcache_zstd_compression = false;
    for hash in ["a/b", "..", "nul\0", &"x".repeat(300)] {
        model.torchcache_persistent_module_hash = Some(hash.into());
        assert_panics(&["option `persistent_module_hash`: got"], || {
            model.forward(&xs)
        });
    }
    model.torchcache_persistent_module_hash = None;
    for (share, got) in [(-0.1, "-0.1"), (1.5, "1.5"), (f64::NAN, "NaN")] {
        model.torchcache_verify = share;
        let text = format!("option `verify`: got {got}; expected a share of the hits from 0.0");
        assert_panics(&[&text], || model.forward(&xs));
    }
    model.torchcache_verify = 1.0;
    assert_eq!(model.ran.take(), (0, 0));
    assert!(same(&model.forward(&xs), &(&xs * 2)));
}

#[test]
fn out_of_range_builder_options_are_an_error() {
    let error = Options::builder().subsample_count(0).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert_eq!(error.module(), None);
    let message = "option `subsample_count`: got 0; expected at least 1";
    assert!(error.to_string().starts_with(message), "{error}");
}

#[test]
fn lru_evicts_the_oldest_rows_within_the_bound() {
    let mut model = overridden();
    model.torchcache_eviction = Eviction::Lru;
    model.torchcache_max_memory_cache_size = 100_000;
    model.torchcache_memory_cache_device = None;
    let xs = random(&[100, 1000]);
    for row in 0..100 {
        model.forward(&xs.narrow(0, row, 1));
        assert!(model.handle.stats().memory.bytes <= 100_000);
    }
    let held = model.handle.stats().memory.rows as i64;
    assert_eq!(held, 100_000 / (4000 + 176), "as many as fit");
    model.ran.take();
    model.forward(&xs.narrow(0, 100 - held, held));
    assert_eq!(model.ran.take(), (0, 0), "the newest are there");
    model.forward(&xs.narrow(0, 0, 1));
    assert_eq!(model.ran.take(), (1, 1), "the oldest is not");
    assert_eq!(model.handle.stats().memory.evicted, 100 - held as u64 + 1);
}
