//! The child process of the tests that need one: `child COMMAND …` runs one command and prints its
//! results.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::nn::{Module, ModuleT};
use tch::{CModule, Device, Kind, Tensor, nn};
use torchcache::{Cached, Fingerprint, Options, Prefill, TorchCache, torchcache};

mod bounds;
mod local_items;
mod shared_rows;

/// `x * 2`, in `TORCHCACHE_DIR` or a private directory.
#[torchcache(persistent = true)]
fn double(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The same without memory, so that every hit is from disk.
#[torchcache(persistent = true, max_memory_cache_size = 0)]
fn double_on_disk(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The same in memory alone, which may grow beyond what the test allows.
#[torchcache(max_memory_cache_size = "100 GB", eviction = "lru")]
fn double_in_memory(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The same, ten milliseconds a batch.
#[torchcache(persistent = true)]
fn slow_double(xs: &Tensor) -> Tensor {
    std::thread::sleep(std::time::Duration::from_millis(10));
    xs * 2
}

/// Rows that every process can make: each of the 256 elements of row `number` is `number`.
fn rows(from: i64, count: i64) -> Tensor {
    let numbers = Tensor::arange_start(from, from + count, (Kind::Float, Device::Cpu));
    numbers.view([-1, 1]).repeat([1, 256])
}

/// Calls a cached function and checks that the output is twice the input.
fn call(cached: fn(&Tensor) -> Tensor, xs: &Tensor) {
    assert!(cached(xs).equal(&(xs * 2)), "a wrong row");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // Removes rows.
        ["remove", from, count] => {
            let xs = rows(number(from), number(count));
            let removed = double_cache().remove(|| double(&xs));
            assert!(removed.unwrap().iter().all(|row| row.is_cached()));
        }
        // Stores rows and returns from `main`, without a flush.
        ["store", from, count] => {
            call(double, &rows(number(from), number(count)));
            report(double_cache());
        }
        // Stores rows, and uploads those that it computed.
        ["share", from, count] => shared_rows::share(&rows(number(from), number(count))),
        ["share-in-memory", from, count] => {
            shared_rows::share_in_memory(&rows(number(from), number(count)));
        }
        ["share-apart", from, count] => {
            shared_rows::share_apart(&rows(number(from), number(count)));
        }
        ["try-to-share", from, count] => {
            shared_rows::try_to_share(&rows(number(from), number(count)));
        }
        ["first-pass", from, count, how] => {
            let xs = rows(number(from), number(count));
            shared_rows::first_pass(&xs, *how == "reading-ahead");
        }
        // Stores rows and returns from `main`.
        ["store-to-share", from, count] => {
            shared_rows::store(&rows(number(from), number(count)));
        }
        // Stores rows, which are not uploaded before it is killed.
        ["store-until-killed", from, count] => {
            shared_rows::store_until_killed(&rows(number(from), number(count)));
        }
        // Stores rows until it is killed, and prints how many rows each flush acknowledged.
        ["stream", flush_every] => {
            let mut next = 0;
            loop {
                for _ in 0..number(flush_every) {
                    call(double, &rows(next, 8));
                    next += 8;
                }
                double_cache().flush().unwrap();
                println!("flushed {next}");
                std::io::stdout().flush().expect("a reader");
            }
        }
        // Without a memory tier, flushed so that faults of the flusher are counted.
        ["store-on-disk", from, count] => {
            call(double_on_disk, &rows(number(from), number(count)));
            // The faults are printed below.
            let _ = double_on_disk_cache().flush();
            report(double_on_disk_cache());
        }
        // Takes four seconds without cached rows.
        ["prefill"] => {
            let slowly = |xs: Tensor| {
                let ys = slow_double(&xs);
                assert!(ys.equal(&(xs * 2)), "a wrong row");
                ys
            };
            let batches = (0..400).map(|batch| rows(5 * batch, 5));
            let stats = Prefill::new(slow_double_cache()).run(batches, slowly);
            println!("{} {}", stats.hits(), stats.misses);
        }
        // With 200 MiB of address space left, for rows of 1 MiB: they replace earlier ones.
        ["little-memory"] => {
            let row = |number: i64| rows(number, 1).repeat([1, 1024]);
            call(double_in_memory, &row(400));
            let statm = std::fs::read_to_string("/proc/self/statm").expect("on Linux");
            let pages = number(statm.split(' ').next().expect("the size of the process"));
            let limit = pages as u64 * rustix::param::page_size() as u64 + (200 << 20);
            let limit = rustix::process::Rlimit {
                current: Some(limit),
                maximum: None,
            };
            rustix::process::setrlimit(rustix::process::Resource::As, limit).expect("a limit");
            for number in 0..400 {
                call(double_in_memory, &row(number));
                call(double_in_memory, &row(number));
            }
            let stats = double_in_memory_cache().stats();
            let left_to_the_program = Vec::<u8>::new().try_reserve_exact(24 << 20);
            println!(
                "{} {} {} {}",
                stats.hits(),
                stats.misses,
                stats.memory.evicted > 100,
                left_to_the_program.is_ok()
            );
        }
        ["disabled", from, count] => {
            call(double, &rows(number(from), number(count)));
            let options = double_cache().effective_options();
            println!(
                "calls {} enabled {} persistent {} hash {:?}",
                double_cache().stats().calls,
                options.enabled(),
                options.persistent(),
                double_cache().module_hash()
            );
        }
        // Wraps a closure with a version, which may be empty.
        ["wrapped", version, factor] => wrapped(version, factor.parse().expect("a factor")),
        // Wraps a TorchScript file in one mode and kind.
        ["script", path, mode, kind] => script(path, mode, kind),
        // Calls the first or the second of each two items that only their place tells apart.
        ["local-items", which] => {
            let xs = rows(0, 4);
            for (way, make) in local_items::WAYS {
                let item = &make()[number(which) as usize];
                let (ys, stats) = (item.call)(&xs);
                let is_right = ys.equal(&(&xs * item.factor));
                let (hits, misses) = (stats.hits(), stats.misses);
                println!("{way}: right {is_right} hits {hits} misses {misses}");
            }
        }
        // Calls the methods of one of two builds.
        ["methods", build] => {
            let called = match *build {
                "first" => first_build::call_methods(),
                _ => second_build::call_methods(),
            };
            for (name, [first, second], is_right) in called {
                println!("{name}: right {is_right} {first:?} {second:?}");
            }
        }
        // A new module hash while no file can be opened: the disk tier is a fault.
        ["out-of-files"] => out_of_files(),
        // 200 identities that live at a time, on disk alone, and files of the program.
        ["many-identities"] => many_identities(),
        // Twenty modules in memory: the bytes that they hold, the rows found again, and the warnings.
        ["many-tiers"] => many_tiers(),
        // Changes a weight so often, in an annotated or a wrapped module.
        ["weight-changes", kind, changes] => bounds::weight_changes(kind, number(changes)),
        // Arguments whose elements are not contiguous.
        ["wide-arguments"] => bounds::wide_arguments(),
        // Cached modules around inner ones, and what each found on disk and computed.
        ["derived"] => derived(),
        _ => {
            eprintln!("child: unknown command {words:?}");
            std::process::exit(2);
        }
    }
}

fn wrapped(version: &str, factor: f64) {
    let net = nn::func(move |xs| xs * factor);
    let net = Cached::new(net, (), persistent(version)).expect("a directory");
    let xs = rows(0, 10);
    assert!(net.forward(&xs).equal(&(&xs * factor)), "a wrong row");
    net.cache().flush().expect("the rows are on disk");
    report(net.cache());
}

fn script(path: &str, mode: &str, kind: &str) {
    let mut module = CModule::load(path).expect("a TorchScript file");
    match mode {
        "eval" => module.set_eval(),
        _ => module.set_train(),
    }
    match kind {
        "half" => module.to(Device::Cpu, Kind::Half, false),
        "double" => module.to(Device::Cpu, Kind::Double, false),
        _ => {}
    }
    let net = Cached::new(module, path, persistent("1")).expect("a directory");
    let xs = rows(0, 10);
    let (given, expected) = (net.forward(&xs), net.module().forward(&xs));
    assert_eq!(given.kind(), expected.kind());
    assert!(given.equal(&expected), "a wrong row");
    net.cache().flush().expect("the rows are on disk");
    report(net.cache());
}

fn persistent(version: &str) -> Options {
    let options = Options::builder().persistent(true).version(version);
    options.build().expect("valid options")
}

/// `x * weight`.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Weighted {
    weight: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Weighted {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * &self.weight
    }
}

fn out_of_files() {
    let mut model = Weighted {
        weight: Tensor::from_slice(&[2.0f32]),
        torchcache: TorchCache::default(),
    };
    let xs = rows(0, 10);
    assert!(model.forward(&xs).equal(&(&xs * 2)));
    let open: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(open.len() > 100, "the limit was reached by opening files");
    let _ = model.weight.fill_(3.0);
    assert!(model.forward(&xs).equal(&(&xs * 3)));
    assert!(model.forward(&xs).equal(&(&xs * 3)));
    model
        .torchcache
        .flush()
        .expect_err("nothing of it is on disk");
    drop(open);
    report(&model.torchcache);
}

fn many_identities() {
    let net = |number: i64| {
        let options = Options::builder()
            .persistent(true)
            .max_memory_cache_size(0)
            .version(number.to_string());
        let net = nn::func(move |xs| xs * number);
        Cached::new(net, (), options.build().expect("valid options")).expect("a directory")
    };
    let nets: Vec<_> = (0..200).map(net).collect();
    let xs = rows(0, 10);
    let open_files = || {
        let open = || File::open("/dev/null").expect("the program opens files of its own");
        drop([(); 8].map(|()| open()));
    };
    for _ in 0..2 {
        for (number, net) in (0i64..).zip(&nets) {
            assert!(net.forward(&xs).equal(&(&xs * number)), "a wrong row");
            open_files();
        }
        for net in &nets {
            net.cache().flush().expect("the rows are on disk");
            open_files();
        }
    }
    let stats: Vec<_> = nets.iter().map(|net| net.cache().stats()).collect();
    let hits: u64 = stats.iter().map(|stats| stats.disk.hits).sum();
    let faults: u64 = stats.iter().map(|stats| stats.faults.total()).sum();
    println!("hits {hits} faults {faults}");
}

fn many_tiers() {
    let wrap = |number: i64| {
        let options = Options::builder().version(number.to_string());
        let net = nn::func(move |xs| xs * number);
        Cached::new(net, (), options.build().expect("valid options")).expect("no directory")
    };
    let nets: Vec<_> = (0..20).map(wrap).collect();
    let xs = rows(0, 500);
    let warned = Warned::default();
    tracing::subscriber::with_default(warned.clone(), || {
        for _ in 0..2 {
            for (number, net) in (0i64..).zip(&nets) {
                for batch in xs.split(125, 0) {
                    assert!(net.forward(&batch).equal(&(&batch * number)), "a wrong row");
                }
            }
        }
    });
    let stats: Vec<_> = nets.iter().map(|net| net.cache().stats()).collect();
    let bytes: u64 = stats.iter().map(|stats| stats.memory.bytes).sum();
    let hits: u64 = stats.iter().map(|stats| stats.memory.hits).sum();
    println!("{bytes} {hits} {}", warned.0.load(Ordering::Relaxed));
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warned(Arc<AtomicU64>);

impl tracing::Subscriber for Warned {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A cached module around another.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Outer<M> {
    inner: M,
    torchcache: TorchCache,
}

#[torchcache]
impl<M: Inner> Module for Outer<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.inner.apply(xs)
    }
}

trait Inner: std::fmt::Debug + Send {
    fn apply(&self, xs: &Tensor) -> Tensor;
}

macro_rules! inner {
    ($($inner:ty, |$self:ident, $xs:ident| $value:expr;)*) => {$(
        impl Inner for $inner {
            fn apply(&self, $xs: &Tensor) -> Tensor {
                let $self = self;
                $value
            }
        }
    )*};
}

/// A module without weights.
#[derive(Debug, Fingerprint)]
struct Scale(f64);

impl Module for Scale {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * self.0
    }
}

