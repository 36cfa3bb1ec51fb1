//! Hits are where the forward would leave its output, also where the weights and arguments of a call are on other
//! devices than those of the call that computed them.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{counts, same};

const CPU: Device = Device::Cpu;
const CUDA: Device = Device::Cuda(0);

/// Rows from one number on.
fn rows(from: i64, count: i64, device: Device) -> Tensor {
    let xs = Tensor::arange_start(from, from + count, (Kind::Float, CPU));
    xs.view([count, 1]).to_device(device)
}

/// What a module multiplies its input by, and on whose device.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Product {
    factor: Tensor,
    #[torchcache(skip)]
    follows_input: bool,
    #[torchcache(skip)]
    forwards: Cell<usize>,
    torchcache_persistent_cache_dir: PathBuf,
    cache: TorchCache,
}

#[torchcache]
impl Module for Product {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.forwards.set(self.forwards.get() + 1);
        let device = if self.follows_input {
            xs.device()
        } else {
            self.factor.device()
        };
        xs.to_device(device) * self.factor.to_device(device)
    }
}

impl Product {
    fn new(directory: &Path, weights: Device, follows_input: bool) -> Self {
        Product {
            factor: Tensor::from_slice(&[3.0f32]).to_device(weights),
            follows_input,
            forwards: Cell::new(0),
            torchcache_persistent_cache_dir: directory.to_owned(),
            cache: TorchCache::default(),
        }
    }

    /// Calls with rows on a device. Returns how often the forward ran.
    #[track_caller]
    fn call(&self, from: i64, count: i64, input: Device) -> usize {
        let before = self.forwards.get();
        let given = self.forward(&rows(from, count, input));
        let expected = if self.follows_input {
            input
        } else {
            self.factor.device()
        };
        assert_eq!(given.device(), expected, "of an input on {input:?}");
        assert!(same(&given, &(rows(from, count, CPU) * 3.0)));
        self.forwards.get() - before
    }
}

/// The first call on the other device shows that the output follows the input, where the one before did not.
#[test]
#[ignore = "needs a CUDA device"]
fn hits_follow_the_input_and_not_the_weights() {
    let directory = tempfile::tempdir().unwrap();
    let new = |weights| Product::new(directory.path(), weights, true);
    let net = new(CPU);
    assert_eq!(net.call(0, 4, CPU), 1);
    assert_eq!(net.call(0, 4, CPU), 0);
    assert_eq!(
        net.call(0, 4, CUDA),
        1,
        "nothing shows what the output follows"
    );
    assert_eq!(net.call(0, 4, CUDA), 0);
    assert_eq!(net.call(0, 6, CUDA), 1, "two rows");
    assert_eq!(net.call(0, 6, CPU), 0);
    assert_eq!(net.call(4, 2, CUDA), 0);
    assert_eq!(counts(&net.cache).0, 4 + 4 + 2);
    drop(net);
    // A run on the GPU alone finds those of one on the CPU.
    let net = new(CUDA);
    assert_eq!(net.call(0, 6, CUDA), 0);
    drop(net);
    // The rows of a mixed call show it to other runs.
    let net = new(CPU);
    assert_eq!(net.call(4, 2, CUDA) + net.call(4, 2, CPU), 0);
    assert_eq!(net.call(0, 4, CUDA), 1);
}

#[test]
#[ignore = "needs a CUDA device"]
fn rows_computed_next_to_hits_show_where_the_output_is() {
    let directory = tempfile::tempdir().unwrap();
    let net = Product::new(directory.path(), CPU, true);
    assert_eq!(net.call(0, 2, CPU), 1);
    assert_eq!(net.call(0, 4, CUDA), 1);
    assert_eq!(counts(&net.cache).0, 2 + 4);
    assert_eq!(net.call(0, 4, CUDA), 0);
    assert_eq!(net.call(0, 4, CPU), 0);
}

