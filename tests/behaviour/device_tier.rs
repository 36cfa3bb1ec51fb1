//! Rows between the tiers and a device: without waiting for it, on several streams and threads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use tch::nn::Module;
use tch::{Device, Kind, Tensor, nn};
use torchcache::__private::wait_for_kernels;
use torchcache::{Cached, Eviction, Options, TorchCache, torchcache};

use crate::device_copies::{ROW_BYTES, ROWS, counted, doubling, rows_of};
use crate::raw::{self, CurrentStream, DeviceMemoryLimit, NoPageLockedMemory};
use crate::support::{counts, device, random, same};

fn several(xs: &Tensor) -> [Tensor; 3] {
    [
        xs * 2.0,
        xs.narrow(1, 0, 3) + 1.0,
        xs.select(1, 0).to_kind(Kind::Int64),
    ]
}

#[torchcache]
fn kept_on_host(xs: &Tensor) -> [Tensor; 3] {
    several(xs)
}

#[torchcache(memory_cache_device = None)]
fn kept_on_device(xs: &Tensor) -> [Tensor; 3] {
    several(xs)
}

/// Calls with rows that were computed before, in several orders: the host waits for no copy to the device, or
/// where `has_page_locked` is false for each.
fn find_in_orders(cached: fn(&Tensor) -> [Tensor; 3], uploads: [u64; 4], has_page_locked: bool) {
    let xs = random(&[6, 1_000]);
    cached(&xs);
    let orders: [&[i64]; 4] = [&[0, 1, 2, 3, 4, 5], &[5, 3, 1], &[2, 2, 0, 5, 2], &[4]];
    for (rows, uploads) in orders.into_iter().zip(uploads) {
        let xs = xs.index_select(0, &Tensor::from_slice(rows).to_device(device()));
        let before = raw::waits().copies;
        let (given, copies) = counted(|| cached(&xs));
        let waited = raw::waits().copies - before;
        assert_eq!(
            waited,
            if has_page_locked { 0 } else { uploads },
            "{rows:?}"
        );
        assert_eq!(copies.to_device, uploads, "{rows:?}");
        for (given, expected) in given.iter().zip(several(&xs)) {
            assert!(same(given, &expected), "{rows:?}");
        }
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_found_on_the_host_are_copied_without_waiting() {
    find_in_orders(kept_on_host, [3, 3, 3, 3], true);
    assert_eq!(counts(kept_on_host_cache()), (6, 13, 0));
}

/// The places of the rows, unless they are in order.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_found_on_the_device_take_one_copy_without_waiting() {
    find_in_orders(kept_on_device, [0, 1, 1, 0], true);
    assert_eq!(counts(kept_on_device_cache()), (6, 13, 0));
}

/// In one launch, from several chunks of memory; where the kernels are off, by libtorch.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_found_in_another_order_are_copied_by_one_kernel() {
    let has_kernels = wait_for_kernels(0);
    let net = doubling("kernels", |options| options.memory_cache_device(None));
    // Rows of words of each length, and of no word.
    for (number, row) in (1..).zip([1_000, 1_001, 1_002, 1_004]) {
        let bytes = random(&[60, row]).to_kind(Kind::Int8);
        for (begin, count) in [(0, 1), (1, 19), (20, 40)] {
            net.forward(&bytes.narrow(0, begin, count));
        }
        let xs = bytes.flip([0]);
        let (launches, waits) = (raw::launches(), raw::waits());
        let (given, copies) = counted(|| net.forward(&xs));
        assert!(same(&given, &(&xs * 2.0)), "{row}");
        assert_eq!((raw::waits(), copies.to_device), (waits, 1), "{row}");
        // And one for the keys.
        let launched = raw::launches() - launches;
        assert_eq!(launched, if has_kernels { 2 } else { 0 }, "{row}");
        assert_eq!(counts(net.cache()), (60 * number, 60 * number, 0));
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn without_page_locked_memory_copies_wait() {
    let _limit = NoPageLockedMemory::start();
    find_in_orders(kept_on_host, [3, 3, 3, 3], false);
    find_in_orders(kept_on_device, [0, 1, 1, 0], false);
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct KeptOnDisk {
    torchcache_persistent_cache_dir: PathBuf,
    torchcache_memory_cache_device: Option<Option<Device>>,
    cache: TorchCache,
}

#[torchcache]
impl Module for KeptOnDisk {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2.0
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_found_on_disk_are_copied_once() {
    let xs = random(&[ROWS as i64, 1_000]);
    for memory in [Some(Device::Cpu), None] {
        let name = format!("memory on {memory:?}");
        let directory = tempfile::tempdir().unwrap();
        let open = || KeptOnDisk {
            torchcache_persistent_cache_dir: directory.path().to_owned(),
            torchcache_memory_cache_device: Some(memory),
            cache: TorchCache::default(),
        };
        open().forward(&xs);
        let net = open();
        let copies_of_hit = || {
            let waits = raw::waits();
            let (given, copies) = counted(|| net.forward(&xs));
            assert_eq!(raw::waits(), waits, "{name}");
            assert!(same(&given, &(&xs * 2.0)), "{name}");
            rows_of(copies, &[&xs])
        };
        assert_eq!(copies_of_hit(), [(0, 0), (1, 5)], "{name}");
        let from_memory = if memory.is_some() { (1, 5) } else { (0, 0) };
        assert_eq!(copies_of_hit(), [(0, 0), from_memory], "{name}");
        assert_eq!(counts(&net.cache), (0, 5, 5), "{name}");
    }
}

/// Of 32 MiB: the host waits once eight of them are queued.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn large_batches_are_copied_in_parts() {
    const PARTS: u64 = 10;
    let columns = || Tensor::arange(8 << 20, (Kind::Float, device()));
    let options = Options::builder().version("large rows").build().unwrap();
    let net = Cached::new(nn::func(move |xs| xs * columns()), (), options).unwrap();
    let xs = random(&[PARTS as i64, 1]);
    let expected = &xs * columns();
    let (given, computed) = counted(|| net.forward(&xs));
    assert!(same(&given, &expected));
    let before = raw::waits();
    let (given, found) = counted(|| net.forward(&xs));
    let waits = raw::waits();
    assert_eq!((waits.copies - before.copies, found.to_device), (0, PARTS));
    assert_eq!(waits.synchronizations - before.synchronizations, 1);
    assert!(same(&given, &expected));
    // For hashing, and of computed rows, which the host keeps.
    assert_eq!((found.from_device, computed.from_device), (1, 1 + PARTS));
    assert_eq!(counts(net.cache()), (PARTS, PARTS, 0));
}

/// The forward of the whole batch has room again.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_without_room_for_the_output_are_computed_in_one_forward() {
    const ROWS: i64 = 6;
    // A megabyte a row.
    let columns = Tensor::arange(1 << 18, (Kind::Float, device()));
    let limit = Arc::new(Mutex::new(None));
    let forwards = Arc::new(AtomicUsize::new(0));
    let forward = {
        let (columns, limit, forwards) = (columns.shallow_clone(), limit.clone(), forwards.clone());
        nn::func(move |xs| {
            forwards.fetch_add(1, SeqCst);
            if xs.size()[0] == ROWS {
                drop(limit.lock().unwrap().take());
            }
            xs * &columns
        })
    };
    let options = Options::builder()
        .version("no room")
        .memory_cache_device(None);
    let net = Cached::new(forward, (), options.build().unwrap()).unwrap();
    let xs = random(&[ROWS, 1]);
    let expected = &xs * &columns;
    for known in [ROWS - 1, ROWS] {
        net.cache().clear();
        net.forward(&xs.narrow(0, 0, known));
        let (before, faults) = (forwards.load(SeqCst), net.cache().stats().faults.memory);
        // The forward of one row, and a copy of its output, fit.
        *limit.lock().unwrap() = Some(DeviceMemoryLimit::leave(5 << 19));
        let given = net.forward(&xs);
        assert!(limit.lock().unwrap().is_none(), "{known}");
        assert!(same(&given, &expected), "{known}");
        assert_eq!(forwards.load(SeqCst) - before, 1, "{known}");
        let stats = net.cache().stats();
        assert_eq!((stats.faults.memory - faults, stats.bypassed), (1, 0));
    }
    assert!(same(&net.forward(&xs), &expected));
    assert_eq!(net.cache().stats().hits(), ROWS as u64);
}

/// The forward may have room, as that of another batch.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_on_the_host_without_room_for_the_output_take_one_forward() {
    let forwards = Arc::new(AtomicUsize::new(0));
    let columns = Tensor::arange(1 << 18, (Kind::Float, device()));
    let limit = Arc::new(Mutex::new(None));
    let forward = {
        let (columns, limit, forwards) = (columns.shallow_clone(), limit.clone(), forwards.clone());
        nn::func(move |xs| {
            forwards.fetch_add(1, SeqCst);
            drop(limit.lock().unwrap().take());
            xs * &columns
        })
    };
    let options = Options::builder().version("no room for rows of the host");
    let net = Cached::new(forward, (), options.build().unwrap()).unwrap();
    let xs = random(&[6, 1]);
    let expected = &xs * &columns;
    net.forward(&xs);
    *limit.lock().unwrap() = Some(DeviceMemoryLimit::leave(5 << 19));
    let given = net.forward(&xs);
    assert!(limit.lock().unwrap().is_none());
    assert!(same(&given, &expected));
    assert_eq!(
        (forwards.load(SeqCst), net.cache().stats().bypassed),
        (2, 1)
    );
    assert!(same(&net.forward(&xs), &expected));
    assert_eq!((forwards.load(SeqCst), counts(net.cache())), (2, (6, 6, 0)));
}

const MEGABYTE: u64 = 1 << 20;

/// Five rows of a megabyte.
fn large_rows() -> Tensor {
    random(&[5, MEGABYTE as i64 / 4])
}

/// A module whose rows are kept on the device, which may be short of memory.
struct Crowded {
    net: Cached<nn::Func<'static>>,
    is_short: Arc<AtomicBool>,
}

impl Crowded {
    fn new(version: &str, eviction: Eviction) -> Self {
        let is_short = Arc::new(AtomicBool::new(false));
        let forward = {
            let (is_short, kept) = (is_short.clone(), Mutex::new(Tensor::new()));
            nn::func(move |xs| {
                let output = xs * 2.0;
                *kept.lock().unwrap() = output.shallow_clone();
                if is_short.load(SeqCst) {
                    // For a copy of the output, and for no row more, until the call returned.
                    std::mem::forget(DeviceMemoryLimit::leave(5 * MEGABYTE + MEGABYTE / 2));
                }
                output
            })
        };
        let options = Options::builder().version(version).eviction(eviction);
        let options = options.memory_cache_device(None).build().unwrap();
        let net = Cached::new(forward, (), options).unwrap();
        Crowded { net, is_short }
    }

    /// Calls while the device has memory for the output, and for no row.
    fn forward_while_short(&self, xs: &Tensor) {
        self.is_short.store(true, SeqCst);
        let given = self.net.forward(xs);
        self.is_short.store(false, SeqCst);
        drop(DeviceMemoryLimit::leave(u64::MAX));
        assert!(same(&given, &(xs * 2.0)));
    }

    /// How many megabytes of rows a hit copies to the device.
    #[track_caller]
    fn copied_by_hit(&self, xs: &Tensor) -> u64 {
        let hits = self.net.cache().stats().hits();
        let (given, copies) = counted(|| self.net.forward(xs));
        assert!(same(&given, &(xs * 2.0)));
        assert_eq!(self.net.cache().stats().hits(), hits + 5);
        copies.bytes_to_device / MEGABYTE
    }
}

/// In no call after the first either.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_device_without_room_for_any_row_leaves_all_to_the_host() {
    for eviction in [Eviction::Auto, Eviction::Lru, Eviction::Never] {
        let module = Crowded::new(&format!("{eviction:?}"), eviction);
        let batches = [(); 4].map(|()| large_rows());
        for xs in &batches {
            module.forward_while_short(xs);
        }
        let copied = batches.map(|xs| module.copied_by_hit(&xs));
        assert_eq!(copied, [5, 5, 5, 5], "{eviction:?}");
        let stats = module.net.cache().stats();
        assert_eq!(
            (stats.misses, stats.memory.evicted),
            (20, 0),
            "{eviction:?}"
        );
    }
}

