//! The server is killed while it takes writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use torchcache_faults::cases::{cases, eventually, seen};
use torchcache_faults::rows::{batch, expect_all, fill_from_remote, keys};
use torchcache_servers::{Server, WRITER};
use torchcache_store::Store;
use torchcache_store::remote::ObjectErrorKind;
use torchcache_store::remote_tier::RemoteTier;

use crate::support::{location, machine, server, soon};

/// The length of the rows.
const LEN: usize = 20_000;

/// How many rows are flushed at a time.
const ROWS: u64 = 40;

/// What a busy machine may need until a flush is acknowledged.
const LONG: Duration = Duration::from_secs(120);

/// How far the writer is.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    is_flushing: AtomicBool,
    is_over: AtomicBool,
}

/// Ends the writer, also where the test fails.
struct Ends<'a>(&'a Progress);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

#[test]
fn acknowledged_rows_survive_kills_of_the_server_during_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path());
    let it = location(&server.endpoint(), WRITER, "killed-in-writes");
    let writer = machine(&dir.path().join("writer"), &it);
    let progress = Progress::default();
    let wanted = u64::from(cases(2, 20));
    let mut interrupted = 0;
    thread::scope(|scope| {
        scope.spawn(|| write(&writer, &progress));
        let _ends = Ends(&progress);
        for n in 0..10 * wanted {
            let is_interrupted = kill(&mut server, &writer.1, &progress, n * 37 % 100);
            interrupted += u64::from(is_interrupted);
            if interrupted == wanted {
                break;
            }
        }
    });
    seen(
        "the server of a bucket is killed during a flush",
        interrupted,
    );
    all_are_right(
        &machine(&dir.path().join("reader"), &it),
        progress.acknowledged.into_inner(),
    );
}

/// Flushes rows until it is over.
fn write((store, tier): &(Store, RemoteTier), progress: &Progress) {
    let numbers = (0..).step_by(ROWS as usize).map(|it| it..it + ROWS);
    for numbers in numbers.take_while(|_| !progress.is_over.load(Ordering::Acquire)) {
        store.put(batch(numbers.clone(), LEN));
        let end = numbers.end;
        tier.push(keys(numbers).into_iter().map(|key| (key, LEN as u32)));
        progress.is_flushing.store(true, Ordering::Release);
        let flushed = tier.flush(LONG);
        progress.is_flushing.store(false, Ordering::Release);
        flushed.expect("it is uploaded once the server is back");
        progress.acknowledged.store(end, Ordering::Release);
    }
}

/// Kills the server some milliseconds after a flush, and starts it again. Returns whether a flush was under way: it had
/// begun before the kill, and had not ended when requests failed.
fn kill(server: &mut dyn Server, tier: &RemoteTier, progress: &Progress, pause: u64) -> bool {
    let acknowledged = || progress.acknowledged.load(Ordering::Acquire);
    let is_flushing = || progress.is_flushing.load(Ordering::Acquire);
    let broken = || tier.stats().requests.errors(ObjectErrorKind::Other);
    let before = acknowledged();
    assert!(eventually(LONG, || acknowledged() > before));
    thread::sleep(Duration::from_millis(pause));
    assert!(eventually(LONG, is_flushing));
    // In this order: the flush is the next one, or one after it.
    let (flushed, errors) = (acknowledged(), broken());
    let has_begun = is_flushing();
    server.kill();
    let has_failed = eventually(Duration::from_secs(30), || broken() > errors);
    let has_not_ended = acknowledged() == flushed;
    server.restart().expect("it starts again");
    has_begun && has_failed && has_not_ended
}

/// Another machine finds so many rows, and each is right.
#[track_caller]
fn all_are_right((store, tier): &(Store, RemoteTier), count: u64) {
    for first in (0..count).step_by(500) {
        let numbers = first..count.min(first + 500);
        fill_from_remote((store, tier), numbers.clone(), LEN, soon());
        expect_all(store, numbers, LEN);
    }
    let stats = tier.stats();
    assert_eq!((stats.corrupt, stats.unread), (0, 0), "{stats:?}");
}
