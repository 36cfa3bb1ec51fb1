//! Copies between host and device, which the fake CUDA device counts. It also protects its memory from the
//! host, so that the rest of the suite shows that nothing but libtorch reads it.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Mutex;

use tch::nn::{Module, ModuleT, OptimizerConfig};
use tch::{Device, Kind, Tensor, nn};
use torchcache::__private::wait_for_kernels;
use torchcache::{Cached, Eviction, Options, OptionsBuilder, torchcache};

use crate::raw::{self, Copies, DeviceMemoryLimit};
use crate::support::{Scale, counts, device, random, same};

/// What `run` returns, and the copies that were made.
pub(crate) fn counted<R>(run: impl FnOnce() -> R) -> (R, Copies) {
    let copies = || raw::copies().expect("the fake CUDA device");
    let before = copies();
    let result = run();
    let after = copies();
    let made = Copies {
        to_device: after.to_device - before.to_device,
        bytes_to_device: after.bytes_to_device - before.bytes_to_device,
        from_device: after.from_device - before.from_device,
        bytes_from_device: after.bytes_from_device - before.bytes_from_device,
    };
    (result, made)
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn copies_are_counted_in_each_direction() {
    let (host, device) = (Tensor::rand([3, 2], (Kind::Float, Device::Cpu)), device());
    let (there, copies) = counted(|| host.to_device(device));
    let expected = Copies {
        to_device: 1,
        bytes_to_device: 24,
        ..Copies::default()
    };
    assert_eq!(copies, expected);
    let (doubled, copies) = counted(|| &there * 2.0);
    assert_eq!(copies, Copies::default());
    let (back, copies) = counted(|| doubled.narrow(0, 0, 2).to_device(Device::Cpu));
    let expected = Copies {
        from_device: 1,
        bytes_from_device: 16,
        ..Copies::default()
    };
    assert_eq!(copies, expected);
    assert!(same(&back, &(host.narrow(0, 0, 2) * 2.0)));
    let (_, copies) = counted(|| there.sum(Kind::Float).double_value(&[]));
    assert_eq!(copies.from_device, 1);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn tensors_of_two_devices_cannot_be_added() {
    let (one, two) = (random(&[3]), random(&[3]).to_device(Device::Cpu));
    let error = one.f_add(&two).unwrap_err().to_string();
    assert!(error.contains("same device"), "{error}");
    one.f_add(&random(&[3])).unwrap();
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn reading_device_memory_on_the_host_ends_the_process() {
    const READ: &str = "TORCHCACHE_TEST_READ";
    let tensor = random(&[3]);
    if std::env::var_os(READ).is_some() {
        raw::read_on_host(&tensor.to_device(Device::Cpu));
        println!("read on the host");
        raw::read_on_host(&tensor);
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "device_copies::reading_device_memory_on_the_host_ends_the_process";
    command.args(["--exact", name, "--include-ignored", "--nocapture"]);
    let output = command.env(READ, "1").output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("read on the host"));
}

/// The copies from the device, and their bytes, that hashing takes: the digests of all rows, or the tensors.
fn hashed(tensors: &[&Tensor]) -> (u64, u64) {
    if wait_for_kernels(0) {
        let rows: i64 = tensors.iter().map(|tensor| tensor.size()[0]).sum();
        return (1, 32 * rows as u64);
    }
    let bytes = |tensor: &&Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    let bytes: usize = tensors.iter().map(bytes).sum();
    (tensors.len() as u64, bytes as u64)
}

/// The copies of a call that finds its rows in memory.
fn of_a_hit(module: &impl ModuleT, xs: &Tensor) -> Copies {
    let expected = module.forward_t(xs, false);
    let (found, copies) = counted(|| module.forward_t(xs, false));
    assert!(same(&found, &expected));
    copies
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_hit_without_weights_copies_its_input_and_its_rows() {
    let (model, xs) = (Scale::by(2.0), random(&[5, 3]));
    let copies = of_a_hit(&model, &xs);
    assert_eq!(counts(&model.cache), (5, 5, 0));
    let (from_device, bytes_from_device) = hashed(&[&xs]);
    let expected = Copies {
        to_device: 1,
        bytes_to_device: 60,
        from_device,
        bytes_from_device,
    };
    assert_eq!(copies, expected);
}

/// The weights are compared on the host: sums over a sample of all of them, in one copy, and by one launch where there
/// are kernels; another one hashes the rows.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_hit_of_a_resnet_copies_its_weights_once() {
    let mut vs = nn::VarStore::new(device());
    let net = tch::vision::resnet::resnet18_no_final_layer(&vs.root());
    let net = Cached::new(net, &vs, Options::default()).unwrap();
    let xs = random(&[2, 3, 32, 32]);
    let (_, input) = hashed(&[&xs]);
    for step in ["frozen", "not frozen", "with gradients"] {
        match step {
            "frozen" => vs.freeze(),
            "not frozen" => vs.unfreeze(),
            _ => {
                let loss = net.module().forward_t(&xs, false).square().sum(Kind::Float);
                loss.backward();
            }
        }
        let copies = tch::no_grad(|| of_a_hit(&net, &xs));
        assert_eq!((copies.from_device, copies.to_device), (2, 1), "{step}");
        let launches = raw::launches();
        tch::no_grad(|| net.forward_t(&xs, false));
        let expected = if wait_for_kernels(0) { 2 } else { 0 };
        assert_eq!(raw::launches() - launches, expected, "{step}");
        let sampled = copies.bytes_from_device - input;
        assert!(sampled < 10_000, "{step}: {sampled} of 46,800,000 bytes");
    }
    assert_eq!(net.cache().stats().bypassed, 0);
}

/// The bytes of a row of [`ROWS`].
pub(crate) const ROW_BYTES: u64 = 4_000;

pub(crate) const ROWS: u64 = 5;

pub(crate) fn doubling(
    version: &str,
    set: impl FnOnce(OptionsBuilder) -> OptionsBuilder,
) -> Cached<impl Module> {
    let options = set(Options::builder().version(version)).build().unwrap();
    Cached::new(nn::func(|xs| xs * 2.0), (), options).unwrap()
}

/// The number of copies, and how many rows they have: from the device, except for hashing these tensors, and to it.
pub(crate) fn rows_of(copies: Copies, inputs: &[&Tensor]) -> [(u64, u64); 2] {
    let rows = |bytes: u64| bytes / ROW_BYTES;
    let (hashed, bytes_hashed) = hashed(inputs);
    let bytes_from_device = copies.bytes_from_device - bytes_hashed;
    [
        (copies.from_device - hashed, rows(bytes_from_device)),
        (copies.to_device, rows(copies.bytes_to_device)),
    ]
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_that_no_tier_keeps_are_not_copied() {
    let xs = random(&[ROWS as i64, 1_000]);
    let directory = tempfile::tempdir().unwrap();
    // Room for that many rows in memory, and whether there is a disk; how many rows are copied.
    for (room, is_persistent, copies) in [
        (0, false, (0, 0)),
        (2, false, (1, 2)),
        (10, false, (1, 5)),
        (0, true, (1, 5)),
        (2, true, (1, 5)),
        (10, true, (1, 5)),
    ] {
        let name = format!("{room} rows, persistent: {is_persistent}");
        let net = doubling(&name, |options| {
            let options = options
                .max_memory_cache_size(room * (ROW_BYTES + 200))
                .eviction(Eviction::Never);
            match is_persistent {
                false => options,
                true => options
                    .persistent(true)
                    .persistent_cache_dir(directory.path()),
            }
        });
        net.forward(&xs.narrow(0, 0, 0));
        let (given, made) = counted(|| net.forward(&xs));
        assert!(same(&given, &(&xs * 2.0)));
        assert_eq!(rows_of(made, &[&xs]), [copies, (0, 0)], "{name}");
        net.cache().flush().unwrap();
        assert!(same(&net.forward(&xs), &(&xs * 2.0)));
        let kept = if is_persistent { ROWS } else { room.min(ROWS) };
        assert_eq!(net.cache().stats().hits(), kept, "{name}");
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_on_the_device_move_without_copies() {
    let net = doubling("on the device", |options| options.memory_cache_device(None));
    let xs = random(&[ROWS as i64, 1_000]);
    let copies_of = |xs: &Tensor| {
        let (given, copies) = counted(|| net.forward(xs));
        assert!(same(&given, &(xs * 2.0)));
        rows_of(copies, &[xs])
    };
    let (none, index) = ((0, 0), (1, 0));
    assert_eq!(copies_of(&xs), [none, none], "computed");
    assert_eq!(copies_of(&xs), [none, none], "found");
    assert_eq!(copies_of(&xs.narrow(0, 1, 3)), [none, none], "some");
    assert_eq!(copies_of(&xs.flip([0])), [none, index], "in another order");
    assert_eq!(counts(net.cache()), (5, 13, 0));
}

#[torchcache]
fn sum(first: &Tensor, second: &Tensor) -> Tensor {
    first + second
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn missing_rows_of_all_arguments_are_selected_by_one_index() {
    let (first, second) = (random(&[8, 1_000]), random(&[8, 1_000]));
    let select = |rows: &[i64]| {
        let index = Tensor::from_slice(rows).to_device(device());
        [
            first.index_select(0, &index),
            second.index_select(0, &index),
        ]
    };
    let copies_of = |rows: &[i64]| {
        let [first, second] = select(rows);
        let (given, copies) = counted(|| sum(&first, &second));
        assert!(same(&given, &(&first + &second)));
        rows_of(copies, &[&first, &second])
    };
    assert_eq!(copies_of(&[0, 1, 2]), [(1, 3), (0, 0)], "computed rows");
    // The rows in memory are copied to the device.
    assert_eq!(copies_of(&[0, 1, 3, 4]), [(1, 2), (1, 2)], "ranges");
    // And an index of the missing rows, and the places of all.
    assert_eq!(copies_of(&[0, 5, 1, 6]), [(1, 2), (3, 2)], "not ranges");
    assert_eq!(counts(sum_cache()), (7, 4, 0));
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn rows_that_the_device_cannot_hold_are_kept_on_the_host() {
    const MEGABYTE: u64 = 1 << 20;
    let outputs = Mutex::new(Vec::new());
    let double = nn::func(move |xs| {
        let output = xs * 2.0;
        outputs.lock().unwrap().push(output.shallow_clone());
        output
    });
    let options = Options::builder()
        .version("a full device")
        .memory_cache_device(None);
    let net = Cached::new(double, (), options.build().unwrap()).unwrap();
    let xs = random(&[5, MEGABYTE as i64 / 4]);
    let expected = &xs * 2.0;
    // For the output, which the forward keeps, and a copy of it.
    let limit = DeviceMemoryLimit::leave(10 * MEGABYTE + MEGABYTE / 2);
    let given = net.forward(&xs);
    drop(limit);
    assert!(same(&given, &expected));
    assert_eq!(net.cache().stats().faults.memory, 1);
    let (given, copies) = counted(|| net.forward(&xs));
    assert!(same(&given, &expected));
    assert_eq!(copies.bytes_to_device, 5 * MEGABYTE);
    assert_eq!(counts(net.cache()), (5, 5, 0));
}

/// Its elements may have changed: all weights are hashed, on the host.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn weights_that_cannot_be_sampled_are_hashed_again() {
    let mut vs = nn::VarStore::new(device());
    for number in 0..100 {
        vs.root()
            .randn_standard(&format!("small{number}"), &[100, 100]);
    }
    let factor = vs.root().zeros("factor", &[1]);
    vs.freeze();
    let factor_of = factor.shallow_clone();
    let options = Options::builder().version("sampled").build().unwrap();
    let net = Cached::new(nn::func(move |xs| xs * &factor_of), &vs, options).unwrap();
    let xs = random(&[4, 2]);
    let mut limit = None;
    for step in 0..4 {
        if step == 1 {
            limit = Some(DeviceMemoryLimit::leave(1 << 20));
        }
        if step == 2 {
            let _ = factor.data().fill_(3.0);
        }
        if step == 3 {
            drop(limit.take());
        }
        for _ in 0..2 {
            assert!(same(&net.forward(&xs), &(&xs * &factor)), "step {step}");
        }
    }
    assert_eq!(counts(net.cache()), (8, 24, 0));
    assert_eq!(net.cache().stats().bypassed, 0);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn gradients_that_are_released_free_their_memory() {
    const MEGABYTE: u64 = 1 << 20;
    let vs = nn::VarStore::new(device());
    // Of one megabyte, as its gradient is.
    let weight = vs.root().randn_standard("weight", &[512, 512]);
    let mut optimizer = nn::Sgd::default().build(&vs, 0.1).unwrap();
    let weight_of = weight.shallow_clone();
    let options = Options::builder().version("gradients").build().unwrap();
    let net = Cached::new(nn::func(move |xs| xs.matmul(&weight_of)), &vs, options).unwrap();
    weight.square().sum(Kind::Float).backward();
    let xs = random(&[2, 512]);
    tch::no_grad(|| {
        for _ in 0..2 {
            assert!(same(&net.forward(&xs), &xs.matmul(&weight)));
        }
    });
    assert_eq!(counts(net.cache()), (2, 2, 0));
    let limit = DeviceMemoryLimit::leave(MEGABYTE / 2);
    let megabyte = || Tensor::f_zeros([MEGABYTE as i64], (Kind::Uint8, device()));
    assert!(megabyte().is_err());
    optimizer.zero_grad();
    megabyte().unwrap();
    drop(limit);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn lengths_are_one_copy_and_rows_are_copied_up_to_the_longest() {
    #[torchcache]
    fn embed(#[padded(0)] ids: &Tensor, #[padded(0)] mask: &Tensor) -> Tensor {
        (ids * mask).sum_dim_intlist(1, true, Kind::Int64)
    }
    let texts = Tensor::from_slice(&[7i64, 5, 3, 0, 0, 9, 4, 0, 0, 0]).view([2, 5]);
    let ids = texts.to_device(device());
    let mask = ids.not_equal(0).to_kind(Kind::Int64);
    let expected = embed(&ids, &mask);
    let (found, copies) = counted(|| embed(&ids, &mask));
    assert!(same(&found, &expected));
    // The lengths of both tensors, and three places of each.
    let expected = (3, 2 * 8 + 2 * (2 * 3 * 8));
    assert_eq!((copies.from_device, copies.bytes_from_device), expected);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn padded_rows_with_ids_stay_on_the_device() {
    #[torchcache(memory_cache_device = None)]
    fn embed(#[padded(0)] ids: &Tensor, #[id] names: &[i64]) -> Tensor {
        assert_eq!(ids.size()[0] as usize, names.len());
        ids.sum_dim_intlist(1, true, Kind::Int64)
    }
    let texts = Tensor::from_slice(&[7i64, 5, 3, 0, 0, 9, 4, 0, 0, 0]).view([2, 5]);
    let ids = texts.to_device(device());
    embed(&ids, &[1, 2]);
    let (_, copies) = counted(|| embed(&ids, &[2, 1]));
    assert_eq!(copies.from_device, 0);
    let (_, copies) = counted(|| embed(&ids, &[2, 3]));
    assert_eq!(
        (copies.from_device, copies.bytes_from_device),
        (1, 2 * 8),
        "the lengths"
    );
}
