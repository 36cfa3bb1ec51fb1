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

/// The same where calls wait a second at most.
#[torchcache(persistent = true, remote_timeout = 1.0)]
fn impatient_double(xs: &Tensor) -> Tensor {
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
    report(shared_double_cache(), 60);
}

pub(crate) fn share_in_memory(xs: &Tensor) {
    call(double_in_memory, xs);
    report(double_in_memory_cache(), 60);
}

/// The same, an object of the remote for each five rows.
pub(crate) fn share_apart(xs: &Tensor) {
    for xs in xs.split(5, 0) {
        share(&xs);
    }
}

/// The same for rows that `share` knows under other keys, by calls of five rows. Uploads for a second, and prints how
/// many tenths of a second the calls waited for the remote, and whether it is off.
pub(crate) fn try_to_share(xs: &Tensor) {
    for xs in xs.split(5, 0) {
        call(impatient_double, &xs);
    }
    report(impatient_double_cache(), 1);
    let stats = impatient_double_cache().stats();
    let waited = stats.time.fetching.as_millis() / 100;
    println!("waited {waited} {:?}", stats.remote.state);
}

/// The first pass over rows that another machine computed, by calls of five rows, each with something to do after it.
/// Prints how many milliseconds the calls waited for the remote.
pub(crate) fn first_pass(xs: &Tensor, reads_ahead: bool) {
    let batches = xs.split(5, 0);
    for (number, xs) in batches.iter().enumerate() {
        if let Some(next) = batches.get(number + 1).filter(|_| reads_ahead) {
            let requested = shared_double_cache().read_ahead(|| shared_double(next));
            requested.expect("no misuse");
        }
        call(shared_double, xs);
        std::thread::sleep(Duration::from_millis(200));
    }
    let stats = shared_double_cache().stats();
    assert_eq!(stats.misses, 0, "{stats}");
    println!("{}", stats.time.fetching.as_millis());
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

fn report(cache: &TorchCache, seconds: u64) {
    let flushed = match cache.flush_remote(Duration::from_secs(seconds)) {
        Ok(()) => "flushed".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    let stats = cache.stats();
    let faults = stats.faults.total();
    println!(
        "computed {} found {} faults {faults} {flushed}",
        stats.misses,
        // The background may have put rows of the remote on disk.
        stats.disk.hits + stats.remote.hits
    );
}