/// Of the calls after it the third one asks again.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_device_that_has_room_again_holds_rows_again() {
    let module = Crowded::new("a short shortage", Eviction::Auto);
    let batches = [(); 4].map(|()| large_rows());
    module.forward_while_short(&batches[0]);
    for xs in &batches[1..] {
        module.net.forward(xs);
    }
    let copied = batches.map(|xs| module.copied_by_hit(&xs));
    assert_eq!(copied, [5, 5, 5, 0]);
}

/// As above, for a tier whose device holds some rows.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_tier_grows_again_once_its_device_has_room() {
    let module = Crowded::new("rows before a shortage", Eviction::Never);
    let batches = [(); 5].map(|()| large_rows());
    module.net.forward(&batches[0]);
    module.forward_while_short(&batches[1]);
    for xs in &batches[2..] {
        module.net.forward(xs);
    }
    let stats = module.net.cache().stats().memory;
    assert_eq!((stats.rows, stats.refused), (10, 15));
    let [first, .., last] = batches;
    assert_eq!([first, last].map(|xs| module.copied_by_hit(&xs)), [0, 0]);
}

/// A machine without the device.
#[test]
fn rows_for_a_device_that_is_not_there_are_kept_on_the_host() {
    let absent = match tch::Cuda::is_available() {
        true => Device::Mps,
        false => Device::Cuda(0),
    };
    for eviction in [Eviction::Auto, Eviction::Lru] {
        let name = format!("absent {eviction:?}");
        let net = doubling(&name, |options| {
            options.memory_cache_device(absent).eviction(eviction)
        });
        let batches = [random(&[4, 3]), random(&[4, 3])];
        for xs in batches.iter().chain(&batches) {
            assert!(same(&net.forward(xs), &(xs * 2.0)));
        }
        assert_eq!(counts(net.cache()), (8, 8, 0), "{eviction:?}");
        assert_eq!(net.cache().stats().memory.rows, 8);
    }
}

