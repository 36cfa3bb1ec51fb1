//! Hashing on a CUDA device, by the kernels of the library. The fake device runs them from their source on the host,
//! and counts copies, which a GPU does not.

use std::path::PathBuf;

use tch::nn::Module;
use tch::{Device, Kind, Tensor, nn};
use torchcache::__private::wait_for_kernels;
use torchcache::{Cached, Options, OptionsBuilder, TorchCache, torchcache};

use crate::device_copies::counted;
use crate::raw::{self, CurrentStream};
use crate::support::{counts, same};

pub(crate) const CUDA: Device = Device::Cuda(0);

/// Random floats on the device, whose kernels are loaded.
pub(crate) fn random(shape: &[i64]) -> Tensor {
    assert!(wait_for_kernels(0), "the kernels of the device are used");
    Tensor::randn(shape, (Kind::Float, CUDA))
}

/// What `run` returns. On the fake device it copies so often, and so many bytes, from the device.
#[track_caller]
fn assert_copies<R>(expected: (u64, u64), name: &str, run: impl FnOnce() -> R) -> R {
    if raw::copies().is_none() {
        return run();
    }
    let (result, copies) = counted(run);
    assert_eq!(
        (copies.from_device, copies.bytes_from_device),
        expected,
        "{name}"
    );
    result
}

#[torchcache]
pub(crate) fn ones(xs: &Tensor) -> Tensor {
    ones_for(xs)
}

fn ones_for(xs: &Tensor) -> Tensor {
    Tensor::ones([xs.size()[0], 2], (Kind::Float, xs.device()))
}

/// Calls twice, and finds the rows in memory: the second call copies the digests of so many rows.
#[track_caller]
fn assert_digests_copied<R>(cache: &TorchCache, rows: u64, digests: u64, call: impl Fn() -> R) {
    call();
    let before = counts(cache);
    assert_copies((1, digests * 32), "a hit", call);
    assert_eq!(counts(cache), (before.0, before.1 + rows, before.2));
}

/// libtorch may give the memory of a table to another thread whose default stream this is.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn on_the_default_stream_of_a_thread_the_host_hashes() {
    let xs = random(&[5, 1_000]);
    ones(&xs);
    let launches = raw::launches();
    let stream = CurrentStream::set(2);
    let (_, copies) = counted(|| ones(&xs));
    assert_eq!(copies.bytes_from_device, 5 * 4_000);
    assert_eq!(raw::launches(), launches);
    drop(stream);
    let (_, copies) = counted(|| ones(&xs));
    assert_eq!(copies.bytes_from_device, 5 * 32);
    assert_eq!(counts(ones_cache()), (5, 10, 0));
}

#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn keys_of_all_arguments_come_in_one_copy() {
    #[torchcache]
    fn one(first: &Tensor) -> Tensor {
        ones_for(first)
    }
    #[torchcache]
    fn two(first: &Tensor, _: &Tensor) -> Tensor {
        ones_for(first)
    }
    #[torchcache]
    fn three(first: &Tensor, _: &Tensor, _: &Tensor) -> Tensor {
        ones_for(first)
    }
    let (floats, long) = (random(&[5, 1_000]), random(&[5, 40_000]));
    let bytes = random(&[5, 3, 7]).gt(0.0);
    assert_digests_copied(one_cache(), 5, 5, || one(&floats));
    assert_digests_copied(two_cache(), 5, 10, || two(&floats, &long));
    let call = || three(&floats, &long, &bytes);
    assert_digests_copied(three_cache(), 5, 15, call);
    let host = long.to_device(Device::Cpu);
    assert_digests_copied(three_cache(), 5, 10, || three(&floats, &host, &bytes));
    let misses = three_cache().stats().misses;
    assert_eq!(misses, 10, "and once to show on which device the output is");
}

