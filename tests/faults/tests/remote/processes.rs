//! Processes with threads of their own, which end in each way while rows are to be uploaded.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use torchcache_faults::cases::{case, cases, eventually, seen};
use torchcache_faults::dir_objects::DirObjects;
use torchcache_faults::process::{Running, command, fork, number};
use torchcache_faults::roles::remote_tier::{LEN, ROWS, compute, open};
use torchcache_faults::rows::{key, value};
use torchcache_store::Key;
use torchcache_store::remote::RemoteFlushError;
use torchcache_store::segment::SegmentReader;

/// What a process may take that waits ten seconds for uploads.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn start(dir: &Path, bucket: &Path, end: &str, first: u64) -> Running {
    let args = [
        bucket.display().to_string(),
        end.to_owned(),
        first.to_string(),
    ];
    let program = env!("CARGO_BIN_EXE_faults-child");
    Running::start(command(program, "remote_tier", dir, &args))
}

/// Waits for the next line, which must be this.
#[track_caller]
fn expect_line(child: &mut Running, line: &str) {
    assert_eq!(child.line().as_deref(), Some(line));
}

/// How often the bucket has each row. Each is right.
#[track_caller]
fn rows(bucket: &Path) -> HashMap<Key, usize> {
    let mut rows = HashMap::new();
    for object in DirObjects::new(bucket).objects("/s/") {
        let segment = SegmentReader::open(&object, false).expect("it is sound");
        for row in segment.rows() {
            let row = row.expect("it is sound");
            let mut bytes = vec![0; LEN];
            segment.read(&row, &mut bytes).expect("it is sound");
            assert!(bytes == value(&row.key, LEN), "a wrong row");
            *rows.entry(row.key).or_default() += 1;
        }
    }
    rows
}

/// Expects that the bucket has each of these rows once.
#[track_caller]
fn expect_once(bucket: &Path, numbers: impl Iterator<Item = u64>) {
    let rows = rows(bucket);
    for number in numbers {
        assert_eq!(rows.get(&key(number)), Some(&1), "row {number}");
    }
}

#[test]
fn the_end_of_a_process_uploads_pending_rows() {
    for end in ["return", "exit", "private", "signal"] {
        case(format_args!("{end}"), || {
            let temp = tempfile::tempdir().expect("a temporary directory");
            let (dir, bucket) = (temp.path(), temp.path().join("bucket"));
            let mut child = start(dir, &bucket, end, 0);
            expect_line(&mut child, "PUT");
            if end == "signal" {
                let pid = Pid::from_child(&child.child);
                kill_process(pid, Signal::TERM).expect("it runs");
            }
            let (lines, status) = child.rest();
            assert!(lines.is_empty(), "{lines:?}");
            assert_eq!(
                status.success(),
                matches!(end, "return" | "private"),
                "{status}"
            );
            expect_once(&bucket, 0..ROWS);
        });
    }
}

#[test]
fn a_store_that_hangs_delays_the_end_by_ten_seconds_at_most() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path(), temp.path().join("bucket"));
    DirObjects::new(&bucket).hang();
    let mut child = start(dir, &bucket, "exit", 0);
    expect_line(&mut child, "PUT");
    let begin = Instant::now();
    child.rest();
    assert!(begin.elapsed() < ENDS_WITHIN, "{:?}", begin.elapsed());
    // The next process uploads what this one could not.
    std::fs::remove_file(bucket.join("hangs")).expect("it is there");
    start(dir, &bucket, "flushes", 0).succeeds();
    expect_once(&bucket, 0..ROWS);
}

#[test]
fn a_store_that_is_known_to_fail_delays_no_end() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path(), temp.path().join("bucket"));
    DirObjects::new(&bucket).refuse();
    let mut child = start(dir, &bucket, "breaker", 0);
    expect_line(&mut child, "PUT");
    let begin = Instant::now();
    child.succeeds();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_process_that_was_killed_while_it_uploads_loses_nothing_that_it_stored() {
    const ROUNDS: u64 = 3;
    let cases = u64::from(cases(5, 100));
    for n in 0..cases {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (dir, bucket) = (temp.path(), temp.path().join("bucket"));
        let mut stored = 0;
        for round in 0..ROUNDS {
            let mut child = start(dir, &bucket, "keeps-computing", 1_000_000 * round);
            let lines = fastrand::Rng::with_seed(n * ROUNDS + round).u32(1..20);
            for _ in 0..lines {
                let line = child.line().expect("it goes on");
                stored = number(&line, "STORED").expect("it says so");
            }
            child.child.kill().expect("it runs");
            child.rest();
            start(dir, &bucket, "flushes", 0).succeeds();
            expect_once(&bucket, 1_000_000 * round..stored);
        }
    }
    seen("killed while uploading", cases * ROUNDS);
}

