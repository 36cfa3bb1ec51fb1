//! Devices that cannot hash, or not rightly: the host hashes then. And the PTX of the library, run by an interpreter.
//!
//! Each test has a process of its own, since a device that failed once is not tried again.

use std::any::type_name;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tch::nn::Module;
use tch::{Device, Kind, Tensor, nn};
use torchcache::__private::wait_for_kernels;
use torchcache::{Cached, Options, OptionsBuilder, TorchCache, torchcache};
use tracing::Level;

use crate::device_copies::counted;
use crate::device_hashing::{CUDA, doubling, masked, masked_cache, ones, random};
use crate::device_watching::{BY_A_KERNEL, Weighted, first, write_unseen};
use crate::raw::{self, DeviceMemoryLimit, FailingCopies, NoPageLockedMemory};
use crate::support::{Log, OnEvent, counts, events, same, warnings};

const SWITCH: &str = "TORCHCACHE_DEVICE_HASHING";

/// So many launches of a test succeed.
const LEFT: &str = "TORCHCACHE_TEST_LAUNCHES";

/// Whether this process is there for a test alone. Else one is started that hashes on the device, with these variables,
/// and must succeed.
fn in_own_process<T: Fn()>(_: T, variables: &[(&str, &str)]) -> bool {
    const OWN: &str = "TORCHCACHE_TEST_OWN_PROCESS";
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let (_, name) = type_name::<T>().split_once("::").expect("a path");
    command.args(["--exact", name, "--include-ignored", "--nocapture"]);
    command.envs([(SWITCH, "on"), (OWN, "1")]);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:#?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("1 passed"), "{stdout}");
    false
}

/// The value of a variable in a process that is there for a test with it alone. Else one is started for each value, as by
/// [`in_own_process`].
fn value_in_own_process<T: Fn() + Copy>(test: T, name: &str, values: &[&str]) -> Option<String> {
    let is_own = |value: &&str| in_own_process(test, &[(name, value)]);
    values
        .iter()
        .any(is_own)
        .then(|| std::env::var(name).unwrap())
}

/// Random numbers on the device, whose kernels may not be used yet.
fn unawaited(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, CUDA))
}

/// Has the kernels loaded that were held, and used.
fn finish_loading() {
    raw::hold_loading(false);
    assert!(wait_for_kernels(0));
}

