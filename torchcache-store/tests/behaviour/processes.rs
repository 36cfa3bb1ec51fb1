//! Tests that need a process of their own. Each child is this test program; a variable holds its role.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use torchcache_store::fs::Os;
use torchcache_store::{Fault, Store, TempCache};

use crate::common::{OnWarning, batch, count_right, keys, manual_flush};

const ROLE: &str = "TORCHCACHE_STORE_TEST_ROLE";
const DIR: &str = "TORCHCACHE_STORE_TEST_DIR";
const LEN: usize = 2000;

/// A command that starts this program as `role`, through `sh` so that limits can be set.
fn child(role: &str, dir: &Path, limits: &str) -> Command {
    let mut command = Command::new("sh");
    let program = std::env::current_exe().expect("this program has a path");
    command
        .args(["-c", &format!("{limits} exec \"$0\" \"$@\"")])
        .arg(program)
        .args([
            "--exact",
            "processes::child_process",
            "--ignored",
            "--nocapture",
        ])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdout(Stdio::piped());
    command
}

/// Reads the child's output until a line begins with `word`; returns the rest of that line.
fn wait_for(output: &mut impl BufRead, word: &str) -> String {
    let mut line = String::new();
    while output.read_line(&mut line).expect("the child can be read") > 0 {
        // The test harness writes the test's name without a line end.
        if let Some((_, rest)) = line.split_once(word) {
            return rest.trim().to_owned();
        }
        line.clear();
    }
    panic!("the child ended without saying {word:?}");
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the parent listens");
}

fn run_to_end(mut command: Command) {
    let output = command.output().expect("the child starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("1 passed"), "the child did nothing: {text}");
}

static STORE: OnceLock<Store> = OnceLock::new();
static TEMP: OnceLock<TempCache> = OnceLock::new();

#[test]
#[ignore = "what the tests below start as another process"]
fn child_process() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    match std::env::var(ROLE).expect("a role").as_str() {
        "have few descriptors" => {
            // Each row fills a segment, so that nothing is compacted.
            let config = manual_flush().with_segment_bytes(4096);
            let store = Store::open(dir, config).expect("it opens");
            for n in 0..100 {
                store.put(batch(&keys(n..n + 1), "a", 5000));
            }
            store.flush().expect("it is written");
            assert_eq!(count_right(&store, &keys(0..100), 5000), 100);
            assert_eq!(
                (store.stats().segments, store.stats().faults.total()),
                (100, 0)
            );
        }
        "have many stores" => have_many_stores(dir),
        "have many files open" => have_many_files_open(dir),
        "count warnings" => count_warnings(dir),
        "panic in the log" => panic_in_the_log(dir),
        "exit in the log" => exit_in_the_log(dir),
        "live in a temporary directory" => {
            let temp = TEMP.get_or_init(|| TempCache::new_in(dir).expect("it is made"));
            let open = || Store::open(temp.path().join("hash"), manual_flush()).expect("it opens");
            let store = STORE.get_or_init(open);
            store.put(batch(&keys(0..100), "a", LEN));
            say(&format!("PATH {}", temp.path().display()));
            if std::env::var_os("STAY").is_some() {
                thread::sleep(Duration::from_secs(600));
            }
        }
        role => panic!("no such role: {role}"),
    }
}

/// Opens files of the program itself meanwhile, eight at a time, and returns how many.
fn open_own_files(while_open: impl FnOnce() + Send) -> usize {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let opening = scope.spawn(|| {
            let program = std::env::current_exe().expect("this program has a path");
            let mut opened = 0;
            loop {
                let files: Vec<_> = (0..8).map(|_| std::fs::File::open(&program)).collect();
                let failed = files.into_iter().find_map(Result::err);
                assert!(failed.is_none(), "after {opened}: {failed:?}");
                opened += 8;
                if is_done.load(Ordering::Relaxed) {
                    return opened;
                }
                thread::yield_now();
            }
        });
        while_open();
        is_done.store(true, Ordering::Relaxed);
        opening.join().expect("every file can be opened")
    })
}

