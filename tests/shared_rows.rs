//! Rows that processes share through a remote.

use std::io::Write;
use std::time::Duration;

use tch::Tensor;
use torchcache::{TorchCache, torchcache};

/// `x * 2`, in `TORCHCACHE_DIR` and `TORCHCACHE_REMOTE`.
#[torchcache(persistent = true, remote_timeout = 60.0)]
fn shared_double(xs: &Tensor) -> Tensor {
    xs * 2
}

/// The same in memory.
#[torchcache]
fn double_in_memory(xs: &Tensor) -> Tensor {
    xs * 2
}

/// Calls the function, uploads its rows, and prints where they came from.
pub(crate) fn share(xs: &Tensor) {
    call(shared_double, xs);
    report(shared_double_cache());
}

pub(crate) fn share_in_memory(xs: &Tensor) {
    call(double_in_memory, xs);
    report(double_in_memory_cache());
}

/// Stores rows and flushes nothing.
pub(crate) fn store(xs: &Tensor) {
    call(shared_double, xs);
}

/// Stores rows, and does not end.
pub(crate) fn store_until_killed(xs: &Tensor) {
    store(xs);
    shared_double_cache().flush().expect("a disk");
    println!("stored");
    std::io::stdout().flush().expect("a reader");
    loop {
        std::thread::park();
    }
}

fn call(cached: fn(&Tensor) -> Tensor, xs: &Tensor) {
    assert!(cached(xs).equal(&(xs * 2)), "a wrong row");
}

fn report(cache: &TorchCache) {
    let flushed = match cache.flush_remote(Duration::from_secs(60)) {
        Ok(()) => "flushed".to_owned(),
        Err(error) => error.to_string(),
    };
    let stats = cache.stats();
    let faults = stats.faults.total();
    println!(
        "computed {} remote {} faults {faults} {flushed}",
        stats.misses, stats.remote.hits
    );
}
