//! Puts rows that it does not flush, and ends in one of many ways.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use torchcache_store::{Store, TempCache};

use super::endless::put_endless;
use super::forked;
use crate::process::say;
use crate::rows::{batch, manual_flush};

/// The length of the rows.
pub const LEN: usize = 2000;

/// The rows, from 0.
pub const ROWS: u64 = 300;

/// A process that is still there so long after its end began hangs. Less than a store waits for a
/// disk, so that a process that should not wait for one is noticed.
pub const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// What a process that goes on after a signal has time for.
pub const PAUSE: Duration = Duration::from_millis(800);

static STORE: OnceLock<Store> = OnceLock::new();

/// One word: how it ends.
pub fn run(dir: &Path, args: &[String]) {
    let [end] = args else {
        panic!("one end is wanted, not {args:?}");
    };
    let handled = Arc::new(AtomicBool::new(false));
    let handle = || {
        let signal = Signal::TERM.as_raw();
        signal_hook::flag::register(signal, handled.clone()).unwrap();
    };
    if end == "handle-before" {
        handle();
    }
    if end != "no-handlers" {
        torchcache_store::flush_on_signals().unwrap();
    }
    let private = TempCache::new_in(dir).unwrap();
    let store = STORE.get_or_init(|| Store::open(dir, manual_flush()).unwrap());
    if end == "handle" {
        handle();
    }
    store.put(batch(0..ROWS, LEN));
    assert_eq!(store.stats().pending_rows, ROWS, "nothing is written yet");
    match end.as_str() {
        // Each of them for a while; one after the other, for longer than this process may take.
        "disks-hang" => (0..10).for_each(|n| hang(&dir.join(n.to_string()), 2)),
        "disk-hangs" => hang(&dir.join("hangs"), 60),
        "rows-keep-coming" | "exit-while-rows-come" => put_on(private.path()),
        _ => {}
    }
    std::mem::forget(private); // as if it were in a static
    say("PUT");
    match end.as_str() {
        "return" | "disks-hang" => {}
        "exit" => std::process::exit(7),
        "exit-while-rows-come" => {
            thread::sleep(PAUSE);
            std::process::exit(7);
        }
        "panic" => panic!("as asked"),
        "panic-elsewhere" => {
            let panicked = thread::spawn(|| panic!("as asked")).join();
            assert!(panicked.is_err());
        }
        // Another program in between, whose end is none of ours.
        "command" => {
            let status = Command::new("true").status();
            assert!(status.is_ok_and(|status| status.success()));
        }
        "fork" => forked::goes_on(dir),
        "first" => {
            assert_eq!(getpid(), Pid::INIT);
            kill_process(getpid(), Signal::TERM).unwrap();
            thread::sleep(ENDS_WITHIN);
        }
        "handle" | "handle-before" => {
            while !handled.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            // Time for a handler of the library's to end the process.
            thread::sleep(PAUSE);
            assert_eq!(store.stats().pending_rows, ROWS, "no other handler ran");
        }
        _ => thread::sleep(Duration::from_secs(60)),
    }
}

/// Puts rows that are written to a private directory, until the process ends.
fn put_on(private: &Path) {
    let config = manual_flush()
        .with_batch_delay(Duration::ZERO)
        .with_queue_bytes(1 << 20);
    let store = Store::open(private.join("hash"), config).unwrap();
    for first in [1 << 32, 2 << 32] {
        let store = store.clone();
        thread::spawn(move || {
            for n in 0.. {
                store.put(batch(first + n * 30..first + n * 30 + 30, LEN));
            }
        });
    }
    std::mem::forget(store);
}

/// A store whose flusher makes no progress, as with a disk that does not answer. It is never dropped, as
/// if it were in a static.
fn hang(dir: &Path, stall_timeout: u64) {
    let config = manual_flush()
        .with_stall_timeout(Duration::from_secs(stall_timeout))
        .with_batch_delay(Duration::ZERO);
    let store = Store::open(dir, config).unwrap();
    put_endless(&store);
    std::mem::forget(store);
}
