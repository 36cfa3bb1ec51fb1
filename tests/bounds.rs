//! Commands of the child process that show how much memory something takes.

use peak_alloc::PeakAlloc;
use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};
use torchcache::{Cached, Eviction, Options, TorchCache, torchcache};

/// Every allocation of the process, counted.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// `x * weight`, with little room in memory.
#[torchcache(max_memory_cache_size = "100 KB", eviction = "lru")]
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

/// Changes a weight before each call, and prints how much more of the heap the last changes took than
/// those before them.
pub(crate) fn weight_changes(kind: &str, changes: i64) {
    let vs = nn::VarStore::new(Device::Cpu);
    let weight = vs.root().zeros_no_train("weight", &[4]);
    let annotated = Scaled {
        weight: weight.shallow_clone(),
        torchcache: TorchCache::default(),
    };
    let captured = weight.shallow_clone();
    let options = Options::builder().version("changed");
    let options = options
        .max_memory_cache_size("100 KB")
        .eviction(Eviction::Lru)
        .build();
    let options = options.expect("valid options");
    let wrapped = nn::func(move |xs| xs * &captured);
    let wrapped = Cached::new(wrapped, &vs, options).expect("one module");
    let (forward, cache): (&dyn Fn(&Tensor) -> Tensor, _) = match kind {
        "annotated" => (&|xs| annotated.forward(xs), &annotated.torchcache),
        _ => (&|xs| wrapped.forward(xs), wrapped.cache()),
    };
    let xs = Tensor::arange(8, (Kind::Float, Device::Cpu)).view([2, 4]);
    let mut weight = weight;
    let mut held = Vec::new();
    for change in 0..changes {
        let _ = weight.fill_(change as f64);
        for _ in 0..2 {
            assert!(forward(&xs).equal(&(&xs * change)), "a stale row");
        }
        if change % (changes / 4) == changes / 4 - 1 {
            held.push(ALLOCATED.current_usage());
        }
    }
    let stats = cache.stats();
    assert_eq!(
        (stats.misses, stats.hits()),
        (2 * changes as u64, 2 * changes as u64)
    );
    println!("{}", held[3].saturating_sub(held[2]));
}

#[torchcache]
fn first(xs: &Tensor) -> Tensor {
    xs.narrow(1, 0, 1)
}

#[torchcache]
fn first_by_id(xs: &Tensor, #[id] ids: &[i64]) -> Tensor {
    assert_eq!(xs.size()[0], ids.len() as i64);
    xs.narrow(1, 0, 1)
}

#[torchcache]
fn masked(xs: &Tensor, #[shared] mask: &Tensor) -> Tensor {
    xs * mask.select(0, 0).narrow(0, 0, 1)
}

/// Prints by how many megabytes each of some calls raised the peak of the process.
pub(crate) fn wide_arguments() {
    let rand = |shape: &[i64]| Tensor::rand(shape, (Kind::Float, Device::Cpu));
    let (row, tall) = (rand(&[1, 1_000_000]), rand(&[1_000_000, 64]));
    let expanded = row.expand([400, 1_000_000], false);
    let within = rand(&[4, 1]).expand([4, 20_000_000], false);
    let xs = rand(&[2, 4]);
    let (first_of, mask) = (
        |xs: &Tensor| xs.narrow(1, 0, 1),
        row.expand([200, 1_000_000], false),
    );
    let calls: [(&str, &dyn Fn() -> bool); 5] = [
        ("rows of stride 0", &|| {
            first(&expanded).equal(&first_of(&expanded))
        }),
        ("elements of stride 0", &|| {
            first(&within).equal(&first_of(&within))
        }),
        ("transposed", &|| {
            first(&tall.tr()).equal(&first_of(&tall.tr()))
        }),
        ("one id", &|| {
            first_by_id(&expanded, &[7; 400]).equal(&first_of(&expanded))
        }),
        ("shared", &|| {
            masked(&xs, &mask).equal(&(&xs * row.narrow(1, 0, 1)))
        }),
    ];
    for (name, call) in calls {
        let before = peak_kilobytes();
        assert!(call() && call(), "a wrong row: {name}");
        // The system counts pages for each processor, and reads less where one has not added its own yet.
        let raised = peak_kilobytes().saturating_sub(before);
        println!("{name}: {}", raised / 1024);
    }
}

/// The most memory that the process had so far.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("on Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next());
    peak.and_then(|peak| peak.parse().ok()).expect("a peak")
}
