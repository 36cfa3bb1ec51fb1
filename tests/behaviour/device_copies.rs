//! Copies between host and device, which the fake CUDA device counts. It also protects its memory from the
//! host, so that the rest of the suite shows that nothing but libtorch reads it.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use tch::nn::ModuleT;
use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options};

use crate::raw::{self, Copies};
use crate::support::{Scale, counts, device, random, same};

/// What `run` returns, and the copies that were made.
fn counted<R>(run: impl FnOnce() -> R) -> (R, Copies) {
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
    let host = Tensor::rand([3, 2], (Kind::Float, Device::Cpu));
    let (there, copies) = counted(|| host.to_device(device()));
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
    let expected = Copies {
        to_device: 1,
        bytes_to_device: 60,
        from_device: 1,
        bytes_from_device: 60,
    };
    assert_eq!(copies, expected);
}

/// Each small weight is compared on the host, in a copy of its own.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_hit_of_a_frozen_resnet_makes_83_copies() {
    let mut vs = nn::VarStore::new(device());
    let net = tch::vision::resnet::resnet18_no_final_layer(&vs.root());
    vs.freeze();
    let net = Cached::new(net, &vs, Options::default()).unwrap();
    let copies = of_a_hit(&net, &random(&[2, 3, 32, 32]));
    assert_eq!(counts(net.cache()), (2, 2, 0));
    assert_eq!((copies.from_device, copies.to_device), (83, 1));
}