#[torchcache]
fn wide(xs: &Tensor) -> Tensor {
    xs.repeat([1, 12 << 20])
}

/// However few bytes each call copies, and on whichever stream, the host waits for all streams once in 256 MiB.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn the_memory_of_queued_copies_is_bounded_across_calls() {
    // A row of 48 MiB, in two parts.
    let xs = random(&[1, 1]);
    wide(&xs);
    let before = raw::waits();
    for call in 0..11 {
        let _stream = CurrentStream::set(3 + call % 2);
        let (given, copies) = counted(|| wide(&xs));
        assert_eq!(copies.to_device, 2);
        assert!(same(&given, &xs.repeat([1, 12 << 20])));
    }
    let waits = raw::waits();
    assert_eq!(waits.synchronizations - before.synchronizations, 2);
    assert_eq!(waits.copies, before.copies);
    assert_eq!(counts(wide_cache()), (1, 11, 0));
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn outputs_on_the_host_of_rows_on_the_device_are_the_callers() {
    #[torchcache(memory_cache_device = device())]
    fn to_host(xs: &Tensor) -> Tensor {
        xs.to_device(Device::Cpu) * 2.0
    }
    let xs = random(&[4, 100]);
    let expected = xs.to_device(Device::Cpu) * 2.0;
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut given = to_host(&xs);
        assert!(same(&given, &expected));
        let _ = given.fill_(all.len() as i64);
        all.push(given);
    }
    for (number, given) in all.iter().enumerate() {
        let sum = given.sum(Kind::Double).double_value(&[]);
        assert_eq!(sum, 400.0 * number as f64);
    }
}