/// 200 stores are alive, and their process may have 64 descriptors.
fn have_many_stores(dir: &Path) {
    let config = || manual_flush().with_batch_delay(Duration::ZERO);
    let open = |n| Store::open(dir.join(format!("{n}")), config()).expect("it opens");
    for round in 0..2 {
        let opened = open_own_files(|| {
            let stores: Vec<_> = (0..200).map(open).collect();
            let row = |n: u64| n..n + 1;
            for (n, store) in (0..).zip(&stores) {
                store.put(batch(&keys(row(1000 * round + n)), "a", LEN));
            }
            stores
                .iter()
                .for_each(|store| store.flush().expect("it is written"));
            for (n, store) in (0..).zip(&stores) {
                for before in 0..=round {
                    let found = count_right(store, &keys(row(1000 * before + n)), LEN);
                    assert_eq!((n, before, found), (n, before, 1));
                }
                assert_eq!(store.stats().faults.total(), 0, "{:?}", store.stats());
            }
        });
        assert!(opened > 0);
    }
}

/// The program takes every descriptor that there is, and then gives a few back.
fn have_many_files_open(dir: &Path) {
    let config = manual_flush().with_segment_bytes(4096);
    let store = Store::open(dir, config).expect("it opens");
    for n in 0..20 {
        store.put(batch(&keys(n..n + 1), "a", 5000));
    }
    store.flush().expect("it is written");
    assert_eq!(count_right(&store, &keys(0..10), 5000), 10);
    let program = std::env::current_exe().expect("this program has a path");
    let mut own = Vec::new();
    while let Ok(file) = std::fs::File::open(&program) {
        own.push(file);
    }
    // The files that stay open between reads are given back to whatever needs one.
    let again = Store::open_on(Arc::new(Os), dir, manual_flush()).expect("it opens");
    store.put(batch(&keys(20..21), "a", 5000));
    store.flush().expect("it is written");
    for store in [&again, &store] {
        assert_eq!(count_right(store, &keys(0..20), 5000), 20);
        assert_eq!(store.stats().faults.total(), 0, "{:?}", store.stats());
    }
}

fn count_warnings(dir: &Path) {
    for (name, len) in [("a", 10), ("b", 20), ("c", 100), ("d", 200), ("e", 300)] {
        let path = dir.join(name).with_extension("tcs");
        std::fs::write(path, vec![7; len]).expect("it can be written");
    }
    static WARNINGS: AtomicU64 = AtomicU64::new(0);
    let log = OnWarning(|| _ = WARNINGS.fetch_add(1, Ordering::Relaxed));
    tracing::subscriber::set_global_default(log).expect("the first one");
    let store = Store::open(dir, manual_flush()).expect("it opens");
    store.refresh();
    let faults = store.stats().faults;
    assert_eq!(faults.get(Fault::Truncated), 2);
    assert_eq!(faults.get(Fault::Corrupt), 3);
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 2, "one of each kind");
}

fn panic_in_the_log(dir: &Path) {
    let dir = dir.join("cache");
    let store = Store::open(&dir, manual_flush()).expect("it opens");
    std::fs::remove_dir_all(&dir).expect("it can be removed");
    std::fs::write(&dir, "in the way").expect("it can be written");
    let log = OnWarning(|| panic!("the log panics"));
    tracing::subscriber::set_global_default(log).expect("the first one");
    store.put(batch(&keys(0..3), "a", LEN));
    let error = store.flush().expect_err("the rows are lost").to_string();
    assert!(error.contains("3 rows"), "{error}");
    let stats = store.stats();
    assert!(stats.faults.get(Fault::Panic) >= 1, "{stats:?}");
    assert_eq!((stats.pending_rows, stats.pending_bytes), (0, 0));
    std::fs::remove_file(&dir).expect("it can be removed");
    store.put(batch(&keys(0..3), "a", LEN));
    store.flush().expect("the thread goes on");
    assert_eq!(count_right(&store, &keys(0..3), LEN), 3);
}

