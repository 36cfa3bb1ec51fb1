//! A sparse file may be very long and take hardly any room on the disk.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use torchcache_faults::rows::manual_flush;
use torchcache_store::{Fault, Store};

const FOOTER: u64 = 64 << 20;

/// A segment that is one hole between header and trailer, and claims as many rows as fit.
fn write_hole(path: &Path) {
    let rows = (FOOTER / 40) as u32;
    let trailer = [
        &16u64.to_le_bytes()[..],
        &FOOTER.to_le_bytes(),
        &[rows, 0, 2].map(u32::to_le_bytes).concat(),
        &[0; 12],
        b"TCSEGEND",
    ];
    let file = File::create(path).expect("it can be made");
    file.write_all_at(b"\x89TCSEG\r\n\x02\0\0\0\0\0\0\0", 0)
        .expect("it is written");
    file.write_all_at(&trailer.concat(), 16 + FOOTER)
        .expect("it is written");
}

/// The most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    1024 * number
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
}

/// The only test of the file, since it measures the memory of the whole process.
#[test]
fn a_hole_that_claims_millions_of_rows_costs_no_memory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_hole(&dir.path().join("hole.tcs"));
    let before = peak();
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    let cost = peak() - before;
    let stats = store.stats();
    assert_eq!((stats.rows, stats.faults.get(Fault::Corrupt)), (0, 1));
    assert!(cost < FOOTER / 4, "{cost} bytes");
}