/// A tensor of each layout that rows are hashed in, and how many of its rows are.
fn layouts() -> Vec<(&'static str, Tensor, u64)> {
    let floats = || random(&[6, 40, 30]);
    let long = || random(&[6, 40_000]);
    let complex = || Tensor::complex(&random(&[6, 50]), &random(&[6, 50]));
    let integers = |kind| (floats() * 100.0).to_kind(kind);
    vec![
        ("contiguous", floats(), 6),
        ("long rows", long(), 6),
        ("one row", long().narrow(0, 2, 1), 1),
        ("every other row", floats().slice(0, 1, 6, 2), 3),
        ("the middle of rows", long().narrow(1, 3, 20_001), 6),
        ("transposed", floats().transpose(1, 2), 6),
        ("columns as rows", floats().permute([2, 0, 1]), 30),
        ("one element of a row", long().narrow(1, 7, 1), 6),
        ("one dimension", long().select(1, 7), 6),
        (
            "expanded rows",
            floats().narrow(0, 1, 1).expand([9, 40, 30], false),
            1,
        ),
        (
            "expanded in rows",
            long().narrow(1, 0, 1).expand([6, 70], false),
            6,
        ),
        (
            "expanded in long rows",
            floats().narrow(1, 0, 1).expand([6, 4_000, 30], false),
            6,
        ),
        ("bf16", floats().to_kind(Kind::BFloat16), 6),
        ("half", floats().to_kind(Kind::Half).narrow(0, 1, 5), 5),
        ("double", floats().to_kind(Kind::Double), 6),
        ("bool", floats().gt(0.0), 6),
        ("int8", integers(Kind::Int8).slice(0, 0, 6, 3), 2),
        ("int64", integers(Kind::Int64), 6),
        ("complex", complex(), 6),
        ("conjugated", complex().conj(), 6),
        ("imaginary parts", complex().imag(), 6),
        ("negated", complex().conj().imag(), 6),
        (
            "transposed, in two parts",
            random(&[3_001, 2_003]).tr(),
            2_003,
        ),
    ]
}

#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn keys_of_every_layout_are_those_of_the_cpu() {
    for (name, xs, hashed) in layouts() {
        let rows = xs.size()[0] as u64;
        let before = counts(ones_cache());
        ones(&xs.to_device(Device::Cpu));
        let computed = counts(ones_cache()).0 - before.0;
        let distinct = if hashed == 1 { 1 } else { rows };
        assert_eq!(computed, distinct, "{name}: not computed before");
        let given = assert_copies((1, hashed * 32), name, || ones(&xs));
        assert_eq!(given.device(), CUDA);
        assert_eq!(counts(ones_cache()).0, before.0 + computed, "{name}");
    }
}

/// Nothing is copied for rows without bytes.
#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn empty_rows_and_batches_are_keyed_as_on_the_cpu() {
    #[torchcache]
    fn one(first: &Tensor) -> Tensor {
        ones_for(first)
    }
    #[torchcache]
    fn two(first: &Tensor, _: &Tensor) -> Tensor {
        ones_for(first)
    }
    let floats = random(&[5, 3]);
    for empty in [floats.narrow(1, 1, 0), floats.narrow(0, 0, 0)] {
        one(&empty.to_device(Device::Cpu));
        let given = assert_copies((0, 0), "empty", || one(&empty));
        assert_eq!(given.size(), [empty.size()[0], 2]);
        assert_eq!(one_cache().stats().misses, 1);
    }
    // With another argument, which the device hashes.
    let empty = floats.narrow(1, 1, 0);
    assert_digests_copied(two_cache(), 5, 5, || two(&empty, &floats));
}

pub(crate) fn doubling<F: FnOnce(OptionsBuilder) -> OptionsBuilder>(
    version: &str,
    set: F,
) -> Cached<impl Module + use<F>> {
    let options = set(Options::builder().version(version)).build().unwrap();
    Cached::new(nn::func(|xs| xs * 2.0), (), options).unwrap()
}

#[torchcache(persistent = true)]
#[derive(Debug)]
struct OnDisk {
    torchcache_persistent_cache_dir: PathBuf,
    cache: TorchCache,
}

#[torchcache]
impl nn::Module for OnDisk {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2.0
    }
}

#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn rows_on_disk_are_found_from_either_device() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = [(); 2].map(|()| random(&[5, 3_000]));
    for (step, xs, found) in [
        ("computed on the host", first.to_device(Device::Cpu), 0),
        ("found on the device", first.shallow_clone(), 5),
        ("computed on the device", second.shallow_clone(), 0),
        ("found on the host", second.to_device(Device::Cpu), 5),
    ] {
        // Dropped at the end of the step, with its rows in memory.
        let net = OnDisk {
            torchcache_persistent_cache_dir: directory.path().to_owned(),
            cache: TorchCache::default(),
        };
        assert!(same(&net.forward(&xs), &(&xs * 2.0)), "{step}");
        assert_eq!(counts(&net.cache), (5 - found, 0, found), "{step}");
        net.cache.flush().unwrap();
    }
}