/// A module with a flag for training.
#[derive(Debug, Fingerprint)]
struct Dropout(f64);

impl ModuleT for Dropout {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Tensor {
        xs.dropout(self.0, train)
    }
}

/// A module if its field is one.
#[derive(Debug, Fingerprint)]
struct Again<M>(M);

impl<M: Module> Module for Again<M> {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.0.forward(xs)
    }
}

/// Weights, and a `forward` of its own.
#[derive(Debug, Fingerprint)]
struct Attention {
    weight: Tensor,
}

impl Attention {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * &self.weight
    }
}

/// Weights in a field.
#[derive(Debug, Fingerprint)]
enum Encoder {
    One { attention: Versioned },
}

/// Weights, and a version that stands for the code.
#[derive(Debug, Fingerprint)]
#[fingerprint(version = "1")]
struct Versioned {
    weight: Tensor,
}

/// A module with the attribute, without a cache of its own.
#[torchcache(enabled = false)]
#[derive(Debug)]
struct Annotated {
    weight: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Annotated {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * &self.weight
    }
}

#[derive(Debug, Fingerprint)]
enum Activation {
    Relu,
}

inner! {
    Scale, |module, xs| module.forward(xs);
    Dropout, |module, xs| module.forward_t(xs, false);
    Vec<Scale>, |modules, xs| modules[0].forward(xs);
    Again<Annotated>, |module, xs| module.forward(xs);
    Attention, |module, xs| module.forward(xs);
    Encoder, |module, xs| match module {
        Encoder::One { attention } => xs * &attention.weight,
    };
    Versioned, |module, xs| xs * &module.weight;
    Annotated, |module, xs| module.forward(xs);
    Activation, |activation, xs| match activation {
        Activation::Relu => xs.relu(),
    };
}