/// Calls that hash on the host what should be hashed on the device. Returns what they log.
fn hashed_on_the_host() -> Vec<String> {
    let xs = unawaited(&[5, 40_000]);
    let net = doubling("on the host", |options| options);
    let log = Log::default();
    for _ in 0..3 {
        let (given, copies) = log.during(|| counted(|| net.forward(&xs)));
        assert!(same(&given, &(&xs * 2.0)));
        assert!(copies.bytes_from_device >= 5 * 160_000);
    }
    assert_eq!(counts(net.cache()), (5, 10, 0));
    log.lines()
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn kernels_that_compute_something_wrong_are_not_used() {
    const KERNEL: &str = "TORCHCACHE_TEST_KERNEL";
    let kernels = [
        (c"blake3_chunks", "digests of rows"),
        (c"blake3_nodes", "digests of rows"),
        (c"blake3_pieces", "digests of pieces"),
        (c"copy_rows", "copies of rows"),
        (c"line_sums", "sums of lines"),
    ];
    let this = kernels_that_compute_something_wrong_are_not_used;
    let names = kernels.map(|(kernel, _)| kernel.to_str().unwrap());
    let Some(name) = value_in_own_process(this, KERNEL, &names) else {
        return;
    };
    let of_name = names.iter().position(|&it| it == name).unwrap();
    let (kernel, wrong) = kernels[of_name];
    raw::break_kernel(kernel);
    let log = Log::default();
    assert!(!log.during(|| wait_for_kernels(0)));
    assert_eq!(warnings(&log.lines(), wrong), 1, "{:?}", log.lines());
    let launches = raw::launches();
    assert_eq!(warnings(&hashed_on_the_host(), ""), 0, "logged once");
    assert_eq!(raw::launches(), launches);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn after_a_refused_launch_the_host_hashes() {
    if !in_own_process(after_a_refused_launch_the_host_hashes, &[]) {
        return;
    }
    let xs = random(&[5, 200_000]);
    let mask = random(&[5, 200_000]);
    let net = doubling("refused", |options| options);
    assert!(same(&net.forward(&xs), &(&xs * 2.0)));
    // The chunks of a call are hashed, and their values are not joined.
    raw::refuse_launches_after(1);
    let log = Log::default();
    let (given, copies) = log.during(|| counted(|| net.forward(&xs)));
    assert!(same(&given, &(&xs * 2.0)));
    assert_eq!(counts(net.cache()), (5, 5, 0));
    assert!(copies.bytes_from_device >= 5 * 800_000);
    let reason = "cuLaunchKernel returned CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701)";
    assert_eq!(warnings(&log.lines(), reason), 1, "{:?}", log.lines());
    let launches = raw::launches();
    for _ in 0..2 {
        masked(&xs, &[mask.shallow_clone(), xs.shallow_clone()]);
    }
    assert_eq!(counts(masked_cache()), (5, 5, 0));
    assert_eq!(warnings(&hashed_on_the_host(), ""), 0, "logged once");
    assert_eq!(raw::launches(), launches);
    assert!(!wait_for_kernels(0));
    assert_eq!(raw::contexts(), 0);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn calls_hash_on_the_host_while_kernels_are_loaded() {
    if !in_own_process(calls_hash_on_the_host_while_kernels_are_loaded, &[]) {
        return;
    }
    raw::hold_loading(true);
    assert_eq!(hashed_on_the_host().len(), 4, "attached, and three calls");
    assert_eq!(raw::launches(), 0);
    raw::hold_loading(false);
    let log = Log::default();
    assert!(log.during(|| wait_for_kernels(0)));
    assert_eq!(
        events(&log.lines(), "INFO", "cuda:0"),
        1,
        "{:?}",
        log.lines()
    );
    let xs = random(&[5, 40_000]);
    let (_, copies) = counted(|| ones(&xs));
    assert_eq!(copies.bytes_from_device, 5 * 32 + 5 * 8);
}

/// Each copy to the device waits then.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn without_page_locked_memory_the_device_hashes() {
    if !in_own_process(without_page_locked_memory_the_device_hashes, &[]) {
        return;
    }
    let _limit = NoPageLockedMemory::start();
    let xs = random(&[4, 300, 300]);
    let masks = [random(&[300, 300]), random(&[300, 300])];
    let expected = &xs * &masks[0] + &masks[1];
    for found in [0, 4] {
        let before = raw::waits().copies;
        let (given, copies) = counted(|| masked(&xs, &masks));
        assert_eq!(raw::waits().copies - before, copies.to_device);
        assert!(copies.to_device > 0);
        assert!(same(&given, &expected));
        // The digests of three pieces of each mask, and those of the rows.
        let digests = (2 * 3 + 4) * 32;
        let rows = if found == 0 { 4 * 360_000 } else { 0 };
        assert_eq!(copies.bytes_from_device, digests + rows);
        assert_eq!(counts(masked_cache()), (4, found, 0));
    }
    let net = Weighted::new(vec![random(&[5]), random(&[300, 400])]);
    assert!(net.runs(&xs.narrow(1, 0, 1)));
    assert_eq!(net.hit(&xs.narrow(1, 0, 1)), BY_A_KERNEL);
}

/// The driver, which libtorch starts, and its compiler end in exit hooks, and must not compile then.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn the_end_of_the_process_waits_for_kernels_that_are_loaded() {
    if !in_own_process(
        the_end_of_the_process_waits_for_kernels_that_are_loaded,
        &[],
    ) {
        return;
    }
    // The exit hook of its private directory is registered before that of the driver.
    let on_disk = |options: OptionsBuilder| options.persistent(true);
    let xs = Tensor::randn([2, 2], (Kind::Float, Device::Cpu));
    let net = doubling("before the driver", on_disk);
    net.forward(&xs);
    let directory = net.cache().directory().unwrap();
    raw::hold_loading(true);
    ones(&unawaited(&[2, 2]));
    let pause = || thread::sleep(Duration::from_millis(1));
    while raw::loading() == 0 {
        pause();
    }
    thread::spawn(move || {
        // The process does the rest of its end first, since it may be killed while it waits.
        while directory.exists() {
            pause();
        }
        thread::sleep(Duration::from_secs(1));
        raw::hold_loading(false);
        drop(net);
    });
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn without_a_driver_the_host_hashes_without_a_warning() {
    let preloaded = std::env::var("LD_PRELOAD").unwrap_or_default();
    let (device, driver) = preloaded.split_once(':').unwrap_or_default();
    let variables = [("LD_PRELOAD", device)];
    if driver.is_empty()
        || in_own_process(
            without_a_driver_the_host_hashes_without_a_warning,
            &variables,
        )
    {
        let log = Log::default();
        assert!(!log.during(|| wait_for_kernels(0)));
        let lines = [log.lines(), hashed_on_the_host()].concat();
        assert_eq!(warnings(&lines, ""), 0, "{lines:?}");
        assert_eq!(events(&lines, "DEBUG", "no CUDA driver"), 1, "{lines:?}");
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn the_host_hashes_unless_a_variable_says_otherwise() {
    let this = the_host_hashes_unless_a_variable_says_otherwise;
    let Some(value) = value_in_own_process(this, SWITCH, &["", "off", "0", "yes"]) else {
        return;
    };
    let warned = usize::from(value == "yes");
    let lines = hashed_on_the_host();
    let text = "TORCHCACHE_DEVICE_HASHING is \"yes\"; expected `on` or `off`";
    assert_eq!(warnings(&lines, text), warned, "{lines:?}");
    assert_eq!(warnings(&lines, ""), warned, "{lines:?}");
    assert_eq!(raw::launches(), 0);
}

#[torchcache]
fn ones_on_the_host(xs: &Tensor) -> Tensor {
    Tensor::ones([xs.size()[0], 2], (Kind::Float, Device::Cpu))
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_call_without_memory_on_the_device_hashes_on_the_host() {
    if !in_own_process(a_call_without_memory_on_the_device_hashes_on_the_host, &[]) {
        return;
    }
    let xs = random(&[5, 40_000]);
    ones_on_the_host(&xs);
    for (left, copied) in [(100, 5 * 160_000), (u64::MAX, 5 * 32)] {
        let limit = DeviceMemoryLimit::leave(left);
        let log = Log::default();
        let (_, copies) = log.during(|| counted(|| ones_on_the_host(&xs)));
        drop(limit);
        assert_eq!(copies.bytes_from_device, copied);
        assert_eq!(warnings(&log.lines(), ""), 0, "{:?}", log.lines());
    }
    assert_eq!(counts(ones_on_the_host_cache()), (5, 10, 0));
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn weights_are_watched_while_kernels_are_loaded_and_after() {
    if !in_own_process(weights_are_watched_while_kernels_are_loaded_and_after, &[]) {
        return;
    }
    raw::hold_loading(true);
    let xs = unawaited(&[4, 2]);
    let net = Weighted::new(vec![unawaited(&[5]), unawaited(&[300, 400])]);
    assert!(net.runs(&xs));
    write_unseen(&first(&net.weights[1]), 1.0);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), (0, 2));
    finish_loading();
    write_unseen(&first(&net.weights[1]), 2.0);
    assert!(net.runs(&xs), "between the ways");
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    write_unseen(&first(&net.weights[0]), 3.0);
    assert!(net.runs(&xs));
    assert_eq!(net.cache.stats().bypassed, 0);
}

/// Without a write, each change of the way has the weights hashed once more, and no forward run.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_stay_found_when_weights_are_watched_in_another_way() {
    if !in_own_process(rows_stay_found_when_weights_are_watched_in_another_way, &[]) {
        return;
    }
    raw::hold_loading(true);
    let xs = unawaited(&[4, 2]);
    let net = Weighted::new(vec![unawaited(&[5]), unawaited(&[300, 400])]);
    assert!(net.runs(&xs));
    finish_loading();
    assert!(!net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    raw::refuse_launches_after(0);
    assert!(!net.runs(&xs));
    assert_eq!(net.hit(&xs), (0, 2));
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn after_a_refused_launch_libtorch_watches_weights() {
    // The weights are compared first, then the rows are hashed.
    let this = after_a_refused_launch_libtorch_watches_weights;
    let Some(left) = value_in_own_process(this, LEFT, &["0", "1"]) else {
        return;
    };
    let xs = random(&[4, 2]);
    let net = Weighted::new(vec![random(&[5]), random(&[300, 400])]);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    raw::refuse_launches_after(left.parse().unwrap());
    write_unseen(&first(&net.weights[0]), 1.0);
    let log = Log::default();
    assert!(log.during(|| net.runs(&xs)));
    assert_eq!(warnings(&log.lines(), ""), 1, "{:?}", log.lines());
    assert_eq!(net.hit(&xs), (0, 2));
    write_unseen(&first(&net.weights[1]), 1.0);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), (0, 2));
    assert_eq!(net.cache.stats().bypassed, 0);
}

/// The digest of a time when the host hashed is not used once the device has noticed a write.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_write_to_a_shared_tensor_stays_noticed_when_the_host_hashes_again() {
    // The shared tensors are hashed first, then the rows.
    let this = a_write_to_a_shared_tensor_stays_noticed_when_the_host_hashes_again;
    let Some(left) = value_in_own_process(this, LEFT, &["0", "1"]) else {
        return;
    };
    raw::hold_loading(true);
    let xs = unawaited(&[4, 300, 300]);
    let masks = [unawaited(&[300, 300]), unawaited(&[300, 300])];
    let call = || {
        let given = masked(&xs, &masks);
        assert!(same(&given, &(&xs * &masks[0] + &masks[1])));
        counts(masked_cache())
    };
    assert_eq!(call(), (4, 0, 0));
    finish_loading();
    let _ = masks[0].data().fill_(0.5);
    assert_eq!(call(), (8, 0, 0));
    raw::refuse_launches_after(left.parse().unwrap());
    assert_eq!(call(), (8, 4, 0));
    let _ = masks[0].data().fill_(0.25);
    assert_eq!(call(), (12, 4, 0));
}

#[torchcache]
#[derive(Debug)]
struct Locked {
    weight: Arc<Mutex<Tensor>>,
    cache: TorchCache,
}

#[torchcache]
impl Module for Locked {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2.0
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn events_of_hashing_weights_are_emitted_when_their_lock_is_free() {
    if !in_own_process(
        events_of_hashing_weights_are_emitted_when_their_lock_is_free,
        &[],
    ) {
        return;
    }
    raw::hold_loading(true);
    let weight = unawaited(&[300, 300]);
    let net = Locked {
        weight: Arc::new(Mutex::new(weight)),
        cache: TorchCache::default(),
    };
    // Rows on the CPU: all work on the device is that for the weight.
    let xs = Tensor::randn([2, 2], (Kind::Float, Device::Cpu));
    net.forward(&xs);
    raw::hold_loading(false);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (weight, events) = (net.weight.clone(), seen.clone());
    let subscriber = OnEvent(move |event: &tracing::Event<'_>| {
        let is_free = weight.try_lock().is_ok();
        events
            .lock()
            .unwrap()
            .push((*event.metadata().level(), is_free));
    });
    let call = || {
        net.cache.refresh();
        assert!(same(&net.forward(&xs), &(&xs * 2.0)));
    };
    tracing::subscriber::with_default(subscriber, || {
        while raw::launches() == 0 {
            call();
        }
        raw::refuse_launches_after(0);
        call();
    });
    let seen = seen.lock().unwrap();
    let warnings = seen.iter().filter(|(level, _)| *level == Level::WARN);
    assert_eq!(warnings.count(), 1, "{seen:?}");
    assert!(
        seen.iter().any(|(level, _)| *level == Level::INFO),
        "{seen:?}"
    );
    assert!(seen.iter().all(|(_, is_free)| *is_free), "{seen:?}");
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn kernels_whose_test_lacks_memory_are_tested_again() {
    if !in_own_process(kernels_whose_test_lacks_memory_are_tested_again, &[]) {
        return;
    }
    raw::hold_loading(true);
    let xs = unawaited(&[5, 40_000]);
    ones_on_the_host(&xs);
    raw::hold_loading(false);
    let limit = DeviceMemoryLimit::leave(100);
    let log = Log::default();
    let failed = || events(&log.lines(), "DEBUG", "tests hashing on cuda:0 again");
    while failed() + warnings(&log.lines(), "") == 0 {
        log.during(|| ones_on_the_host(&xs));
    }
    drop(limit);
    assert_eq!(failed(), 1, "{:?}", log.lines());
    assert!(wait_for_kernels(0));
}

/// Of the sums of the weights, and of the digests of the rows.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn where_a_copy_of_sums_or_digests_fails_nothing_is_computed_again() {
    const FAILED: &str = "TORCHCACHE_TEST_COPY";
    let this = where_a_copy_of_sums_or_digests_fails_nothing_is_computed_again;
    let Some(failed) = value_in_own_process(this, FAILED, &["0", "1"]) else {
        return;
    };
    let warned = usize::from(failed == "1");
    let xs = random(&[4, 2]);
    let net = Weighted::new(vec![random(&[5]), random(&[300, 400])]);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    let expected = net.forward(&xs);
    let misses = net.cache.stats().misses;
    let number: u64 = failed.parse().unwrap();
    let failing = FailingCopies::start(number..number + 1);
    let log = Log::default();
    let before = raw::waits().synchronizations;
    let given = log.during(|| net.forward(&xs));
    assert_eq!(failing.count(), 1);
    drop(failing);
    // The kernel may still read the table of the sample, which is recorded again.
    let waited = raw::waits().synchronizations - before;
    assert_eq!(waited, u64::from(number == 0));
    assert!(same(&given, &expected));
    let lines = log.lines();
    assert_eq!(
        warnings(&lines, "hashing there failed"),
        warned,
        "{lines:?}"
    );
    assert_eq!(warnings(&lines, ""), warned, "{lines:?}");
    assert!(!net.runs(&xs));
    assert_eq!(net.cache.stats().misses, misses);
    write_unseen(&first(&net.weights[1]), 1.0);
    assert!(net.runs(&xs));
}

/// Also the first copy, which is that of the digests: once that has failed, the host hashes.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn where_a_copy_from_the_device_fails_a_call_takes_one_forward_at_most() {
    const FIRST: &str = "TORCHCACHE_TEST_COPY";
    let this = where_a_copy_from_the_device_fails_a_call_takes_one_forward_at_most;
    let Some(first) = value_in_own_process(this, FIRST, &["0", "1"]) else {
        return;
    };
    fail_copies_from(first.parse().unwrap());
    assert_eq!(wait_for_kernels(0), first == "1");
}

/// Wherever rows are kept, and where the output is: each copy from one on, alone and with all later ones.
fn fail_copies_from(first: u64) {
    let xs = random(&[5, 1_000]);
    let doubled = &xs * 2.0;
    let places = [CUDA, Device::Cpu];
    let tiers = places
        .into_iter()
        .flat_map(|memory| [(memory, false), (memory, true)]);
    let nets = tiers.flat_map(|tier| places.map(|output| (tier, output)));
    for ((memory, persistent), output) in nets {
        let name = format!("memory on {memory:?}, persistent: {persistent}, output on {output:?}");
        let expected = doubled.to_device(output);
        let forwards = Arc::new(AtomicUsize::new(0));
        let forward = {
            let forwards = forwards.clone();
            nn::func(move |xs| {
                forwards.fetch_add(1, SeqCst);
                FailingCopies::exempt(|| (xs * 2.0).to_device(output))
            })
        };
        let options = Options::builder().version(&name).persistent(persistent);
        let options = options.memory_cache_device(Some(memory)).build().unwrap();
        let net = Cached::new(forward, (), options).unwrap();
        let call = || {
            let before = forwards.load(SeqCst);
            assert!(same(&net.forward(&xs), &expected), "{name}");
            forwards.load(SeqCst) - before
        };
        for (is_hit, are_many) in [(false, false), (false, true), (true, false), (true, true)] {
            for number in first.. {
                let name = format!("{name}, hit: {is_hit}, {number}, all: {are_many}");
                net.cache().clear();
                if is_hit {
                    assert_eq!(call(), 1, "{name}");
                }
                let before = forwards.load(SeqCst);
                let end = if are_many { u64::MAX } else { number + 1 };
                let failing = FailingCopies::start(number..end);
                let given = net.forward(&xs);
                let failed = failing.count();
                drop(failing);
                assert!(same(&given, &expected), "{name}");
                let forwards = forwards.load(SeqCst) - before;
                assert!(forwards <= 1, "{name}: {forwards}");
                call();
                assert_eq!(call(), 0, "{name}");
                if failed == 0 {
                    assert_eq!(forwards, usize::from(!is_hit), "{name}");
                    break;
                }
            }
        }
    }
}

#[torchcache]
fn ones_with(xs: &Tensor, #[shared] _: &[Tensor]) -> Tensor {
    Tensor::ones([xs.size()[0], 2], (Kind::Float, Device::Cpu))
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn copies_of_shared_tensors_take_bounded_memory_on_the_device() {
    if !in_own_process(
        copies_of_shared_tensors_take_bounded_memory_on_the_device,
        &[],
    ) {
        return;
    }
    const MIB: i64 = 1 << 20;
    let xs = random(&[5, 2]);
    let masks = [0.0, 1.0, 2.0].map(|value| {
        let byte = Tensor::full([1], value, (Kind::Uint8, CUDA));
        byte.expand([150 * MIB], false)
    });
    let limit = DeviceMemoryLimit::leave(350 * MIB as u64);
    let (_, copies) = counted(|| ones_with(&xs, &masks));
    drop(limit);
    // A digest of each 128 KiB, and of each row.
    assert_eq!(copies.bytes_from_device, (3 * 150 * 8 + 5) * 32);
}

/// The PTX that the library gives to the driver, run by an interpreter that checks every access.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn the_ptx_of_the_library_hashes_as_the_cpu_does() {
    if !in_own_process(the_ptx_of_the_library_hashes_as_the_cpu_does, &[]) {
        return;
    }
    raw::interpret_kernels();
    let xs = random(&[3, 40_000]);
    let launches = raw::launches();
    let masks = [random(&[40_000]), random(&[3, 40_000])];
    masked(&xs, &masks);
    assert!(raw::launches() > launches);
    let host = masks.each_ref().map(|mask| mask.to_device(Device::Cpu));
    masked(&xs.to_device(Device::Cpu), &host);
    assert_eq!(counts(masked_cache()), (3, 3, 0));
    let net = Weighted::new(vec![random(&[5]), random(&[300, 400])]);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs).1, BY_A_KERNEL.1);
    write_unseen(&first(&net.weights[1]), 1.0);
    assert!(net.runs(&xs));
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn no_context_stays_current() {
    assert_eq!(raw::contexts(), 0);
    ones(&random(&[3, 200_000]));
    assert_eq!(raw::contexts(), 0);
}
