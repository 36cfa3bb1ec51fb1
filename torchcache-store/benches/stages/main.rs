//! Steps of the disk tier, each compared with the system call or copy that it cannot do without: locate,
//! read, put, write, open. On the row sizes of the three workloads.
//!
//! `cargo bench -p torchcache-store --bench stages`; `--quick` runs few rounds, and a name such as
//! `embed` runs one workload. Both sides take turns, so that interference hits both alike; the best round
//! of each counts.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use torchcache_store::segment::{Encoding, SegmentWriter};
use torchcache_store::{Compression, Key, Located, RowValues, Store};

use crate::common::footers::read_footers;
use crate::common::{Table, has, is_quick, micros, scratch_dir, segments, timed};
use crate::data::{Call, WORKLOADS, Workload};
use crate::filled::{Filled, on_request, read};

#[path = "../common/mod.rs"]
mod common;
mod data;
mod filled;

fn main() {
    let headings = [
        "workload",
        "step                     ",
        " µs a call",
        "plain               ",
        " µs a call",
        " ratio",
    ];
    let table = Table::new(&headings);
    let rounds = if is_quick() { 2 } else { 40 };
    let named = WORKLOADS.iter().any(|workload| has(workload.name));
    for workload in &WORKLOADS {
        if has(workload.name) || !named {
            Bench {
                workload,
                table: &table,
                rounds,
            }
            .run();
        }
    }
}

struct Bench<'a> {
    workload: &'a Workload,
    table: &'a Table,
    rounds: usize,
}

impl Bench<'_> {
    fn run(&self) {
        let calls: Vec<Call> = (0..self.workload.calls)
            .map(|n| self.workload.call(n))
            .collect();
        let raw = Filled::new(&calls, self.workload, None);
        let zstd = Filled::new(&calls, self.workload, Some(Compression::new(3, 0)));
        let mut out = vec![0; self.workload.rows * self.workload.row_len];
        let mut spare = out.clone();
        let plain = raw.plain();

        self.compare(
            "locate",
            |n| drop(black_box(raw.store.locate(&calls[n].keys))),
            "pread of the rows",
            |n| plain.in_order(n, &mut out),
        );
        let in_order: Vec<Vec<Located>> = calls.iter().map(|call| raw.locate(&call.keys)).collect();
        self.compare(
            "read, as stored",
            |n| raw.read(&in_order[n], &mut spare),
            "pread of the rows",
            |n| plain.in_order(n, &mut out),
        );
        assert_eq!(spare, calls[self.workload.calls - 1].values.bytes);
        let keys: Vec<Key> = calls
            .iter()
            .flat_map(|call| call.keys.iter().copied())
            .collect();
        let scattered: Vec<Vec<Located>> = (0..self.workload.calls)
            .map(|n| {
                raw.locate(
                    &self
                        .workload
                        .scattered(n)
                        .map(|row| keys[row])
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        self.compare(
            "read, scattered",
            |n| raw.read(&scattered[n], &mut spare),
            "pread of each row",
            |n| plain.scattered(self.workload.scattered(n), &mut out),
        );
        let compressed: Vec<Vec<Located>> =
            calls.iter().map(|call| zstd.locate(&call.keys)).collect();
        self.compare(
            "read, zstd",
            |n| zstd.read(&compressed[n], &mut spare),
            "pread of the rows",
            |n| plain.in_order(n, &mut out),
        );
        assert_eq!(spare, calls[self.workload.calls - 1].values.bytes);
        raw.store.reconfigure(raw.store.config().with_mmap(true));
        self.compare(
            "read, mapped",
            |n| raw.read(&in_order[n], &mut spare),
            "copy of the rows",
            |n| out.copy_from_slice(&calls[n].values.bytes),
        );
        self.queue(&calls, &mut out);
        self.flusher(&calls);
        self.open(&raw);
    }

    /// Storing rows into the queue, and reading them before they are written.
    fn queue(&self, calls: &[Call], out: &mut [u8]) {
        let dir = scratch_dir();
        let store = Store::open(dir.path(), on_request(None)).expect("it opens");
        let mut spare = out.to_vec();
        let mut queued = 0;
        self.compare(
            "put, shared rows",
            |n| {
                if n == 0 && queued > 0 {
                    store.clear();
                }
                store.put(calls[n].batch(self.workload.row_len));
                queued += 1;
            },
            "copy of the rows",
            |n| out.copy_from_slice(&calls[n].values.bytes),
        );
        let found: Vec<Vec<Located>> = calls
            .iter()
            .map(|call| store.locate(&call.keys).into_iter().flatten().collect())
            .collect();
        self.compare(
            "read, queued",
            |n| read(&store, &found[n], &mut spare),
            "copy of the rows",
            |n| out.copy_from_slice(&calls[n].values.bytes),
        );
        drop(found);
        store.clear();
    }

    /// The flusher's work without waiting for the disk, which is the same for both.
    fn flusher(&self, calls: &[Call]) {
        let dir = scratch_dir();
        let schema: Arc<[u8]> = b"schema".as_slice().into();
        let mut writer = None;
        let mut file = None;
        self.compare(
            "write into the page cache",
            |n| {
                if n == 0 {
                    writer = Some(SegmentWriter::create(dir.path()).expect("it can be made"));
                }
                let writer = writer.as_mut().expect("made at the first call");
                let row_len = self.workload.row_len as u32;
                for (row, key) in calls[n].keys.iter().enumerate() {
                    let value = calls[n].values.row(row);
                    writer
                        .push(key, &schema, row_len, Encoding::Raw, value)
                        .expect("there is room");
                }
            },
            "write of the rows",
            |n| {
                if n == 0 {
                    file = Some(File::create(dir.path().join("plain")).expect("it can be made"));
                }
                let file = file.as_mut().expect("made at the first call");
                file.write_all(&calls[n].values.bytes)
                    .expect("there is room");
            },
        );
    }

    /// Opening the whole store with the rows of all calls.
    fn open(&self, filled: &Filled) {
        let config = filled.store.config();
        let dir = scratch_dir();
        for path in segments(filled.dir.path()) {
            let name = path.file_name().expect("a name");
            std::fs::copy(&path, dir.path().join(name)).expect("it is copied");
        }
        let paths = segments(dir.path());
        let open = || drop(Store::open(dir.path(), config.clone()).expect("it opens"));
        let [mut ours, mut limit] = [Duration::MAX; 2];
        for _ in 0..self.rounds {
            ours = ours.min(timed(open));
            limit = limit.min(timed(|| read_footers(&paths)));
        }
        self.print("open, the whole store", ours, "read of the footers", limit);
    }

    /// Times both sides in turn, and prints the best round of each.
    fn compare(
        &self,
        step: &str,
        mut ours: impl FnMut(usize),
        plain: &str,
        mut limit: impl FnMut(usize),
    ) {
        let calls = self.workload.calls;
        let [mut our_best, mut limit_best] = [Duration::MAX; 2];
        for _ in 0..self.rounds {
            our_best = our_best.min(timed(|| (0..calls).for_each(&mut ours)));
            limit_best = limit_best.min(timed(|| (0..calls).for_each(&mut limit)));
        }
        self.print(
            step,
            our_best / calls as u32,
            plain,
            limit_best / calls as u32,
        );
    }

    fn print(&self, step: &str, ours: Duration, plain: &str, limit: Duration) {
        let [ours, limit] = [micros(ours), micros(limit)];
        self.table.row(&[
            self.workload.name,
            step,
            &format!("{ours:.2}"),
            plain,
            &format!("{limit:.2}"),
            &format!("{:.2}", ours / limit),
        ]);
    }
}
