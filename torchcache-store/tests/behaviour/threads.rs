//! Large reads are shared among the cores: each row arrives where it belongs, from wherever the
//! call comes, and a bad row is a miss and nothing else.

use std::fs;
use std::thread;

use crate::common::{batch, count_right, fetch_all, key, keys, manual_flush, segments, value};
use torchcache_store::{Compression, Key, Store};

/// Long enough for a call of all rows to be shared.
const LEN: usize = 20_000;
const ROWS: u64 = 240;

/// A store whose rows lie in several segments: raw, compressed, shuffled, and some in the queue.
fn mixed(mmap: bool) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush().with_mmap(mmap)).expect("it opens");
    let zstd = Some(Compression::new(1, 1));
    for (part, compression) in [(0, None), (1, zstd), (2, zstd), (3, None)] {
        store.reconfigure(manual_flush().with_compression(compression).with_mmap(mmap));
        let rows = batch(&keys(part * 60..(part + 1) * 60), "f32[5000]", LEN);
        store.put(rows.element_bytes(if part == 2 { 4 } else { 1 }));
        if part < 3 {
            store.flush().expect("it is written");
        }
    }
    (dir, store)
}

/// All keys, in the order of storing and in none.
fn orders() -> [Vec<Key>; 2] {
    let stored = keys(0..ROWS);
    let mut scattered = stored.clone();
    scattered.sort();
    scattered.extend_from_within(..20); // one key twice in a call
    [stored, scattered]
}

#[test]
fn every_row_of_a_large_read_arrives_where_it_belongs() {
    for mmap in [false, true] {
        let (dir, store) = mixed(mmap);
        assert_eq!(segments(dir.path()).len(), 3);
        for rows in orders() {
            assert_eq!(count_right(&store, &rows, LEN), rows.len());
        }
        store.flush().expect("it is written");
        for rows in orders() {
            assert_eq!(count_right(&store, &rows, LEN), rows.len());
        }
        assert_eq!(store.stats().faults.total(), 0);
    }
}

#[test]
fn pool_tasks_and_threads_read_one_store_at_once() {
    let (_dir, store) = mixed(false);
    let all = keys(0..ROWS);
    let read = || assert_eq!(count_right(&store, &all, LEN), ROWS as usize);
    // Tasks of the caller's pool read alone, while another thread's read is shared.
    let within = || {
        rayon::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|_| read());
            }
        });
    };
    thread::scope(|scope| {
        scope.spawn(within);
        scope.spawn(read);
        within();
    });
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn a_corrupt_row_in_a_large_read_costs_only_itself() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    store.put(batch(&keys(0..100), "u8", LEN));
    store.flush().expect("it is written");
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).expect("it can be read");
    bytes[16 + 41 * (LEN + 8) + 7] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");
    let rows = fetch_all(&store, &keys(0..100));
    for (n, row) in rows.into_iter().enumerate() {
        let right = (n != 41).then(|| value(&key(n as u64), LEN));
        assert!(row == right, "row {n}");
    }
    assert_eq!(store.stats().faults.total(), 1);

    // Cut short, with its footer known: what lies before the cut is there.
    let file = fs::File::options().write(true).open(&path);
    let end = 16 + 90 * (LEN as u64 + 8) + 5;
    file.and_then(|file| file.set_len(end))
        .expect("it can be cut");
    assert_eq!(count_right(&store, &keys(0..100), LEN), 89);
    assert_eq!(store.stats().faults.total(), 11);
}

#[test]
fn a_read_of_many_files_is_complete() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Each batch fills a segment, so that nothing is compacted.
    let config = manual_flush().with_segment_bytes(4096);
    let store = Store::open(dir.path(), config).expect("it opens");
    for n in 0..150 {
        store.put(batch(&keys(n * 2..n * 2 + 2), "u8", LEN));
    }
    store.flush().expect("it is written");
    assert!(store.stats().segments >= 150);
    let mut rows = keys(0..300);
    rows.sort();
    assert_eq!(count_right(&store, &rows, LEN), 300);
}

#[cfg(target_os = "linux")]
#[test]
fn only_the_flusher_lowers_its_priority() {
    // The 19th field, counted from the end of the name, which is in brackets.
    let niceness = |task: &std::path::Path| -> i64 {
        let stat = fs::read_to_string(task.join("stat")).expect("a task has its figures");
        let behind_the_name = &stat[stat.rfind(')').expect("a name") + 2..];
        let field = behind_the_name.split(' ').nth(16).expect("the field");
        field.parse().expect("a number")
    };
    let own = niceness("/proc/thread-self".as_ref());
    let (_dir, store) = mixed(false);
    assert_eq!(count_right(&store, &orders()[0], LEN), ROWS as usize);
    let tasks = fs::read_dir("/proc/self/task").expect("a process has tasks");
    // The system keeps fifteen characters of a name.
    let (writers, others): (Vec<_>, Vec<_>) = tasks
        .map(|task| task.expect("a task").path())
        .map(|task| (fs::read_to_string(task.join("comm")), niceness(&task)))
        .partition(|(name, _)| matches!(name, Ok(name) if name.trim() == "torchcache-stor"));
    assert!(!writers.is_empty(), "no thread writes");
    let lower = (own + 10).min(19);
    for (tasks, expected) in [(writers, lower), (others, own)] {
        let right = tasks.iter().all(|(_, niceness)| *niceness == expected);
        assert!(right, "{tasks:?} where {expected} is expected");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn threads_of_the_store_handle_no_signal() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = manual_flush().with_compression(Some(Compression::new(1, 1)));
    let store = Store::open(dir.path(), config).expect("it opens");
    store.put(batch(&keys(0..1000), "a", 4000));
    store.flush().expect("it is written");
    assert_eq!(count_right(&store, &keys(0..1000), 4000), 1000);
    let mut threads = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("it is there") {
        let task = task.expect("it can be read").path();
        // Threads of other tests may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task.join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.expect("it is there").trim().to_owned()
        };
        if !field("Name:").starts_with("torchcache") {
            continue;
        }
        threads += 1;
        let blocked = u64::from_str_radix(&field("SigBlk:"), 16).expect("a number");
        for signal in [
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGUSR1,
            libc::SIGXFSZ,
        ] {
            let is_blocked = blocked & (1 << (signal - 1)) != 0;
            assert!(is_blocked, "{signal} in {}", field("Name:"));
        }
    }
    assert!(threads > 0, "the flusher runs");
}
