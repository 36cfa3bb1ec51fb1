//! Shared by the tests: a module that counts its runs, tensors, and a log subscriber.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use tch::{Device, Kind, Tensor, nn};
use torchcache::{Options, TorchCache, torchcache};

/// The device under test.
pub(crate) fn device() -> Device {
    match std::env::var("TORCHCACHE_TEST_DEVICE").as_deref() {
        Ok("cuda") => {
            assert!(
                tch::Cuda::is_available(),
                "TORCHCACHE_TEST_DEVICE=cuda, but there is no GPU"
            );
            // Else the copies of a call would depend on how soon they are loaded.
            torchcache::__private::wait_for_kernels(0);
            Device::Cuda(0)
        }
        Ok(other) => panic!("TORCHCACHE_TEST_DEVICE is {other:?}; expected cuda or nothing"),
        Err(_) => Device::Cpu,
    }
}

/// Random floats on the device under test.
pub(crate) fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, device()))
}

/// Whether two tensors have the same kind, shape and bits.
pub(crate) fn same(left: &Tensor, right: &Tensor) -> bool {
    if left.kind() != right.kind() || left.size() != right.size() {
        return false;
    }
    let bytes = |tensor: &Tensor| {
        let tensor = tensor.to_device(Device::Cpu).contiguous().view(-1);
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes
    };
    bytes(left) == bytes(right)
}

/// How often a forward ran, and on how many rows in all.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    times: Cell<usize>,
    rows: Cell<i64>,
}

impl Ran {
    pub(crate) fn note(&self, xs: &Tensor) {
        self.times.set(self.times.get() + 1);
        self.rows.set(self.rows.get() + xs.size()[0]);
    }

    /// `(times, rows)` since the last call of this.
    pub(crate) fn take(&self) -> (usize, i64) {
        (self.times.take(), self.rows.take())
    }
}

/// `x * factor`, counted.
#[torchcache]
#[derive(Debug)]
pub(crate) struct Scale {
    pub(crate) factor: f64,
    #[torchcache(skip)]
    pub(crate) ran: Ran,
    pub(crate) cache: TorchCache,
}

impl Scale {
    pub(crate) fn by(factor: f64) -> Self {
        Scale {
            factor,
            ran: Ran::default(),
            cache: TorchCache::default(),
        }
    }
}

#[torchcache]
impl nn::Module for Scale {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        xs * self.factor
    }
}

/// The misses, the hits in memory and those on disk.
pub(crate) fn counts(cache: &TorchCache) -> (u64, u64, u64) {
    let stats = cache.stats();
    (stats.misses, stats.memory.hits, stats.disk.hits)
}

/// Calls twice with new rows: both outputs are right, and the second call finds its rows in memory.
#[track_caller]
pub(crate) fn assert_computed_once(
    cache: &TorchCache,
    call: impl Fn(&Tensor) -> Tensor,
    expected: impl Fn(&Tensor) -> Tensor,
) {
    let xs = random(&[3, 2]);
    let before = counts(cache);
    for _ in 0..2 {
        assert!(same(&call(&xs), &expected(&xs)));
    }
    assert_eq!(counts(cache), (before.0 + 3, before.1 + 3, before.2));
}

/// The lines logged while `run` runs.
pub(crate) fn logged<R>(run: impl FnOnce() -> R) -> (R, Vec<String>) {
    let log = Log::default();
    let result = log.during(run);
    (result, log.lines())
}

/// Records each event as `LEVEL message field=value …`. Clones record into the same
/// list, for other threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Records the events of this thread while `run` runs.
    pub(crate) fn during<R>(&self, run: impl FnOnce() -> R) -> R {
        let log = self.clone();
        let subscriber = OnEvent(move |event: &tracing::Event<'_>| log.record(event));
        tracing::subscriber::with_default(subscriber, run)
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn record(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                match field.name() {
                    "message" => self.0.push_str(&format!(" {value:?}")),
                    name => self.0.push_str(&format!(" {name}={value:?}")),
                }
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

/// A subscriber that calls a function with each event of the library.
pub(crate) struct OnEvent<F>(pub(crate) F);

impl<F: Fn(&tracing::Event<'_>) + 'static> tracing::Subscriber for OnEvent<F> {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("torchcache")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        (self.0)(event);
    }
}

/// How many warnings contain `words`.
pub(crate) fn warnings(lines: &[String], words: &str) -> usize {
    events(lines, "WARN", words)
}

/// How many events of a level contain `words`.
pub(crate) fn events(lines: &[String], level: &str, words: &str) -> usize {
    let events = lines.iter().filter(|line| line.starts_with(level));
    events.filter(|line| line.contains(words)).count()
}

/// Asserts that `run` panics with a message that contains each of the texts.
#[track_caller]
pub(crate) fn assert_panics<R>(texts: &[&str], run: impl FnOnce() -> R) {
    let message = panic_of(run);
    for text in texts {
        assert!(message.contains(text), "{text}: {message}");
    }
}

/// Options with a version, the rest as by default.
pub(crate) fn version(text: &str) -> Options {
    Options::builder().version(text).build().unwrap()
}

/// The message of the panic that ends `run`, which is not reported: an unexpected one is easier to find.
pub(crate) fn panic_of<R>(run: impl FnOnce() -> R) -> String {
    caught_panic(run).0
}

/// The file and line that a panic of `run` points at.
pub(crate) fn panic_place<R>(run: impl FnOnce() -> R) -> Option<(String, u32)> {
    caught_panic(run).1
}

fn caught_panic<R>(run: impl FnOnce() -> R) -> (String, Option<(String, u32)>) {
    static HOOK: Once = Once::new();
    thread_local! {
        static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
        static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
    }
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match IS_EXPECTED.get() {
            true => PLACE.set(panic.location().map(|it| (it.file().to_owned(), it.line()))),
            false => report(panic),
        }));
    });
    IS_EXPECTED.set(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    IS_EXPECTED.set(false);
    let payload = result.err().expect("expected a panic");
    let text = match (
        payload.downcast_ref::<String>(),
        payload.downcast_ref::<&str>(),
    ) {
        (Some(message), _) => message.clone(),
        (_, Some(message)) => (*message).to_owned(),
        _ => "a panic without a message".to_owned(),
    };
    (text, PLACE.take())
}

/// The 1,797 digits as floats, `[1797, 64]`, from the folder of the example's data.
pub(crate) fn digits(folder: &Path) -> Tensor {
    let part = |name: &str| {
        let file = std::fs::File::open(folder.join(name)).expect("the example's data");
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file)
            .read_to_end(&mut bytes)
            .unwrap();
        // The idx format: a header of 16 bytes for three dimensions, then the pixels.
        Tensor::from_slice(&bytes[16..]).view([-1, 64])
    };
    let parts = ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"].map(part);
    Tensor::cat(&parts, 0).to_kind(Kind::Float)
}
