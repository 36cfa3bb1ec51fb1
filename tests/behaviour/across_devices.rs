//! Rows and weights of one cache on the CPU and on every CUDA device: each finds what another one computed. On a
//! GPU, `TORCHCACHE_TEST_BYTES` makes the large ones as large as there is memory for.

use tch::{Cuda, Device, Kind, Tensor, nn};
use torchcache::__private::wait_for_kernels;
use torchcache::{Cached, Options, torchcache};

use crate::support::{Log, counts, same, version};

/// The CUDA devices, whose kernels are loaded and passed their test.
fn devices() -> Vec<Device> {
    let count = Cuda::device_count() as usize;
    assert!(count > 0, "there is no CUDA device");
    for device in 0..count {
        let log = Log::default();
        let is_used = log.during(|| wait_for_kernels(device));
        assert!(
            is_used,
            "cuda:{device} hashes nothing; TORCHCACHE_DEVICE_HASHING is `on` for these tests: {:?}",
            log.lines()
        );
    }
    (0..count).map(Device::Cuda).collect()
}

/// Runs something during which no device may leave its hashing to the host.
fn without_the_host<R>(run: impl FnOnce() -> R) -> R {
    let log = Log::default();
    let result = log.during(run);
    let lines = log.lines();
    let on_host = lines.iter().find(|line| line.contains("on the host"));
    assert_eq!(on_host, None);
    result
}

#[test]
#[ignore = "needs a CUDA device"]
fn each_device_computes_the_digests_of_the_host() {
    assert!(!devices().is_empty());
}

#[torchcache]
fn first_bytes(rows: &Tensor) -> Tensor {
    rows.narrow(1, 0, 1).contiguous()
}

/// Calls with rows on the host, and then with the same ones on each device.
#[track_caller]
fn assert_found_on_each_device(rows: &Tensor) {
    let host = rows.to_device(Device::Cpu);
    let expected = first_bytes(&host);
    let computed = counts(first_bytes_cache()).0;
    for device in devices() {
        let rows = match rows.device() == device {
            true => rows.shallow_clone(),
            false => rows.to_device(device),
        };
        let found = without_the_host(|| first_bytes(&rows));
        assert_eq!(found.device(), device);
        assert!(same(&found, &expected));
        assert_eq!(counts(first_bytes_cache()).0, computed, "{:?}", rows.size());
    }
}

/// Random bytes on the first device.
fn bytes(shape: &[i64]) -> Tensor {
    Tensor::randint(256, shape, (Kind::Uint8, Device::Cuda(0)))
}

#[test]
#[ignore = "needs a CUDA device"]
fn rows_of_any_length_and_alignment_are_found() {
    tch::manual_seed(1);
    let memory = bytes(&[5, 400_000]);
    let random =
        |below: i64| Tensor::randint(below, [1], (Kind::Int64, Device::Cpu)).int64_value(&[]);
    for round in 0..40 {
        // As many short rows as long ones.
        let length = 1 + random(1 << (2 + round % 17));
        let begin = random(memory.size()[1] - length);
        assert_found_on_each_device(&memory.narrow(1, begin, length));
        let strided = memory.slice(1, begin, begin + length, 1 + random(5));
        assert_found_on_each_device(&strided);
        assert_found_on_each_device(&memory.narrow(0, round % 5, 1).narrow(1, begin, length));
    }
    let transposed = bytes(&[300, 7, 11]).permute([1, 2, 0]);
    assert_found_on_each_device(&transposed);
    assert_found_on_each_device(&transposed.flip([2]));
    assert_found_on_each_device(&bytes(&[1, 3_000]).expand([9, 3_000], false));
}

/// How many bytes the large tensors of these tests have.
fn large() -> i64 {
    const VARIABLE: &str = "TORCHCACHE_TEST_BYTES";
    match std::env::var(VARIABLE) {
        Ok(bytes) => bytes
            .parse()
            .unwrap_or_else(|error| panic!("{VARIABLE}: {error}")),
        Err(_) => 8 << 20,
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn large_rows_are_found() {
    let memory = bytes(&[large()]);
    for rows in [1, 3, 256, large() / 4_096] {
        let length = large() / rows;
        assert_found_on_each_device(&memory.narrow(0, 0, rows * length).view([rows, length]));
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn large_weights_have_one_module_hash() {
    let float = (Kind::Float, Device::Cuda(0));
    let weights = [
        Tensor::rand([large() / 1_024, 256], float),
        Tensor::rand([3, 5], float),
    ];
    let hash = |device: Device| {
        let mut vs = nn::VarStore::new(device);
        for (name, weight) in ["large", "small"].iter().zip(&weights) {
            vs.root().var_copy(name, weight);
        }
        vs.freeze();
        let net = Cached::shared(nn::func(|xs| xs * 2.0), &vs, version("large weights")).unwrap();
        let xs = Tensor::zeros([1, 1], (Kind::Float, device));
        without_the_host(|| net.forward(&xs));
        net.cache().module_hash().expect("it was called")
    };
    let host = hash(Device::Cpu);
    for device in devices() {
        assert_eq!(hash(device), host, "{device:?}");
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn rows_on_disk_are_found_from_every_device() {
    let directory = tempfile::tempdir().unwrap();
    let net = || {
        let options = Options::builder()
            .version("every device")
            .persistent(true)
            .persistent_cache_dir(directory.path());
        Cached::shared(nn::func(|xs| xs * 2.0), (), options.build().unwrap()).unwrap()
    };
    let mut everywhere = vec![Device::Cpu];
    everywhere.extend(devices());
    for &computes in &everywhere {
        let xs = Tensor::randn([5, 3_000], (Kind::Float, computes));
        let first = net();
        assert!(same(&first.forward(&xs), &(&xs * 2.0)));
        first.cache().flush().unwrap();
        // Dropped, with its rows in memory.
        drop(first);
        for &finds in &everywhere {
            let again = net();
            let found = again.forward(&xs.to_device(finds));
            assert_eq!(found.device(), finds);
            assert!(same(&found, &(&xs * 2.0)));
            assert_eq!(counts(again.cache()), (0, 0, 5), "{computes:?}, {finds:?}");
        }
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn rows_in_memory_of_one_device_are_found_from_another() {
    let options = Options::builder()
        .memory_cache_device(None)
        .version("in memory");
    let net = Cached::new(nn::func(|xs| xs * 2.0), (), options.build().unwrap()).unwrap();
    let devices = devices();
    for round in 0..3 {
        for &computes in &devices {
            let before = counts(net.cache());
            let xs = Tensor::randn([7, 1_000], (Kind::Float, computes));
            let mixed =
                |device| Tensor::cat(&[xs.flip([0]), xs.shallow_clone()], 0).to_device(device);
            assert!(same(&net.forward(&xs), &(&xs * 2.0)));
            for &finds in &devices {
                let mixed = mixed(finds);
                let found = net.forward(&mixed);
                assert_eq!(found.device(), finds);
                assert!(
                    same(&found, &(&mixed * 2.0)),
                    "{round}, {computes:?}, {finds:?}"
                );
            }
            assert_eq!(counts(net.cache()).0 - before.0, 7);
        }
    }
}