/// Has room for 24 rows.
#[torchcache(
    memory_cache_device = None,
    max_memory_cache_size = 24 * (ROW_BYTES + 200),
    eviction = "lru"
)]
fn kept_for_a_while(xs: &Tensor) -> Tensor {
    xs * 2.0
}

/// Also where the device is the CPU. On the fake device each thread has a stream of its own.
#[test]
fn threads_that_find_and_evict_rows_on_a_device_get_their_own() {
    let xs = random(&[40, 1_000]);
    let expected = &xs * 2.0;
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (xs, expected) = (xs.shallow_clone(), expected.shallow_clone());
            scope.spawn(move || {
                let _stream = raw::copies().map(|_| CurrentStream::set(3 + thread));
                let mut state = thread;
                for round in 0..50 {
                    let mut rows: Vec<i64> = Vec::new();
                    for _ in 0..6 {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        rows.push((state >> 33) as i64 % 40);
                    }
                    let index = Tensor::from_slice(&rows).to_device(device());
                    let given = kept_for_a_while(&xs.index_select(0, &index));
                    let expected = expected.index_select(0, &index);
                    assert!(same(&given, &expected), "round {round}: {rows:?}");
                }
            });
        }
    });
    let stats = kept_for_a_while_cache().stats();
    assert!(stats.hits() > 100, "{stats:?}");
    assert!(stats.memory.evicted > 100, "{stats:?}");
    assert_eq!(stats.bypassed, 0);
}

