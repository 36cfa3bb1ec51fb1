//! Weights on a CUDA device that a kernel of the library compares: one launch and one copy for each call. Writes that
//! libtorch counts nowhere, as those of an optimiser, are found by their elements alone.

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::device_copies::counted;
use crate::device_hashing::{CUDA, random};
use crate::raw;
use crate::support::{Ran, counts, same};

/// `x * (the sum of all weights)`, counted.
#[torchcache]
#[derive(Debug)]
pub(crate) struct Weighted {
    pub(crate) weights: Vec<Tensor>,
    #[torchcache(skip)]
    ran: Ran,
    pub(crate) cache: TorchCache,
}

#[torchcache]
impl Module for Weighted {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.ran.note(xs);
        self.uncached(xs)
    }
}

impl Weighted {
    pub(crate) fn new(weights: Vec<Tensor>) -> Self {
        Weighted {
            weights,
            ran: Ran::default(),
            cache: TorchCache::default(),
        }
    }

    fn uncached(&self, xs: &Tensor) -> Tensor {
        let sums = self.weights.iter().map(|weight| weight.sum(Kind::Double));
        xs * sums.sum::<Tensor>()
    }

    /// Calls twice: both outputs are right, and the second call finds its rows. Whether the first one ran the forward.
    #[track_caller]
    pub(crate) fn runs(&self, xs: &Tensor) -> bool {
        let _guard = tch::no_grad_guard();
        self.ran.take();
        let expected = self.uncached(xs);
        assert!(same(&self.forward(xs), &expected));
        let (times, _) = self.ran.take();
        assert!(same(&self.forward(xs), &expected), "a hit");
        assert_eq!(self.ran.take(), (0, 0), "a hit");
        times == 1
    }

    /// The launches and the copies from the device of a call that finds its rows.
    #[track_caller]
    pub(crate) fn hit(&self, xs: &Tensor) -> (u64, u64) {
        let _guard = tch::no_grad_guard();
        assert!(!self.runs(xs), "a hit");
        let launches = raw::launches();
        let (_, copies) = counted(|| self.forward(xs));
        (raw::launches() - launches, copies.from_device)
    }
}

/// The keys of the rows are one launch and one copy.
pub(crate) const BY_A_KERNEL: (u64, u64) = (2, 2);

/// The first element in each dimension, as a tensor that shares its memory.
pub(crate) fn first(tensor: &Tensor) -> Tensor {
    let dimensions = 0..tensor.dim() as i64;
    dimensions.fold(tensor.shallow_clone(), |element, dimension| {
        element.narrow(dimension, 0, 1)
    })
}