#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn samples_of_rows_are_hashed_on_the_device() {
    let xs = random(&[5, 12, 10]);
    for (samples, xs) in [
        (40, xs.shallow_clone()),
        (7, xs.shallow_clone()),
        (7, xs.permute([1, 2, 0])),
        (7, xs.narrow(0, 0, 1).expand([5, 12, 10], false)),
        (500, xs.shallow_clone()),
        // Rows that are copied in two parts.
        (7, random(&[3_001, 2_003]).tr()),
    ] {
        let net = doubling(&format!("{samples} samples"), |options| {
            options.subsample_count(samples)
        });
        let (rows, hashed) = match xs.stride()[0] {
            0 => (5, 1),
            _ => (xs.size()[0] as u64, xs.size()[0] as u64),
        };
        net.forward(&xs.to_device(Device::Cpu));
        let computed = counts(net.cache()).0;
        let given = assert_copies((1, hashed * 32), "samples", || net.forward(&xs));
        assert!(same(&given, &(&xs * 2.0)));
        let stats = net.cache().stats();
        assert_eq!((stats.rows, stats.misses), (2 * rows, computed));
    }
}

#[torchcache(subsample_count = 40)]
fn sampled(xs: &Tensor) -> Tensor {
    ones_for(xs)
}

/// 256 MiB is the most that is copied on a device.
#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn a_row_that_the_device_cannot_hash_leaves_it_the_others() {
    #[torchcache]
    fn two(first: &Tensor, _: &Tensor) -> Tensor {
        ones_for(first)
    }
    const BYTES: i64 = (256 << 20) + 1;
    let short = random(&[1, 1_000]);
    let byte = Tensor::full([1, 1], 7, (Kind::Uint8, CUDA));
    let expanded = byte.expand([1, BYTES], false);
    two(&short, &expanded);
    if raw::copies().is_some() {
        let (_, copies) = counted(|| two(&short, &expanded));
        assert_eq!(copies.bytes_from_device, 32 + BYTES as u64);
    }
    assert_eq!(counts(two_cache()), (1, 1, 0));
    // Of a contiguous row only the samples are copied.
    let long = Tensor::zeros([1, BYTES], (Kind::Uint8, CUDA));
    assert_digests_copied(sampled_cache(), 1, 1, || sampled(&long));
}

#[torchcache]
pub(crate) fn masked(xs: &Tensor, #[shared] masks: &[Tensor]) -> Tensor {
    xs * &masks[0] + &masks[1]
}

#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn unseen_writes_to_shared_tensors_are_noticed() {
    let xs = random(&[4, 300, 300]);
    // Larger than what is compared at each call without kernels. The second one has gaps.
    let masks = [random(&[300, 300]), random(&[300, 600]).slice(1, 0, 600, 2)];
    let expected = || &xs * &masks[0] + &masks[1];
    assert!(same(&masked(&xs, &masks), &expected()));
    // The digests of three pieces of each mask, and those of the rows.
    let given = assert_copies((1, (2 * 3 + 4) * 32), "a hit", || masked(&xs, &masks));
    assert!(same(&given, &expected()));
    assert_eq!(counts(masked_cache()), (4, 4, 0));
    for (step, mask) in masks.iter().enumerate() {
        // At the end, in the last piece.
        let _ = mask.narrow(0, 299, 1).narrow(1, 299, 1).data().fill_(0.5);
        assert!(same(&masked(&xs, &masks), &expected()));
        assert_eq!(counts(masked_cache()), (4 * (step as u64 + 2), 4, 0));
    }
    let host = masks.each_ref().map(|mask| mask.to_device(Device::Cpu));
    masked(&xs.to_device(Device::Cpu), &host);
    assert_eq!(counts(masked_cache()), (12, 8, 0), "hashed as on the CPU");
}

#[test]
#[ignore = "needs a CUDA device whose kernels are on: cargo xtask test --device fake"]
fn weights_have_the_same_module_hash_on_each_device() {
    let weights = [random(&[300, 300]), random(&[3])];
    let hash = |device: Device| {
        let vs = nn::VarStore::new(device);
        for (weight, name) in weights.iter().zip(["first", "second"]) {
            vs.root().var_copy(name, weight);
        }
        let options = Options::builder().version("weights").build().unwrap();
        let net = Cached::new(nn::func(|xs| xs * 2.0), &vs, options).unwrap();
        net.cache().module_hash()
    };
    if raw::copies().is_some() {
        let (_, copies) = counted(|| hash(CUDA));
        assert!(copies.bytes_from_device < 1_000, "of 360,012 bytes");
    }
    assert_eq!(hash(Device::Cpu), hash(CUDA));
}
