//! What a fleet of machines costs that share a bucket, by simulation of the protocol: the code of the remote tier runs
//! for each machine and its requests are counted; the bucket and the clock are simulated. `--quick` simulates little.

use crate::bill::{Bill, count, share};
use crate::fleet::{FULL_OBJECT, IDENTITIES, INDEX_BYTES, MACHINES, Traffic, Workload, max_rows};
use crate::table::Table;

mod bill;
mod bucket;
mod fleet;
mod reading;
mod start;
#[path = "../common/table.rs"]
mod table;

/// The rows of an identity.
const ROWS: u64 = 100_000_000;

fn main() {
    // `cargo test --benches` passes `--test`.
    let is_quick = std::env::args().any(|it| it == "--quick" || it == "--test");
    let (machines, hours, rows) = match is_quick {
        true => (8, (1, 1), ROWS / 100),
        false => (MACHINES, (2, 2), ROWS),
    };
    let all_found = Workload {
        machines,
        identities: 1,
        objects: rows.div_ceil(FULL_OBJECT),
        batch: 16,
        computed: 0.0,
        misses: false,
        hours,
    };
    let one_percent = Workload {
        computed: rows as f64 / 100.0 / machines as f64,
        ..all_found
    };
    let all_computed = Workload {
        objects: 0,
        batch: 256,
        computed: rows as f64 / machines as f64,
        ..all_found
    };
    let missed = |workload| Workload {
        misses: true,
        ..workload
    };
    let days = [
        ("all rows computed", all_computed),
        ("1 % computed", one_percent),
        ("1 % computed, misses", missed(one_percent)),
        ("none computed, misses", missed(all_found)),
        ("all rows found", all_found),
    ];
    let days = days.map(|(name, workload)| (name, workload, workload.run()));
    println!(
        "**A day.** {machines} machines × {IDENTITIES} identities × {rows} rows of 2,000 bytes.\n"
    );
    print_days(&days);
    let (_, trickle, fleet) = days[1];
    println!("\n**Whether more machines are as expected.** 1 % computed.\n");
    print_growth(trickle, fleet);
    let sizes: &[u64] = match is_quick {
        true => &[31, 300],
        false => &[3_052, 9_766, 65_536, 100_000],
    };
    println!("\n**A start**, of one machine with one identity.\n");
    let known = start::print(sizes, rows);
    println!("\n**Reading** every row once.\n");
    reading::print(rows, machines);
    println!("\n**Limits**, for each identity.\n");
    print_limits(known, fleet.objects, rows);
}

fn print_days(days: &[(&str, Workload, Traffic)]) {
    let table = Table::new(&[
        "a day of             ",
        " PUT",
        " GET",
        " LIST",
        " objects",
        " MB in",
        " MB out",
        " fleet: M requests",
        " TB in",
        " $ a day",
    ]);
    for (name, workload, traffic) in days {
        let one = *traffic * (1.0 / workload.machines as f64);
        let fleet = *traffic * IDENTITIES as f64;
        table.row(&[
            (*name).to_owned(),
            count(one.puts),
            count(one.gets),
            count(one.lists),
            count(one.objects),
            count(one.bytes_in / 1e6),
            count(one.bytes_out / 1e6),
            count((fleet.puts + fleet.gets + fleet.lists) / 1e6),
            count(fleet.bytes_in / 1e12),
            Bill::of(fleet).to_string(),
        ]);
    }
}

/// Compares a fleet with what a quarter of its machines lets one expect.
fn print_growth(workload: Workload, fleet: Traffic) {
    let quarter = Workload {
        machines: workload.machines / 4,
        ..workload
    };
    let one = quarter.run() * (1.0 / quarter.machines as f64);
    let others = |machines: usize| one.objects * (machines - 1) as f64;
    // Each machine reads the footers of all others, and hints.
    let gets = one.gets - others(quarter.machines) + others(workload.machines);
    let two = Workload {
        identities: 2,
        ..quarter
    };
    let table = Table::new(&[
        "requests         ",
        " expected",
        " simulated",
        " simulated / expected",
    ]);
    let machines = workload.machines as f64;
    let single = quarter.machines as f64;
    let two = two.run();
    for (name, expected, simulated) in [
        ("PUT", one.puts * machines, fleet.puts),
        ("GET", gets * machines, fleet.gets),
        ("LIST", one.lists * machines, fleet.lists),
        ("PUT, 2 identities", 2.0 * one.puts * single, two.puts),
        ("GET, 2 identities", 2.0 * one.gets * single, two.gets),
    ] {
        let ratio = format!("{:.3}", simulated / expected);
        table.row(&[name.to_owned(), count(expected), count(simulated), ratio]);
    }
}

fn print_limits(known: u64, objects_a_day: f64, rows: u64) {
    let table = Table::new(&[
        "limit                   ",
        "    value",
        "                  reached",
    ]);
    let indexed = max_rows();
    let row = |what: &str, value: f64, reached: String| {
        table.row(&[what.to_owned(), count(value), reached])
    };
    row("rows of an index", indexed as f64, share(indexed, rows));
    let bytes = |rows: u64| (rows * INDEX_BYTES) as f64 / 1e9;
    row(
        "GB of that index",
        bytes(indexed),
        format!("{:.1} for all rows", bytes(rows)),
    );
    let days = known as f64 / objects_a_day;
    row(
        "objects that are known",
        known as f64,
        format!("{days:.1} days of 1 % computed"),
    );
    // 64 MiB of rows of 200,000 bytes.
    let large = (rows * 200_000) >> 26;
    row(
        "the same, rows of 200 kB",
        known as f64,
        share(known, large),
    );
}
