//! How many requests rows cost. Stores bill by the request.

use crate::common::{Machine, bucket, unknown};

/// The requests for 10,000 rows, given those for `rows`.
fn per_10_000(requests: u64, rows: u64) -> f64 {
    requests as f64 * 10_000.0 / rows as f64
}

/// Computes rows slowly enough that each upload changes the hint, and reads them all by one call. Returns puts and gets
/// for 10,000 rows.
fn transfer(rows: u64, len: usize) -> (f64, f64) {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    // So many rows a second.
    let step = (4 << 20) / len as u64;
    for first in (0..rows).step_by(step as usize) {
        writer.compute(first..rows.min(first + step), len);
        writer.work(1);
    }
    let log = writer.objects.take_log();
    assert_eq!(log.lists, 1, "no other machine writes");
    let written = writer.stats().uploads.uploaded;
    assert!(written > rows / 2, "{written}");
    reader.work(1);
    reader.objects.take_log();
    let reader = Machine::new(&bucket);
    reader.work(1);
    assert_eq!(reader.count(0..written) as u64, written);
    let gets = reader.objects.take_log().gets;
    (
        per_10_000(log.puts + log.sets, written),
        per_10_000(gets, written),
    )
}

#[test]
fn ten_thousand_rows_of_2_kb_take_less_than_one_put_and_three_gets() {
    let (puts, gets) = transfer(70_000, 2001);
    println!("{puts:.2} puts and {gets:.2} gets for 10,000 rows of 2 KB");
    assert!(puts <= 0.7, "{puts} puts");
    assert!(gets <= 3.0, "{gets} gets");
}

#[test]
fn ten_thousand_rows_of_200_kb_take_62_puts_and_280_gets() {
    let (puts, gets) = transfer(1_400, 200_001);
    println!("{puts:.1} puts and {gets:.1} gets for 10,000 rows of 200 KB");
    assert!(puts <= 62.0, "{puts} puts");
    assert!(gets <= 280.0, "{gets} gets");
}

#[test]
fn an_idle_hour_takes_at_most_twelve_listings() {
    let bucket = bucket();
    let (writer, reader) = (Machine::new(&bucket), Machine::new(&bucket));
    writer.put(0..10, 300);
    for hour in 0..5 {
        for _ in 0..3600 {
            // Rows are missing all the time, and nothing changes.
            reader.remote.locate(&[unknown()]);
            reader.work(1);
        }
        let log = reader.objects.take_log();
        assert!(log.lists <= 1, "{} listings", log.lists);
        assert!(
            log.gets <= if hour == 0 { 18 } else { 12 },
            "{} reads",
            log.gets
        );
        assert_eq!(log.puts + log.sets, 0);
    }
}