#[test]
#[ignore = "needs a CUDA device"]
fn hits_follow_the_weights_and_not_the_input() {
    let directory = tempfile::tempdir().unwrap();
    let new = |weights| Product::new(directory.path(), weights, false);
    let net = new(CUDA);
    assert_eq!(net.call(0, 4, CPU), 1);
    assert_eq!(net.call(0, 4, CPU) + net.call(0, 4, CUDA), 0);
    let net = new(CPU);
    assert_eq!(net.call(0, 4, CUDA) + net.call(0, 4, CPU), 0);
    let net = new(CUDA);
    assert_eq!(net.call(0, 4, CUDA) + net.call(0, 4, CPU), 0);
}

/// The first argument stays on the CPU, as ids do that a program looks up by itself.
#[test]
#[ignore = "needs a CUDA device"]
fn hits_of_a_function_follow_the_argument_that_the_output_follows() {
    static FORWARDS: AtomicUsize = AtomicUsize::new(0);
    #[torchcache]
    fn looked_up(ids: &Tensor, xs: &Tensor) -> (Tensor, Tensor) {
        FORWARDS.fetch_add(1, SeqCst);
        (xs + ids.to_device(xs.device()), ids * 2.0)
    }
    let call = |from, xs| {
        let before = FORWARDS.load(SeqCst);
        let (sum, doubled) = looked_up(&rows(from, 3, CPU), &rows(from, 3, xs));
        assert_eq!((sum.device(), doubled.device()), (xs, CPU), "{from}");
        let expected = rows(from, 3, CPU) * 2.0;
        assert!(same(&sum, &expected) && same(&doubled, &expected));
        FORWARDS.load(SeqCst) - before
    };
    let from_mixed = [call(0, CUDA), call(0, CUDA), call(0, CPU), call(0, CUDA)];
    assert_eq!(from_mixed, [1, 0, 0, 0]);
    let from_cpu = [
        call(9, CPU),
        call(9, CPU),
        call(9, CUDA),
        call(9, CUDA),
        call(9, CPU),
    ];
    assert_eq!(from_cpu, [1, 0, 1, 0, 0]);
    let learned = [call(20, CPU), call(20, CUDA)];
    assert_eq!(learned, [1, 0], "of all rows of the function");
}

/// A list counts as one argument: a call shows for later ones what it does not show by itself.
#[test]
#[ignore = "needs a CUDA device"]
fn hits_of_lists_on_several_devices_are_where_the_output_was() {
    static FORWARDS: AtomicUsize = AtomicUsize::new(0);
    #[torchcache]
    fn summed(all: &[Tensor]) -> Tensor {
        FORWARDS.fetch_add(1, SeqCst);
        &all[1] + all[0].to_device(all[1].device())
    }
    for devices in [
        [CPU, CUDA],
        [CPU, CUDA],
        [CUDA, CUDA],
        [CUDA, CPU],
        [CUDA, CPU],
    ] {
        let sum = summed(&devices.map(|device| rows(0, 3, device)));
        assert_eq!(sum.device(), devices[1]);
    }
    assert_eq!(FORWARDS.load(SeqCst), 2);
}

/// On the CPU, wherever the call is.
#[test]
#[ignore = "needs a CUDA device"]
fn hits_on_a_device_of_no_tensor_stay_there() {
    #[torchcache]
    fn to_host(xs: &Tensor) -> Tensor {
        xs.to_device(CPU) * 2.0
    }
    for device in [CUDA, CUDA, CPU, CUDA] {
        assert_eq!(to_host(&rows(0, 3, device)).device(), CPU);
    }
    assert_eq!(counts(to_host_cache()), (3, 9, 0));
}

/// The recomputed rows are where the forward leaves them now, and the found ones elsewhere.
#[test]
#[ignore = "needs a CUDA device"]
fn verified_hits_are_compared_wherever_they_are() {
    #[torchcache(verify = 1.0)]
    fn to_host(xs: &Tensor) -> Tensor {
        xs.to_device(CPU) * 2.0
    }
    for device in [CPU, CUDA, CUDA] {
        to_host(&rows(0, 3, device));
    }
    let stats = to_host_cache().stats();
    assert_eq!(
        (stats.verified, stats.mismatched, stats.faults.memory),
        (6, 0, 0)
    );
}
