//! A weight that changes before each call, as in an evaluation between updates.

use std::time::Instant;

use tch::nn::Module;
use tch::{Device, Kind, Tensor};
use torchcache::{TorchCache, torchcache};

use crate::ours::expect;

/// The tenths of all changes that are compared, after the memory tier is full.
const TENTHS: [usize; 2] = [5, 10];

/// What changes of a weight cost.
#[derive(Debug)]
pub struct Changes {
    /// Microseconds a change, with two calls after it, in the fifth and the last tenth.
    pub each: [f64; 2],
    /// By how many bytes the process grew from the fifth tenth to the last.
    pub grown: f64,
}

#[torchcache(max_memory_cache_size = "10 MB", eviction = "lru")]
#[derive(Debug)]
struct Scaled {
    weight: Tensor,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Scaled {
    fn forward(&self, xs: &Tensor) -> Tensor {
        xs * &self.weight
    }
}

impl Changes {
    /// Measures so many changes.
    pub fn measure(changes: usize) -> Self {
        let mut model = Scaled {
            weight: Tensor::zeros([16], (Kind::Float, Device::Cpu)),
            torchcache: TorchCache::default(),
        };
        let xs = Tensor::rand([1, 16], (Kind::Float, Device::Cpu));
        let tenths = (1..=10).map(|tenth| {
            let begin = Instant::now();
            for change in 0..changes / 10 {
                let _ = model.weight.fill_((tenth * changes + change) as f64);
                drop(model.forward(&xs));
                drop(model.forward(&xs));
            }
            let each = begin.elapsed().as_secs_f64() * 1e6 / (changes / 10) as f64;
            (each, resident())
        });
        let tenths: Vec<(f64, f64)> = tenths.collect();
        let [fifth, last] = TENTHS.map(|tenth| tenths[tenth - 1]);
        expect(&model.torchcache.stats(), |stats| {
            stats.misses == stats.hits() && stats.misses == (changes / 10 * 10) as u64
        });
        Changes {
            each: [fifth.0, last.0],
            grown: last.1 - fifth.1,
        }
    }
}

/// The memory that the process has, in bytes; zero where the system does not report it.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: Option<f64> = kilobytes.and_then(|kilobytes| kilobytes.parse().ok());
    kilobytes.unwrap_or_default() * 1024.0
}
