//! A process whose cache is in a static: it computes rows and ends as its first argument says, or
//! finds them all. The cache directory comes from the environment.

use std::time::Duration;

use tch::Tensor;
use torchcache::torchcache;
use torchcache_faults::process::say;
use torchcache_soak::modules::{check, rows};

#[torchcache(persistent = true)]
fn tripled(xs: &Tensor) -> Tensor {
    xs * 3
}

const ROWS: i64 = 200;

fn main() {
    torchcache::flush_on_signals().unwrap();
    let how = std::env::args().nth(1).expect("how to end");
    let xs = rows(&(0..ROWS).collect::<Vec<_>>());
    check(&tripled(&xs), &(&xs * 3));
    let stats = tripled_cache().stats();
    if how == "again" {
        assert_eq!(stats.misses, 0, "the first process wrote all rows");
        assert!(stats.faults.is_empty(), "{:?}", stats.faults);
        return;
    }
    assert_eq!(stats.misses, ROWS as u64);
    say("COMPUTED");
    match how.as_str() {
        "exit" => std::process::exit(7),
        "panic" => panic!("as asked"),
        "wait" => std::thread::sleep(Duration::from_secs(60)),
        _ => {}
    }
}