/// Writes without a change of the version, as `nn::Sgd` does.
pub(crate) fn write_unseen(tensor: &Tensor, value: f64) {
    let _ = tensor.data().fill_(value);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn unseen_writes_to_weights_of_each_layout_are_noticed() {
    let layouts = [
        ("small", random(&[7, 5])),
        (
            "small, other order",
            random(&[2, 3, 4, 5]).permute([0, 3, 1, 2]),
        ),
        ("small, with gaps", random(&[20, 30]).slice(1, 0, 30, 2)),
        ("expanded", random(&[20, 1]).expand([20, 30], false)),
        ("scalar", random(&[1]).squeeze()),
        ("vector", random(&[300_001])),
        ("large", random(&[300, 400])),
        ("large, other order", random(&[400, 300]).tr()),
        ("large, with gaps", random(&[300, 400]).slice(1, 0, 400, 2)),
        ("short rows", random(&[5_000, 7])),
        ("above the table", random(&[600_000, 8])),
        ("half", random(&[300, 400]).to_kind(Kind::Half)),
        ("double", random(&[300, 400]).to_kind(Kind::Double)),
        ("bytes", random(&[300, 400]).gt(0.0).to_kind(Kind::Uint8)),
    ];
    let xs = random(&[4, 2]);
    for (name, weight) in layouts {
        let first = first(&weight);
        let net = Weighted::new(vec![random(&[3]), weight]);
        assert!(net.runs(&xs), "{name}");
        assert_eq!(net.hit(&xs), BY_A_KERNEL, "{name}");
        let before = first.copy();
        write_unseen(&first, 77.0);
        assert!(net.runs(&xs), "{name}");
        assert_eq!(net.hit(&xs), BY_A_KERNEL, "{name}");
        first.data().copy_(&before);
        assert!(!net.runs(&xs), "{name}: the rows from before are found");
        assert_eq!(net.cache.stats().bypassed, 0, "{name}");
    }
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn a_gradient_leads_to_the_elements_of_its_weight() {
    let weight = random(&[300, 400]).set_requires_grad(true);
    let slopes = weight.ones_like();
    write_unseen(&slopes.narrow(1, 0, 1), 2.0);
    (&weight * slopes).sum(Kind::Float).backward();
    let xs = random(&[4, 2]);
    let net = Weighted::new(vec![weight.shallow_clone()]);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    let row = weight.grad().narrow(0, 0, 1);
    write_unseen(&row.narrow(1, 200, 1), 5.0);
    // The element of the gradient that is compared, since it was the largest one of its row.
    write_unseen(&first(&row), 1.0);
    assert!(!net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    // Next to the element where the gradient is the largest by now. Without it, another one of this row is compared.
    write_unseen(&weight.narrow(0, 0, 1).narrow(1, 205, 1), 77.0);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    // Another gradient is in other memory.
    let mut gradient = weight.grad();
    let moved = gradient.copy();
    gradient.set_data(&moved);
    assert!(!net.runs(&xs));
    write_unseen(&first(&weight), 77.0);
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
}

#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn weights_with_other_memory_are_noticed() {
    let xs = random(&[4, 2]);
    let mut net = Weighted::new([(); 2].map(|()| random(&[300, 400])).into());
    assert!(net.runs(&xs));
    let other = random(&[300, 400]);
    net.weights[0].set_data(&other);
    assert!(net.runs(&xs), "other data");
    let _ = tch::no_grad(|| {
        net.weights[1]
            .resize_([600, 400])
            .narrow(0, 300, 300)
            .fill_(0.5)
    });
    assert!(net.runs(&xs), "another size");
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
    for weight in 0..2 {
        write_unseen(&first(&net.weights[weight]), 77.0);
        assert!(net.runs(&xs));
    }
}

/// A table of addresses does not show that they belong to another tensor.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn another_tensor_in_the_memory_of_a_weight_is_noticed() {
    let xs = random(&[4, 2]);
    let mut net = Weighted::new(vec![random(&[300, 400])]);
    assert!(net.runs(&xs));
    let copy = net.weights[0].copy();
    let address = net.weights[0].data_ptr();
    // Frees the memory, of all aliases.
    let mut before = net.weights[0].shallow_clone();
    let _ = tch::no_grad(|| before.resize_([3_000, 400]));
    assert_ne!(before.data_ptr(), address);
    // Of the same version, address and shape, with the same elements in all sampled places.
    let other = random(&[300, 400]);
    assert_eq!(other.data_ptr(), address, "the memory is used again");
    other.data().copy_(&copy);
    write_unseen(&other.narrow(0, 0, 1).narrow(1, 205, 1), 77.0);
    net.weights[0] = other;
    assert!(net.runs(&xs));
    assert_eq!(net.hit(&xs), BY_A_KERNEL);
}

/// `x * (the sum of all weights) + (the sum of all masks)`, on the device.
#[torchcache]
#[derive(Debug, Default)]
struct Masked {
    weights: Vec<Tensor>,
    cache: TorchCache,
}

#[torchcache]
impl Masked {
    #[torchcache]
    fn by_content(&self, xs: &Tensor, #[shared] masks: &[Tensor]) -> Tensor {
        self.uncached(xs, masks)
    }

    #[torchcache]
    fn by_id(&self, #[id] _: &[i64], xs: &Tensor, #[shared] masks: &[Tensor]) -> Tensor {
        self.uncached(xs, masks)
    }

    fn uncached(&self, xs: &Tensor, masks: &[Tensor]) -> Tensor {
        let sum = |tensors: &[Tensor]| {
            let there = tensors.iter().map(|tensor| tensor.to_device(CUDA));
            there.map(|tensor| tensor.sum(Kind::Double)).sum::<Tensor>()
        };
        xs.to_device(CUDA) * sum(&self.weights) + sum(masks)
    }
}

/// The launches and the copies from the device of a call whose output is right, and that computes so many rows.
#[track_caller]
fn call_of(
    net: &Masked,
    computed: u64,
    expected: &Tensor,
    call: impl Fn() -> Tensor,
) -> (u64, u64) {
    let (misses, _, _) = counts(&net.cache);
    let launches = raw::launches();
    let (given, copies) = counted(call);
    let launches = raw::launches() - launches;
    assert!(same(&given, expected));
    assert_eq!(counts(&net.cache).0, misses + computed);
    (launches, copies.from_device)
}

/// Launches are that of the weights, that of the shared tensors, and that of the rows. Copies are that of the weights, and
/// one of all digests.
#[test]
#[ignore = "needs the fake CUDA device: cargo xtask test --device fake"]
fn shared_tensors_are_hashed_with_the_rows_of_a_call() {
    const CPU: Device = Device::Cpu;
    const NONE: &[Device] = &[];
    let mut value = 77.0;
    // The devices of the shared tensors and of the rows; launches and copies of a hit by content, and of one by id.
    for (is_weighted, masks, rows, by_content, by_id) in [
        (false, NONE, CUDA, (1, 1), (0, 0)),
        (false, &[CUDA], CUDA, (2, 1), (1, 1)),
        (true, &[], CUDA, (2, 2), (1, 1)),
        (true, &[CUDA], CUDA, (3, 2), (2, 2)),
        (true, &[CUDA, CUDA], CUDA, (3, 2), (2, 2)),
        (true, &[CPU, CUDA], CUDA, (3, 2), (2, 2)),
        (true, &[CPU], CUDA, (2, 2), (1, 1)),
        (true, &[CUDA], CPU, (2, 2), (2, 2)),
        (true, &[CPU], CPU, (1, 1), (1, 1)),
    ] {
        let weights = [random(&[5]), random(&[300, 400])];
        // The second one has the memory of a weight.
        let all = [random(&[300, 300]), weights[1].tr()];
        let masks = masks.iter().zip(&all).map(|(&it, mask)| mask.to_device(it));
        let masks: Vec<_> = masks.collect();
        let mut net = Masked::default();
        if is_weighted {
            net.weights = weights.into();
        }
        let (xs, ids) = (random(&[4, 2]).to_device(rows), [1, 2, 3, 4]);
        let check = || {
            let expected = net.uncached(&xs, &masks);
            let content = || net.by_content(&xs, &masks);
            call_of(&net, 4, &expected, content);
            assert_eq!(call_of(&net, 0, &expected, content), by_content);
            let id = || net.by_id(&ids, &xs, &masks);
            call_of(&net, 4, &expected, id);
            assert_eq!(call_of(&net, 0, &expected, id), by_id);
        };
        check();
        for written in net.weights.iter().chain(&masks) {
            value += 1.0;
            write_unseen(&first(written), value);
            check();
        }
        assert_eq!(net.cache.stats().bypassed, 0);
    }
}