fn derived() {
    fn show(name: &str, inner: impl Inner + Fingerprint) {
        let model = Outer {
            inner,
            torchcache: TorchCache::default(),
        };
        let _ = model.forward(&rows(1, 3));
        model.torchcache.flush().expect("its rows are on disk");
        let stats = model.torchcache.stats();
        println!("{name}: {} hits, {} misses", stats.hits(), stats.misses);
    }
    let weight = || Tensor::from_slice(&[2.0f32]);
    let annotated = || Annotated {
        weight: weight(),
        torchcache: TorchCache::default(),
    };
    show("module", Scale(2.0));
    show("module with training", Dropout(0.5));
    show("module in a list", vec![Scale(2.0)]);
    show("generic", Again(annotated()));
    show("weights", Attention { weight: weight() });
    let attention = Versioned { weight: weight() };
    show("weights in a field", Encoder::One { attention });
    show("versioned", Versioned { weight: weight() });
    show("annotated", annotated());
    show("plain", Activation::Relu);
}

fn number(text: &str) -> i64 {
    text.parse().expect("a number")
}

fn report(cache: &TorchCache) {
    let stats = cache.stats();
    println!(
        "hits {} misses {} faults {:?}",
        stats.hits(),
        stats.misses,
        stats.faults.iter().collect::<Vec<_>>()
    );
}
