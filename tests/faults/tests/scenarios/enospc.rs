//! No room: on a full disk, above a quota, above a limit of file sizes. What fits stays, the rest is
//! a miss, and with room again everything is stored.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;
use proptest::prelude::*;
use rustix::io::Errno;
use torchcache_faults::cases::{Counter, case, cases, random, seen};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::process::Running;
use torchcache_faults::rows::{batch, count_right, expect_all, opened, put_flushed};
use torchcache_faults::sim::Sim;
use torchcache_store::{Fault, Store};

use crate::child;

const LEN: usize = 3000;

#[test]
fn what_fits_on_a_full_disk_stays() {
    let (rounds, random_cases) = (cases(3, 100), cases(30, 1000));
    for round in 0..rounds {
        case(format_args!("tmpfs {round}"), small_tmpfs);
        case(format_args!("file size {round}"), file_size);
    }
    proptest!(random(random_cases), |(capacity in 4_000..400_000u64, seed: u64)| {
        in_memory(capacity, seed);
    });
    let times = u64::from(2 * rounds + random_cases);
    seen("disk full, file size limit, short write", times);
}

fn in_memory(capacity: u64, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (sim, dir) = (Sim::new(), Path::new("/cache"));
    let store = opened(sim.clone(), dir);
    sim.set_capacity(Some(capacity));
    let mut flushed = Vec::new();
    let mut put = 0;
    while store.stats().faults.get(Fault::NoSpace) == 0 {
        let rows = put..put + rng.u64(1..40);
        put = rows.end;
        store.put(batch(rows.clone(), LEN));
        if store.flush().is_ok() {
            flushed.push(rows);
        }
        count_right(&store, 0..put, LEN);
    }
    for rows in &flushed {
        expect_all(&store, rows.clone(), LEN);
    }
    drop(store);
    // It can be opened and read while the disk is full.
    let store = opened(sim.clone(), dir);
    for rows in flushed {
        expect_all(&store, rows, LEN);
    }
    sim.set_capacity(None);
    put_flushed(&store, 0..put, LEN);
    expect_all(&store, 0..put, LEN);
}

/// How compacting may fail: on a full disk, and where a call fails once.
const FAILURES: [(Call, Errno); 7] = [
    (Call::Write, Errno::NOSPC),
    (Call::Write, Errno::DQUOT),
    (Call::Create, Errno::NOSPC),
    (Call::Sync, Errno::IO),
    (Call::Rename, Errno::NOSPC),
    (Call::Read, Errno::IO),
    (Call::Open, Errno::MFILE),
];

/// A store whose compactions fail while they are to. The first file of each flush is that of its row.
struct Compacting {
    store: Store,
    fails: Arc<AtomicBool>,
    renamed: Arc<AtomicU64>,
    failed: Arc<Counter>,
    rows: u64,
}

impl Compacting {
    fn new(call: Call, errno: Errno) -> Compacting {
        let (fails, renamed) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let failed = Arc::new(Counter::default());
        let decide = {
            let (fails, renamed, failed) = (fails.clone(), renamed.clone(), failed.clone());
            move |this: Call, _: &_| {
                let is_renamed = renamed.load(Ordering::SeqCst) > 0;
                renamed.fetch_add(u64::from(this == Call::Rename), Ordering::SeqCst);
                if this != call || !is_renamed || !fails.load(Ordering::SeqCst) {
                    return Fate::Done;
                }
                failed.next();
                Fate::Fails(errno)
            }
        };
        Compacting {
            store: opened(Faulty::new(Sim::new(), decide), "/cache"),
            fails,
            renamed,
            failed,
            rows: 0,
        }
    }

    /// Flushes so many rows one by one. Returns the segments, and those that were compacted.
    fn flush(&mut self, rows: u64, fails: bool) -> (u64, u64) {
        self.fails.store(fails, Ordering::SeqCst);
        for _ in 0..rows {
            self.renamed.store(0, Ordering::SeqCst);
            put_flushed(&self.store, self.rows..self.rows + 1, LEN);
            self.rows += 1;
        }
        let stats = self.store.stats();
        (stats.segments, stats.compacted_segments)
    }
}

#[test]
fn what_could_not_be_compacted_is_compacted_later() {
    for (call, errno) in FAILURES {
        let mut compacting = Compacting::new(call, errno);
        assert_eq!(compacting.flush(8, true), (8, 0), "{call:?}");
        assert!(compacting.failed.get() > 0, "{call:?}");
        assert_eq!(compacting.flush(1, false), (1, 9), "{call:?}");
        expect_all(&compacting.store, 0..9, LEN);
    }
    seen("compacting fails once", FAILURES.len() as u64);
}

#[test]
fn compacting_on_a_full_disk_is_tried_less_and_less() {
    let mut compacting = Compacting::new(Call::Create, Errno::NOSPC);
    assert_eq!(compacting.flush(200, true), (200, 0));
    let failed = compacting.failed.get();
    assert!((10..100).contains(&failed), "{failed} attempts");
    expect_all(&compacting.store, 0..200, LEN);
}

/// A file system of a megabyte, which the child mounts in a namespace of its own.
fn small_tmpfs() {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh"]);
    let mount = "mount -t tmpfs -o size=1m,mode=755 none \"$3\" && exec \"$@\"";
    let root = tempfile::tempdir().unwrap();
    let mut running = fill(command, mount, root.path());
    match running.line().as_deref() {
        Some("STARTED") => running.succeeds(),
        _ => println!("left out: no tmpfs can be mounted here"),
    }
}

fn file_size() {
    let limited = "ulimit -f 512; exec \"$@\"";
    let root = tempfile::tempdir().unwrap();
    fill(Command::new("sh"), limited, root.path()).succeeds();
}

fn fill(mut shell: Command, script: &str, dir: &Path) -> Running {
    let child = child("fill", dir, &[]);
    // After the script: its own name, the program, the role, the directory.
    shell.args(["-c", script, "sh"]).arg(child.get_program());
    shell.args(child.get_args()).stdout(Stdio::piped());
    Running::start(shell)
}