#[test]
fn rows_of_dead_processes_are_uploaded_once_by_eight_that_start_together() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path(), temp.path().join("bucket"));
    let objects = DirObjects::new(&bucket);
    objects.hang();
    for n in 0..4 {
        let mut child = start(dir, &bucket, "stays", n * 1000);
        expect_line(&mut child, "PUT");
        let (store, _) = open(&dir.join("feed"), &bucket);
        // Its flusher writes within about a second.
        let is_stored = || store.locate(&[key(n * 1000)])[0].is_some();
        assert!(eventually(Duration::from_secs(30), is_stored));
        child.child.kill().expect("it runs");
    }
    std::fs::remove_file(bucket.join("hangs")).expect("it is there");
    let children: Vec<_> = (0..8).map(|_| start(dir, &bucket, "flushes", 0)).collect();
    children.into_iter().for_each(Running::succeeds);
    let numbers = (0..4).flat_map(|n| n * 1000..n * 1000 + ROWS);
    expect_once(&bucket, numbers);
}

#[test]
fn dropping_the_tier_and_its_store_uploads_pending_rows() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path().join("feed"), temp.path().join("bucket"));
    let opened = open(&dir, &bucket);
    compute(&opened, 0..ROWS);
    drop(opened);
    let objects = DirObjects::new(&bucket);
    let is_put = || !objects.objects("/s/").is_empty();
    assert!(
        eventually(Duration::from_secs(25), is_put),
        "without the delay of thirty seconds"
    );
    expect_once(&bucket, 0..ROWS);
}

#[test]
fn the_thread_of_a_dropped_tier_leaves_rows_that_are_denied_to_the_next_one() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path().join("feed"), temp.path().join("bucket"));
    let objects = DirObjects::new(&bucket);
    objects.deny();
    let opened = open(&dir, &bucket);
    compute(&opened, 0..ROWS);
    let flushed = opened.1.flush(Duration::from_millis(100));
    flushed.expect_err("it is denied");
    drop(opened);
    std::fs::remove_file(bucket.join("denies")).expect("it is there");
    // A tier takes over journals as it starts.
    let is_put = || {
        let (_store, tier) = open(&dir, &bucket);
        tier.flush(Duration::from_secs(60)).is_ok() && !objects.objects("/s/").is_empty()
    };
    assert!(eventually(Duration::from_secs(25), is_put));
    expect_once(&bucket, 0..ROWS);
}

#[test]
fn a_flush_in_a_forked_child_uploads_nothing_and_returns_what_its_parent_has_left() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path().join("feed"), temp.path().join("bucket"));
    let opened = open(&dir, &bucket);
    let tier = &opened.1;
    let left_in_child = |expected: u64| {
        let child = || {
            let begin = Instant::now();
            let left = match tier.flush(Duration::from_secs(600)) {
                Ok(()) => 0,
                Err(RemoteFlushError::Timeout { rows, source, .. }) if source.is_none() => rows,
                Err(other) => panic!("{other}"),
            };
            i32::from(left != expected || begin.elapsed() >= ENDS_WITHIN)
        };
        let ended = waitpid(Some(fork(child).expect("it forks")), WaitOptions::empty());
        let status = ended
            .expect("it is there")
            .and_then(|it| it.1.exit_status());
        assert_eq!(status, Some(0));
    };
    compute(&opened, 0..ROWS);
    left_in_child(ROWS);
    assert!(DirObjects::new(&bucket).objects("/s/").is_empty());
    tier.flush(Duration::from_secs(60)).expect("it is uploaded");
    left_in_child(0);
    expect_once(&bucket, 0..ROWS);
}

#[test]
fn tiers_of_one_process_are_one() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (dir, bucket) = (temp.path().join("feed"), temp.path().join("bucket"));
    DirObjects::new(&bucket).refuse();
    let [one, same] = [(); 2].map(|()| open(&dir, &bucket));
    compute(&one, 0..ROWS);
    assert_eq!(same.1.stats().uploads.pending_rows, ROWS);
    drop((one, same));
    thread::sleep(Duration::from_millis(10));
    let other = open(&dir, &bucket);
    // The first is about to upload its rows, and has them in its journal.
    assert_eq!(other.1.stats().uploads.pending_rows, 0);
}
