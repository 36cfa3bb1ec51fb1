//! Uploads rows to a bucket in a directory, and ends in one of several ways.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use torchcache_store::remote::{BreakerState, RemoteMode};
use torchcache_store::remote_tier::{RemoteTier, RemoteTierConfig};
use torchcache_store::{Config, Store, TempCache};

use crate::dir_objects::DirObjects;
use crate::process::say;
use crate::rows::{batch, keys};

/// The length of the rows.
pub const LEN: usize = 500;

/// How many rows a process computes at a time.
pub const ROWS: u64 = 50;

static TIER: OnceLock<(Store, RemoteTier)> = OnceLock::new();

/// The tier of a directory in a bucket.
pub fn open(dir: &Path, bucket: &Path) -> (Store, RemoteTier) {
    let store = Store::open(dir, Config::default()).expect("it opens");
    let config = RemoteTierConfig {
        url: "file:///bucket".to_owned(),
        prefix: String::new(),
        module_hash: "feed".to_owned(),
        mode: RemoteMode::ReadWrite,
    };
    let tier = RemoteTier::open(&store, DirObjects::new(bucket), config);
    (store, tier)
}

/// Computes rows.
pub fn compute((store, tier): &(Store, RemoteTier), numbers: Range<u64>) {
    store.put(batch(numbers.clone(), LEN));
    let rows = keys(numbers).into_iter().map(|key| (key, LEN as u32));
    tier.push(rows);
}

/// The bucket, how it ends, and the first of its rows.
pub fn run(dir: &Path, args: &[String]) {
    let [bucket, end, first] = args else {
        panic!("three words are wanted, not {args:?}");
    };
    let first: u64 = first.parse().expect("a number");
    if end == "signal" {
        torchcache_store::flush_on_signals().expect("they can be handled");
    }
    let private = (end == "private").then(|| TempCache::new_in(dir).expect("it can be made"));
    let dir = private.as_ref().map_or(dir, TempCache::path).join("feed");
    let opened = TIER.get_or_init(|| open(&dir, Path::new(bucket)));
    match end.as_str() {
        "keeps-computing" => compute_on(opened, first),
        "flushes" => {
            opened
                .1
                .flush(Duration::from_secs(60))
                .expect("it is uploaded");
            say(format_args!(
                "UPLOADED {}",
                opened.1.stats().uploads.uploaded
            ));
        }
        "breaker" => {
            compute(opened, first..first + ROWS);
            while opened.1.stats().breaker == BreakerState::Closed {
                // A store that cannot be reached fails each attempt.
                let _ = opened.1.flush(Duration::from_millis(100));
            }
        }
        _ => compute(opened, first..first + ROWS),
    }
    // As if it were in a static.
    std::mem::forget(private);
    say("PUT");
    match end.as_str() {
        "exit" => std::process::exit(7),
        "signal" | "stays" => thread::sleep(Duration::from_secs(60)),
        _ => {}
    }
}

/// Computes rows and uploads them, until it is killed.
fn compute_on(opened: &(Store, RemoteTier), first: u64) {
    for n in 0.. {
        let first = first + n * ROWS;
        compute(opened, first..first + ROWS);
        opened.0.flush().expect("it is written");
        say(format_args!("STORED {}", first + ROWS));
        if n % 3 == 2 {
            let flushed = opened.1.flush(Duration::from_secs(60));
            flushed.expect("it is uploaded");
        }
    }
}
