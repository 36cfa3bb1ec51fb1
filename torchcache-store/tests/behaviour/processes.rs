//! Several processes on one directory, and processes that end: well, badly, or out of space.
//! Each child is this test program again, told by a variable what to be.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use torchcache_store::{Config, Fault, Store, TempCache};

use crate::common::{batch, count_right, keys, patient, segments, temps};

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
        "write 100 rows" => {
            let store = Store::open(dir, patient()).expect("it opens");
            store.put(batch(&keys(100..200), "a", LEN));
            store.flush().expect("it is written");
        }
        "leave rows in a static" => {
            let store = STORE.get_or_init(|| Store::open(dir, patient()).expect("it opens"));
            store.put(batch(&keys(0..100), "a", LEN));
        }
        "write for ever" => write_for_ever(dir),
        "merge" => merge(dir),
        "have few descriptors" => {
            // Each row fills a segment, so that nothing is merged.
            let config = Config {
                segment_bytes: 4096,
                ..patient()
            };
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
        "panic in the log" => panic_in_the_log(dir),
        "fill the disk" => fill_the_disk(dir),
        "live in a temporary directory" => {
            let temp = TEMP.get_or_init(|| TempCache::new_in(dir).expect("it is made"));
            let open = || Store::open(temp.path().join("hash"), patient()).expect("it opens");
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

fn write_for_ever(dir: &Path) {
    let config = Config {
        segment_bytes: 1 << 20,
        ..Config::default()
    };
    let store = Store::open(dir, config).expect("it opens");
    let start = u64::from(std::process::id()) << 32;
    for n in 0.. {
        let first = start + n * 32;
        store.put(batch(&keys(first..first + 32), "a", LEN));
        if n % 64 == 63 {
            store.flush().expect("it is written");
            say(&format!("FLUSHED {} {start}", (n + 1) * 32));
        }
    }
}

fn merge(dir: &Path) {
    let config = Config {
        batch_delay: Duration::ZERO,
        ..Config::default()
    };
    let store = Store::open(dir, config).expect("it opens");
    let start = u64::from(std::process::id()) << 32;
    for n in 0..150 {
        store.put(batch(&keys(start + n..start + n + 1), "a", LEN));
        store.flush().expect("it is written");
        let written = keys(start..start + n + 1);
        assert_eq!(count_right(&store, &written, LEN), written.len());
    }
    say(&format!(
        "START {start} MERGED {}",
        store.stats().compacted_segments
    ));
}

fn fill_the_disk(dir: &Path) {
    let store = Store::open(dir, patient()).expect("it opens");
    store.put(batch(&keys(0..500), "a", LEN));
    let error = store
        .flush()
        .expect_err("a file of a megabyte is over the limit");
    assert!(error.to_string().contains("500 rows"), "{error}");
    assert_eq!(
        count_right(&store, &keys(0..500), LEN),
        0,
        "they are misses"
    );
    let stats = store.stats();
    assert_eq!(
        (stats.faults.get(Fault::NoSpace), stats.faults.total()),
        (1, 1)
    );
    assert_eq!(
        (stats.pending_rows, stats.pending_bytes, stats.lost_rows),
        (0, 0, 500)
    );
    assert!(temps(dir).is_empty(), "the half-written file is removed");

    store.put(batch(&keys(0..5), "a", LEN));
    store.flush().expect("a small file fits");
    assert_eq!(count_right(&store, &keys(0..5), LEN), 5);
}

/// A log that panics over every warning: the only way from outside to make the writer panic.
struct Panicking;

impl tracing::Subscriber for Panicking {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        panic!("the log panics");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn panic_in_the_log(dir: &Path) {
    let dir = dir.join("cache");
    let store = Store::open(&dir, patient()).expect("it opens");
    std::fs::remove_dir_all(&dir).expect("it can be removed");
    std::fs::write(&dir, "in the way").expect("it can be written");
    tracing::subscriber::set_global_default(Panicking).expect("the first one");
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

#[test]
fn a_panic_of_the_writer_hangs_nobody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("panic in the log", dir.path(), ""));
}

#[test]
fn processes_see_each_other_s_rows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), patient()).expect("it opens");
    store.put(batch(&keys(0..100), "a", LEN));
    assert_eq!(count_right(&store, &keys(100..200), LEN), 0);
    run_to_end(child("write 100 rows", dir.path(), ""));
    // Nobody calls `refresh`: a miss looks by itself, a little later.
    let begin = Instant::now();
    while count_right(&store, &keys(100..200), LEN) < 100 {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the other's rows are never seen"
        );
        thread::sleep(Duration::from_millis(20));
    }
    store.flush().expect("it is written");
    assert_eq!(count_right(&store, &keys(0..200), LEN), 200);
    assert_eq!(store.stats().stored_rows, 100);
}

