//! What a program may do with an output does not depend on where it came from.

use tch::nn::Module;
use tch::{Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::support::{device, random, same};

/// Doubles.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Double {
    torchcache_cache_dtype: Option<Kind>,
    torchcache_max_memory_cache_size: u64,
    torchcache_persistent_cache_dir: String,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Double {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2.0
    }
}

/// The same as two outputs, of which the first is returned by the test.
#[torchcache(persistent = true)]
#[derive(Debug)]
struct Pair {
    torchcache_max_memory_cache_size: u64,
    torchcache_persistent_cache_dir: String,
    torchcache: TorchCache,
}

#[torchcache]
impl Pair {
    fn forward(&self, xs: &Tensor) -> (Tensor, Tensor) {
        (xs * 2.0, xs + 1.0)
    }
}

/// Calls that return the double of `xs` each from another source, with their names. Each source has
/// been brought about when its call is made.
fn from_every_source(run: impl Fn(&str, &dyn Fn(&Tensor) -> Tensor, &Tensor)) {
    for dtype in [None, Some(Kind::Double)] {
        let directory = tempfile::tempdir().unwrap();
        let open = |memory| Double {
            torchcache_cache_dtype: dtype,
            torchcache_max_memory_cache_size: memory,
            torchcache_persistent_cache_dir: directory.path().to_str().unwrap().to_owned(),
            torchcache: TorchCache::default(),
        };
        let (model, on_disk) = (open(1_000_000), open(0));
        let xs = random(&[4, 3]);
        let repeated = Tensor::cat(&[xs.narrow(0, 0, 2), xs.narrow(0, 0, 2)], 0);
        let stats = || model.torchcache.stats();
        run("a miss", &|xs| model.forward(xs), &xs);
        assert_eq!(stats().misses, 4);
        run("a hit in memory", &|xs| model.forward(xs), &xs);
        assert!(stats().memory.hits >= 4);
        let mixed = Tensor::cat(&[xs.narrow(0, 0, 2), random(&[2, 3])], 0);
        run("hits and misses", &|xs| model.forward(xs), &mixed);
        run("repeated hits", &|xs| model.forward(xs), &repeated);
        let fresh = random(&[1, 3]).repeat([4, 1]);
        run("repeated misses", &|xs| model.forward(xs), &fresh);
        run("one row", &|xs| model.forward(xs), &random(&[1, 3]));
        model.torchcache.flush().unwrap();
        run("a hit on disk", &|xs| on_disk.forward(xs), &xs);
        run(
            "repeated hits on disk",
            &|xs| on_disk.forward(xs),
            &repeated,
        );
        assert!(on_disk.torchcache.stats().disk.hits > 0);
        assert_eq!(on_disk.torchcache.stats().misses, 0);
    }
    let directory = tempfile::tempdir().unwrap();
    let open = |memory| Pair {
        torchcache_max_memory_cache_size: memory,
        torchcache_persistent_cache_dir: directory.path().to_str().unwrap().to_owned(),
        torchcache: TorchCache::default(),
    };
    let (model, on_disk) = (open(1_000_000), open(0));
    let xs = random(&[4, 3]);
    run("a miss of two", &|xs| model.forward(xs).0, &xs);
    run("a hit of two", &|xs| model.forward(xs).0, &xs);
    model.torchcache.flush().unwrap();
    run("a hit of two on disk", &|xs| on_disk.forward(xs).0, &xs);
}

fn trainable(shape: &[i64]) -> Tensor {
    Tensor::ones(shape, (Kind::Float, device())).set_requires_grad(true)
}

#[test]
fn outputs_of_every_source_take_the_same_operations() {
    type Operation = fn(Tensor) -> Tensor;
    let operations: [(&str, Operation); 12] = [
        ("nothing", |out| out),
        ("+= trainable", |mut out| {
            let weight = trainable(&out.size());
            out += &weight;
            out.sum(Kind::Float).backward();
            assert!(weight.grad().defined());
            out.detach()
        }),
        ("*= trainable", |mut out| {
            let weight = trainable(&[1]);
            out *= &weight;
            out.sum(Kind::Float).backward();
            assert!(weight.grad().defined());
            out.detach()
        }),
        ("detach_", |mut out| out.detach_()),
        ("requires_grad_", |out| {
            let mut out = out;
            let out = out.requires_grad_(true);
            (&out * 3.0).sum(Kind::Float).backward();
            assert!(out.grad().defined());
            out.detach()
        }),
        ("set_requires_grad", |out| {
            let out = out.set_requires_grad(true);
            (&out * 3.0).sum(Kind::Float).backward();
            assert!(out.grad().defined());
            out.detach()
        }),
        ("a write without gradients", |mut out| {
            tch::no_grad(|| out.relu_())
        }),
        ("a write", |mut out| out.relu_()),
        ("unsqueeze_", |mut out| out.unsqueeze_(0)),
        ("transpose_", |mut out| out.transpose_(0, 1)),
        ("resize_", |mut out| out.resize_([1, 2])),
        ("set_data", |mut out| {
            let data = &out + 1.0;
            out.set_data(&data);
            out
        }),
    ];
    for (operation, apply) in operations {
        for without_gradients in [false, true] {
            from_every_source(|source, call, xs| {
                let name = format!("{operation} on {source}, {without_gradients}");
                let call = || match without_gradients {
                    true => tch::no_grad(|| call(xs)),
                    false => call(xs),
                };
                let out = call();
                assert!(out.is_leaf() && !out.requires_grad(), "{name}");
                let expected = apply(xs * 2.0);
                assert!(same(&apply(out), &expected), "{name}");
                assert!(
                    same(&call(), &(xs * 2.0)),
                    "{name}: the cached rows changed"
                );
            });
        }
    }
}
