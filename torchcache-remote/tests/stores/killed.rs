//! The server is killed while it takes writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use torchcache_faults::cases::{cases, eventually, seen};
use torchcache_faults::rows::{batch, keys, value};
use torchcache_servers::{Server, WRITER};
use torchcache_store::Store;
use torchcache_store::remote::{ObjectErrorKind, RemoteRow};
use torchcache_store::remote_tier::RemoteTier;

use crate::support::{location, machine, server, soon};

/// The length of the rows.
const LEN: usize = 20_000;

/// How many rows are flushed at a time.
const ROWS: u64 = 40;

/// Tells the writer to end, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn acknowledged_rows_survive_kills_of_the_server_while_it_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(dir.path());
    let it = location(&server.endpoint(), WRITER, "killed-in-writes");
    let writer = machine(&dir.path().join("writer"), &it);
    let acknowledged = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let interrupted = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let first = acknowledged.load(Ordering::Acquire);
                writer.0.put(batch(first..first + ROWS, LEN));
                let rows = keys(first..first + ROWS).into_iter();
                writer.1.push(rows.map(|key| (key, LEN as u32)));
                let flushed = writer.1.flush(Duration::from_secs(120));
                flushed.expect("it is uploaded once the server is back");
                acknowledged.store(first + ROWS, Ordering::Release);
            }
        });
        let _ends = Ends(&is_over);
        let broken = || writer.1.stats().requests.errors(ObjectErrorKind::Other);
        let mut interrupted = 0;
        for kill in 0..u64::from(cases(2, 20)) {
            let before = acknowledged.load(Ordering::Acquire);
            let has_written = || acknowledged.load(Ordering::Acquire) > before;
            assert!(eventually(Duration::from_secs(120), has_written));
            thread::sleep(Duration::from_millis(kill * 37 % 100));
            let before = broken();
            server.kill();
            interrupted += u64::from(eventually(Duration::from_secs(30), || broken() > before));
            server.restart().expect("it starts again");
        }
        interrupted
    });
    seen(
        "the server of a bucket is killed while it takes writes",
        interrupted,
    );
    all_are_right(
        &machine(&dir.path().join("reader"), &it),
        acknowledged.into_inner(),
    );
}

/// Another machine finds so many rows, and each is right.
#[track_caller]
fn all_are_right((_, tier): &(Store, RemoteTier), count: u64) {
    let keys = keys(0..count);
    for keys in keys.chunks(500) {
        let rows: Vec<RemoteRow> = tier.locate(keys, soon()).into_iter().flatten().collect();
        assert_eq!(rows.len(), keys.len(), "acknowledged rows are found");
        let mut values = vec![vec![0; LEN]; rows.len()];
        let mut out: Vec<&mut [u8]> = values.iter_mut().map(Vec::as_mut_slice).collect();
        assert!(tier.read(&rows, &mut out, soon()).into_iter().all(|it| it));
        for (key, bytes) in keys.iter().zip(&values) {
            assert!(*bytes == value(key, LEN), "a wrong row");
        }
    }
}