#[test]
fn processes_that_merge_the_same_segments_lose_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut children: Vec<Child> = (0..3)
        .map(|_| {
            child("merge", dir.path(), "")
                .spawn()
                .expect("the child starts")
        })
        .collect();
    let starts: Vec<u64> = children
        .iter_mut()
        .map(|child| {
            let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
            let line = wait_for(&mut output, "START ");
            // Read to the end, or the child could not write its last lines.
            std::io::copy(&mut output, &mut std::io::sink()).expect("the child can be read");
            let (start, merged) = line.split_once(" MERGED ").expect("both numbers");
            assert_ne!(merged, "0");
            start.parse().expect("a number")
        })
        .collect();
    for child in &mut children {
        assert!(child.wait().expect("it ends").success());
    }
    let store = Store::open(dir.path(), patient()).expect("it opens");
    for start in starts {
        assert_eq!(count_right(&store, &keys(start..start + 150), LEN), 150);
    }
    assert_eq!(store.stats().faults.total(), 0);
}

#[test]
fn a_process_killed_in_the_middle_of_writing_leaves_every_completed_segment() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut rounds, mut in_mid_file) = (0, 0);
    while rounds < 5 || (in_mid_file == 0 && rounds < 40) {
        rounds += 1;
        let before = temps(dir.path());
        let mut child = child("write for ever", dir.path(), "")
            .spawn()
            .expect("the child starts");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        for _ in 0..rounds % 3 {
            wait_for(&mut output, "FLUSHED ");
        }
        let line = wait_for(&mut output, "FLUSHED ");
        let (flushed, start) = line.split_once(' ').expect("both numbers");
        let (flushed, start): (u64, u64) = (
            flushed.parse().expect("a number"),
            start.parse().expect("a number"),
        );
        // Kill it while it has a file open that has no name yet.
        let begin = Instant::now();
        while temps(dir.path()) == before && begin.elapsed() < Duration::from_secs(5) {
            thread::yield_now();
        }
        child.kill().expect("it runs");
        let status = child.wait().expect("it ends");
        assert_eq!(
            status.signal(),
            Some(9),
            "it was killed, it did not end by itself"
        );
        in_mid_file += usize::from(temps(dir.path()) != before);

        let store = Store::open(dir.path(), patient()).expect("it opens");
        let written = keys(start..start + flushed);
        assert_eq!(count_right(&store, &written, LEN), flushed as usize);
        // Rows after the last flush are there or not, but never wrong.
        count_right(&store, &keys(start + flushed..start + flushed + 4096), LEN);
        assert_eq!(
            store.stats().faults.total(),
            0,
            "a kill leaves nothing unreadable"
        );
        assert_eq!(segments(dir.path()).len() as u64, store.stats().segments);
        store.clear();
    }
    assert!(
        in_mid_file > 0,
        "no kill of {rounds} fell into the writing of a file"
    );
}

#[test]
fn the_end_of_a_process_writes_what_a_static_store_has_queued() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("leave rows in a static", dir.path(), ""));
    let store = Store::open(dir.path(), patient()).expect("it opens");
    assert_eq!(count_right(&store, &keys(0..100), LEN), 100);
}

#[test]
fn more_segments_than_the_process_may_open_are_all_readable() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_to_end(child("have few descriptors", dir.path(), "ulimit -n 30;"));
}

#[test]
fn a_full_disk_makes_misses_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // 256 blocks are 128 or 256 KiB, depending on the shell.
    run_to_end(child(
        "fill the disk",
        dir.path(),
        "trap '' XFSZ; ulimit -f 256;",
    ));
}

#[test]
fn a_temporary_directory_goes_at_exit_and_after_a_kill_with_the_next_process() {
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
    assert!(Path::new(&path).is_dir(), "nobody cleaned up");
    drop(TempCache::new_in(parent.path()).expect("it is made"));
    assert!(!Path::new(&path).exists());
}
