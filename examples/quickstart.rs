//! The three ways to cache: a struct with its impl, a function, and a module of another crate.
//!
//! Each is called twice with the same rows, and prints how many rows it computes: none the second time.
//! The last lines are the table of `stats()`.
//!
//! Run it with `cargo run --example quickstart`.

use tch::{Device, Kind, Tensor, nn};
use torchcache::{Cached, Options, TorchCache, torchcache};

/// Your own module: the attribute on the struct has the options.
#[torchcache(max_memory_cache_size = "500 MB")]
#[derive(Debug)]
struct Backbone {
    hidden: nn::Linear,
    out: nn::Linear,
    torchcache: TorchCache,
}

/// The attribute on the impl caches `forward`.
#[torchcache]
impl nn::Module for Backbone {
    fn forward(&self, xs: &Tensor) -> Tensor {
        println!("  Backbone::forward computes {} rows", xs.size()[0]);
        xs.apply(&self.hidden).relu().apply(&self.out)
    }
}

/// A function: arguments that are no tensors are part of every row's key.
#[torchcache]
fn embed(tokens: &Tensor, scale: f64) -> Tensor {
    println!("  embed computes {} rows", tokens.size()[0]);
    tokens.to_kind(Kind::Float).cos() * scale
}

fn main() -> Result<(), torchcache::Error> {
    let mut vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    let backbone = Backbone {
        hidden: nn::linear(&root / "hidden", 32, 64, Default::default()),
        out: nn::linear(&root / "out", 64, 8, Default::default()),
        torchcache: TorchCache::default(),
    };
    // A module that cannot be annotated, with the weights that it uses.
    let vision = nn::seq()
        .add(nn::linear(&root / "vision", 32, 8, Default::default()))
        .add_fn(Tensor::relu);
    vs.freeze();
    let vision = Cached::new(vision, &vs, Options::default())?;

    let xs = Tensor::rand([6, 32], (Kind::Float, Device::Cpu));
    println!("a struct, twice:");
    assert_eq!(xs.apply(&backbone), xs.apply(&backbone));
    println!("half of the batch is new:");
    let mixed = Tensor::cat(&[xs.narrow(0, 0, 3), xs.narrow(0, 3, 3) + 1.0], 0);
    let _ = mixed.apply(&backbone);

    println!("a function, twice, and once with another scale:");
    let tokens = Tensor::from_slice(&[3i64, 1, 4, 1, 5]);
    assert_eq!(embed(&tokens, 2.0), embed(&tokens, 2.0));
    let _ = embed(&tokens, 3.0);
    let stats = embed_cache().stats();
    println!(
        "  {} hits, {} of them rows that were twice in their batch",
        stats.hits(),
        stats.duplicates
    );

    println!("a module of another crate, twice:");
    assert_eq!(vision.forward(&xs), vision.forward(&xs));
    let stats = vision.cache().stats();
    println!(
        "  {} rows computed, {} from memory",
        stats.misses, stats.memory.hits
    );

    println!("\nthe struct's cache:\n{}", backbone.torchcache.stats());
    Ok(())
}