/// How often `run` waits for all work on the device.
fn synchronizations(run: impl FnOnce()) -> u64 {
    let before = raw::waits().synchronizations;
    run();
    raw::waits().synchronizations - before
}

/// A copy on one stream may be made before those that were queued earlier on another one.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_are_read_after_they_were_written_on_another_stream() {
    let net = doubling("streams", |options| options.memory_cache_device(None));
    let xs = random(&[ROWS as i64, 1_000]);
    let expected = &xs * 2.0;
    let stream = CurrentStream::set(3);
    // Reading the output would finish the copies to memory.
    assert_eq!(synchronizations(|| drop(net.forward(&xs))), 0, "computed");
    drop(stream);
    let found_on = |stream| {
        let _stream = CurrentStream::set(stream);
        synchronizations(|| assert!(same(&net.forward(&xs), &expected), "stream {stream}"))
    };
    assert_eq!(found_on(4), 1, "another stream");
    assert_eq!(found_on(4), 0, "the same stream");
    assert_eq!(found_on(3), 1, "back");
    assert_eq!(counts(net.cache()), (5, 15, 0));
    // Memory is used again on the stream that it was allocated on.
    assert_eq!(synchronizations(|| net.cache().clear()), 0);
    assert_eq!(found_on(3), 0, "computed again");
    assert_eq!(found_on(4), 1);
    let cleared = synchronizations(|| net.cache().clear());
    assert_eq!(cleared, 1, "it is read on another stream");
    assert_eq!(found_on(0), 0, "computed again");
    assert_eq!(found_on(1), 0, "the default stream has two handles");
}

/// Those of all threads have one handle, and give freed memory to each other.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn the_default_streams_of_threads_are_waited_for() {
    #[torchcache(memory_cache_device = None)]
    fn doubled(xs: &Tensor) -> Tensor {
        xs * 2.0
    }
    const PER_THREAD: u64 = 2;
    let xs = random(&[ROWS as i64, 1_000]);
    let expected = &xs * 2.0;
    let found =
        |xs: &Tensor, expected: &Tensor| synchronizations(|| assert!(same(&doubled(xs), expected)));
    let stream = CurrentStream::set(PER_THREAD);
    let computed = synchronizations(|| drop(doubled(&xs)));
    assert_eq!(computed, 1, "once the memory of the rows is allocated");
    let tensors = [&xs, &expected].map(Tensor::shallow_clone);
    let other = thread::spawn(move || {
        let _stream = CurrentStream::set(PER_THREAD);
        [(); 2].map(|()| found(&tensors[0], &tensors[1]))
    });
    assert_eq!(other.join().unwrap(), [1, 1]);
    assert_eq!(found(&xs, &expected), 1, "back");
    drop(stream);
    let stream = CurrentStream::set(3);
    assert_eq!(found(&xs, &expected), 1);
    let per_thread = CurrentStream::set(PER_THREAD);
    assert_eq!(found(&xs, &expected), 1, "after work on another stream");
    drop((per_thread, stream));
    let stream = CurrentStream::set(3);
    assert_eq!(found(&xs, &expected), 1, "and before it");
    assert_eq!(found(&xs, &expected), 0);
    drop(stream);
    assert_eq!(counts(doubled_cache()), (5, 35, 0));
    // Another thread may use the memory again.
    assert_eq!(synchronizations(|| doubled_cache().clear()), 1);
}