/// The flusher thread of one store ends the process while another store has queued rows.
fn exit_in_the_log(dir: &Path) {
    let config = manual_flush().with_stall_timeout(Duration::from_secs(2));
    let open = |name: &str| Store::open(dir.join(name), config.clone()).expect("it opens");
    let (ends, kept) = (open("ends"), open("kept"));
    kept.put(batch(&keys(0..3), "a", LEN));
    std::fs::remove_dir_all(ends.dir()).expect("it can be removed");
    std::fs::write(ends.dir(), "in the way").expect("it can be written");
    // The end of the process may warn that the store did not end.
    let is_first = AtomicBool::new(true);
    let log = OnWarning(move || {
        let is_flusher = thread::current().name() == Some("torchcache-store");
        if is_flusher && is_first.swap(false, Ordering::Relaxed) {
            std::process::exit(7);
        }
    });
    tracing::subscriber::set_global_default(log).expect("the first one");
    ends.put(batch(&keys(0..3), "a", LEN));
    let _ = ends.flush();
    thread::sleep(Duration::from_secs(60));
    panic!("the process did not end");
}

#[test]
fn a_flusher_that_ends_the_process_keeps_other_stores_rows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ended = child("exit in the log", dir.path(), "").status();
    assert_eq!(ended.expect("the child starts").code(), Some(7));
    let store = Store::open(dir.path().join("kept"), manual_flush()).expect("it opens");
    assert_eq!(count_right(&store, &keys(0..3), LEN), 3);
}

/// In a process of its own: a subscriber of one thread misses events whose place in the code another
/// thread, which has no subscriber, reaches first.
#[test]
fn each_kind_of_fault_is_warned_of_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("count warnings", dir.path(), ""));
}

#[test]
fn a_panic_of_the_flusher_blocks_no_caller() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("panic in the log", dir.path(), ""));
}

#[test]
fn more_segments_than_descriptors_are_all_readable() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("have few descriptors", dir.path(), "ulimit -n 30;"));
}

#[test]
fn many_stores_leave_descriptors_to_the_program() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("have many stores", dir.path(), "ulimit -n 64;"));
}

#[test]
fn rows_are_read_when_the_program_has_no_descriptor_left() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("have many files open", dir.path(), "ulimit -n 64;"));
}

#[test]
fn a_temp_cache_is_removed_at_exit_or_by_the_next_process() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("live in a temporary directory", parent.path(), ""));
    assert_eq!(
        std::fs::read_dir(parent.path())
            .expect("it is there")
            .count(),
        0
    );

    let mut command = child("live in a temporary directory", parent.path(), "");
    let mut child = command.env("STAY", "1").spawn().expect("the child starts");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let path = wait_for(&mut output, "PATH ");
    drop(TempCache::new_in(parent.path()).expect("it is made"));
    assert!(Path::new(&path).is_dir(), "its owner lives");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(
        Path::new(&path).is_dir(),
        "a killed process removes nothing"
    );
    drop(TempCache::new_in(parent.path()).expect("it is made"));
    assert!(!Path::new(&path).exists());
}

#[test]
fn a_miss_finds_rows_that_another_process_wrote() {
    let dir = tempfile::tempdir().unwrap();
    // Two stores on a file system are as foreign to each other as two processes.
    let open = || Store::open_on(Arc::new(Os), dir.path(), manual_flush()).unwrap();
    let (store, other) = (open(), open());
    store.put(batch(&keys(0..100), "a", LEN));
    assert_eq!(count_right(&store, &keys(100..200), LEN), 0);
    other.put(batch(&keys(100..200), "a", LEN));
    other.flush().unwrap();
    // Without `refresh`: a miss lists the directory, a little later.
    let begin = Instant::now();
    while count_right(&store, &keys(100..200), LEN) < 100 {
        assert!(begin.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(store.stats().stored_rows, 0);
}
