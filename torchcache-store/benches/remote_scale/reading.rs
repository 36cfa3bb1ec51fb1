//! What it costs to read rows, and to walk over more rows than an index has.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use torchcache_store::Key;
use torchcache_store::remote::{Clock, RemoteRow};

use crate::bill::{Bill, STORAGE, count, share};
use crate::bucket::{Bucket, StepClock};
use crate::fleet::{
    FULL_OBJECT, IDENTITIES, Machine, ROW_OVERHEAD, Traffic, VALUE_LEN, fill, key, max_rows,
};
use crate::table::Table;

/// Objects that are read.
const OBJECTS: u64 = 4;

/// The rest of an object is fetched in portions: as many rows as fit into 8 MiB.
const FILL_ROWS: usize = (8 << 20) / VALUE_LEN as usize;

/// Prints what it costs that each machine reads each row of each identity once.
pub(crate) fn print(rows: u64, machines: usize) {
    let clock = StepClock::new();
    let bucket = Bucket::new(&clock, true);
    let writer = Machine::new(&bucket, &clock, 0, VALUE_LEN, max_rows());
    for n in 0..OBJECTS {
        writer.put(n * FULL_OBJECT..(n + 1) * FULL_OBJECT);
    }
    let table = Table::new(&[
        "order of the rows              ",
        " GET for 10,000 rows",
        " bytes / bytes of values",
        " $ a machine and identity",
        " $ for the fleet",
    ]);
    for (order, call, is_random, fills) in [
        ("as written, 256 a call", 256, false, true),
        ("the same, larger than the disk", 256, false, false),
        // Of so many rows, hardly two of a call are near each other.
        ("random", 1, true, true),
        ("the same, larger than the disk", 1, true, false),
    ] {
        let mut reader = Reader::new(&bucket, &clock, fills);
        let before = reader.machine.traffic();
        let read = OBJECTS * FULL_OBJECT;
        for first in (0..read).step_by(call as usize) {
            let first = match is_random {
                true => first * 7919 % read,
                false => first,
            };
            reader.read(first..read.min(first + call));
        }
        let traffic = reader.machine.traffic() - before;
        let all = Traffic {
            gets: traffic.gets / read as f64 * rows as f64,
            ..Traffic::default()
        };
        let fleet = all * (machines as u64 * IDENTITIES) as f64;
        table.row(&[
            order.to_owned(),
            count(traffic.gets * 1e4 / read as f64),
            format!("{:.2}", traffic.bytes_in / (read * VALUE_LEN) as f64),
            Bill::of(all).to_string(),
            Bill::of(fleet).to_string(),
        ]);
    }
    let bytes = rows * IDENTITIES * (VALUE_LEN + ROW_OVERHEAD);
    let stored = bytes as f64 / 1e9 * STORAGE;
    println!("\nStorage of all identities: {} a month.", Bill(stored));
    walk(rows);
}

/// A machine that reads each row once, and with `fills` has the rest of wanted objects on its disk.
struct Reader<'a> {
    machine: Machine,
    clock: &'a StepClock,
    local: HashSet<Key>,
    fills: bool,
}

impl Reader<'_> {
    fn new<'a>(bucket: &Arc<Bucket>, clock: &'a StepClock, fills: bool) -> Reader<'a> {
        let machine = Machine::new(bucket, clock, 0, VALUE_LEN, max_rows());
        machine.work();
        Reader {
            machine,
            clock,
            local: HashSet::new(),
            fills,
        }
    }

    fn read(&mut self, numbers: Range<u64>) {
        let keys: Vec<Key> = numbers
            .map(key)
            .filter(|it| !self.local.contains(it))
            .collect();
        let remote = &self.machine.remote;
        let rows: Vec<RemoteRow> = remote.locate(&keys).into_iter().flatten().collect();
        let deadline = self.clock.now() + Duration::from_secs(2);
        let read = into_buffers(&rows, |out| remote.read(&rows, out, deadline));
        assert!(read.len() == keys.len() && read.iter().all(|read| *read));
        self.local.extend(&keys);
        while let Some(wanted) = remote.take_wanted().filter(|_| self.fills) {
            let mut rows = remote.rows_of(&wanted).expect("the bucket has no faults");
            rows.retain(|row| !self.local.contains(row.key()));
            for rows in rows.chunks(FILL_ROWS) {
                let read = into_buffers(rows, |out| remote.fill(rows, out));
                assert!(read.iter().all(|read| *read));
                self.local.extend(rows.iter().map(RemoteRow::key));
            }
        }
    }
}

fn into_buffers(rows: &[RemoteRow], read: impl FnOnce(&mut [&mut [u8]]) -> Vec<bool>) -> Vec<bool> {
    let mut values = vec![1; VALUE_LEN as usize * rows.len()];
    let mut out: Vec<&mut [u8]> = values.chunks_mut(VALUE_LEN as usize).collect();
    read(&mut out)
}

/// Has a machine go through all rows of an identity twice, with an index that is smaller.
fn walk(rows: u64) {
    const BATCH: u64 = 256;
    let clock = StepClock::new();
    let bucket = Bucket::new(&clock, false);
    let (objects, in_object) = (rows / FULL_OBJECT, FULL_OBJECT / BATCH);
    fill(&bucket, &clock, objects, in_object);
    let machine = Machine::new(&bucket, &clock, 0, 8, objects * in_object / 6);
    machine.work();
    let mut found = [0, 0];
    for found in &mut found {
        for n in 0..objects {
            let keys: Vec<_> = (n * in_object..(n + 1) * in_object).map(key).collect();
            *found += machine.call(&keys) as u64;
            machine.flush();
            clock.sleep(Duration::from_secs(5));
        }
    }
    let [first, second] = found.map(|it| share(it, objects * in_object));
    println!(
        "\nWith an index of a sixth of the rows, a walk over all in the order of writing finds {first}, another one \
         {second}; rows that are not found are computed and put again."
    );
}
