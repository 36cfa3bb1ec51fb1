//! Hits from several threads, on one handle and on one function.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::ours::expect;

/// How many threads call at once.
pub const THREADS: [usize; 5] = [1, 2, 4, 8, 16];

/// Hits a second, by the number of threads.
#[derive(Debug)]
pub struct Shared {
    /// On the handle of a module with 200 frozen weights, 100 MB.
    pub handle: Vec<f64>,
    /// On a function.
    pub function: Vec<f64>,
}

#[torchcache]
#[derive(Debug)]
struct Weighted {
    weights: nn::VarStore,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Weighted {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * 2
    }
}

#[torchcache]
fn double(xs: &Tensor) -> Tensor {
    xs * 2
}

impl Shared {
    /// Measures so many calls of the function in all, each of one row of 64 bytes on the CPU, and a
    /// hundredth of them of the module, whose weights take longer to compare.
    pub fn measure(calls: usize) -> Self {
        let mut weights = nn::VarStore::new(Device::Cpu);
        for number in 0..200 {
            let name = format!("weight{number}");
            let _ = weights.root().randn_standard(&name, &[125, 1_000]);
        }
        weights.freeze();
        let module = Weighted {
            weights,
            torchcache: TorchCache::default(),
        };
        type Call<'c> = &'c (dyn Fn(&Tensor) -> Tensor + Sync);
        let hits = |calls, call: Call<'_>, cache: &TorchCache| {
            let xs = Tensor::rand([1, 16], (Kind::Float, Device::Cpu));
            drop(call(&xs));
            let per_second = THREADS.map(|threads| per_second(threads, calls, &xs, call));
            expect(&cache.stats(), |stats| stats.misses == 1);
            per_second.to_vec()
        };
        Shared {
            handle: hits(calls / 100, &|xs| module.forward(xs), &module.torchcache),
            function: hits(calls, &double, double_cache()),
        }
    }
}

fn per_second(
    threads: usize,
    calls: usize,
    xs: &Tensor,
    call: &(dyn Fn(&Tensor) -> Tensor + Sync),
) -> f64 {
    let start = Barrier::new(threads + 1);
    let begin = thread::scope(|scope| {
        for _ in 0..threads {
            let (start, xs) = (&start, xs.copy());
            scope.spawn(move || {
                start.wait();
                for _ in 0..calls / threads {
                    drop(call(&xs));
                }
            });
        }
        start.wait();
        Instant::now()
    });
    (calls / threads * threads) as f64 / begin.elapsed().as_secs_f64()
}
