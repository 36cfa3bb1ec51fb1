//! What a process learns when it starts.

use std::path::PathBuf;
use std::sync::Arc;

use torchcache_store::fs::Os;

use crate::bill::{Bill, count, share};
use crate::bucket::{Bucket, ROW_LEN, StepClock};
use crate::fleet::{IDENTITIES, INDEX_BYTES, MACHINES, Machine, Traffic, fill, max_rows};
use crate::table::Table;

/// So many rows are one here.
const BATCH: u64 = 256;

/// Prints the requests of starts with so many objects, which together have `rows` rows. Returns the most objects that
/// were known.
pub(crate) fn print(objects: &[u64], rows: u64) -> u64 {
    let table = Table::new(&[
        " objects",
        " LIST",
        " GET",
        " MB of footers",
        " rows found",
        " index, MB",
        " reopened: LIST",
        " GET",
        " $ for the fleet",
    ]);
    let mut most = 0;
    for &objects in objects {
        let clock = StepClock::new();
        let bucket = Bucket::new(&clock, false);
        let in_object = (rows / BATCH / objects).max(1);
        fill(&bucket, &clock, objects, in_object);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = || {
            let disk = (Arc::new(Os) as Arc<_>, PathBuf::from(dir.path()));
            let machine = Machine::on_disk(&bucket, &clock, 0, 8, max_rows() / BATCH, disk);
            machine.work();
            machine
        };
        let first = machine();
        let stats = first.remote.stats();
        let footers = bucket.footer_rows() * BATCH * ROW_LEN;
        let reopened = machine().traffic();
        let fresh: Traffic = first.traffic();
        let indexed = stats.indexed_rows * BATCH;
        let unbounded = Machine::new(&bucket, &clock, 0, 8, u64::from(u32::MAX));
        unbounded.work();
        most = most.max(unbounded.remote.stats().segments);
        table.row(&[
            objects.to_string(),
            count(fresh.lists),
            count(fresh.gets),
            count(footers as f64 / 1e6),
            share(indexed, rows),
            count((indexed * INDEX_BYTES) as f64 / 1e6),
            count(reopened.lists),
            count(reopened.gets),
            Bill::of(fresh * (MACHINES as u64 * IDENTITIES) as f64).to_string(),
        ]);
    }
    most
}
