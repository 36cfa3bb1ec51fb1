//! Impossible times, as after a clock was set back, and directories with 100,000 files.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use proptest::prelude::*;
use rustix::io::Errno;
use torchcache_faults::cases::{cases, eventually, random, seen};
use torchcache_faults::faulty::{Call, Fate, Faulty};
use torchcache_faults::rows::{
    batch, count_right, expect_all, expect_no_faults, manual_flush, put_flushed,
};
use torchcache_faults::sim::Sim;
use torchcache_store::fs::FileSystem;
use torchcache_store::{Config, Store};

const LEN: usize = 9000;

/// Files in the directory.
const FILES: usize = 100_000;

/// Segments among them.
const SEGMENTS: u64 = 30;

#[test]
fn wrong_times_cost_no_rows() {
    let cases = cases(3, 100);
    proptest!(random(cases), |(seed: u64)| odd_times(seed));
    seen("clocks set back, times in the future", cases.into());
}

#[test]
fn rows_of_the_same_second_are_found() {
    let sim = Sim::new();
    sim.set_whole_seconds();
    let open = || {
        let fs = Arc::new(sim.clone());
        Store::open_on(fs, "/cache", manual_flush()).unwrap()
    };
    let (reader, writer) = (open(), open());
    // The second begins: nothing shows a change that comes a little later.
    let begun = eventually(Duration::from_secs(2), || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap().subsec_millis() < 100
    });
    assert!(begun);
    for row in 0..2 {
        put_flushed(&writer, row..row + 1, LEN);
        thread::sleep(Duration::from_millis(250));
        expect_all(&reader, 0..row + 1, LEN);
    }
}

/// A writer pauses for longer than a minute, and does not have the lock of its file: the system refused it, or
/// another process looked at the file in that moment.
#[test]
fn a_writer_without_a_lock_keeps_its_file_over_a_pause() {
    // On the writer's side only: a guest of a virtual machine, say, shares the directory with its host.
    let no_locks = [Errno::NOSYS, Errno::NOTSUP, Errno::NOLCK, Errno::IO].map(Some);
    for refused in no_locks.into_iter().chain([None]) {
        let sim = Sim::new();
        let held = Mutex::new(None);
        let decide = {
            let sim = sim.clone();
            move |call: Call, name: &OsStr| {
                let dir = sim.open_dir(Path::new("/cache"), false);
                let is_flusher = thread::current().name() == Some("torchcache-store");
                if !is_flusher {
                    return Fate::Done;
                }
                let dir = dir.unwrap();
                match (call, refused) {
                    (Call::Lock, Some(errno)) => return Fate::Fails(errno),
                    (Call::Lock, None) => {
                        let file = dir.open(name).unwrap();
                        assert!(file.try_lock().unwrap());
                        *held.lock().unwrap() = Some(file);
                    }
                    (Call::Sync, _) => {
                        drop(held.lock().unwrap().take());
                        let mut files = sim.files(Path::new("/cache"));
                        files.retain(|path| path.to_string_lossy().contains(".tmp-"));
                        let name = files[0].file_name().unwrap();
                        let before = SystemTime::now() - Duration::from_secs(120);
                        dir.open(name).unwrap().set_modified(before).unwrap();
                        let other = Store::open_on(Arc::new(sim.clone()), "/cache", manual_flush());
                        drop(other.unwrap());
                    }
                    _ => {}
                }
                Fate::Done
            }
        };
        let fs = Arc::new(Faulty::new(sim.clone(), decide));
        let store = Store::open_on(fs, "/cache", manual_flush()).unwrap();
        store.put(batch(0..3, LEN));
        assert_eq!(store.flush(), Ok(()), "{refused:?}");
        expect_all(&store, 0..3, LEN);
        let files = sim.files(Path::new("/cache"));
        assert_eq!(files.len(), 1, "no other file is left: {files:?}");
    }
}

fn opened(dir: &Path, config: Config) -> Store {
    Store::open(dir, config).unwrap()
}

/// Each row fills a segment, so that none is compacted.
fn single(max_bytes: u64) -> Config {
    manual_flush()
        .with_segment_bytes(4096)
        .with_max_bytes(max_bytes)
}

fn put_each(store: &Store, rows: std::ops::Range<u64>) {
    for row in rows {
        store.put(batch(row..row + 1, LEN));
    }
    store.flush().unwrap();
}

/// A time as a broken clock gives it.
fn odd_time(rng: &mut Rng) -> SystemTime {
    let now = SystemTime::now();
    let years = |years: u64| Duration::from_secs(years * 365 * 86_400);
    match rng.u8(..5) {
        0 => UNIX_EPOCH,
        1 => UNIX_EPOCH - years(1),
        2 => now + years(200),
        3 => now + Duration::from_secs(3),
        _ => now - years(5),
    }
}

fn odd_times(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let store = opened(dir, single(1 << 30));
    put_each(&store, 0..12);
    drop(store);
    for entry in fs::read_dir(dir).unwrap().flatten() {
        // The name has the time as well, and decides which of two equal rows is read.
        let path = match rng.bool() {
            true => entry.path(),
            false => dir.join(format!("{:016x}-1-{:016x}.tcs", rng.u64(..), rng.u64(..))),
        };
        let moved = fs::rename(entry.path(), &path);
        let file = moved.and_then(|()| fs::File::options().append(true).open(&path));
        let set = file.and_then(|file| file.set_modified(odd_time(&mut rng)));
        set.unwrap();
    }
    // A temporary file from the future, and one from a moment ago.
    let temps = [1, 4].map(|n| dir.join(format!(".tmp-{n:016x}-1-{n:016x}.tcs")));
    for (path, age) in temps.iter().zip([-365 * 86_400i64, 0]) {
        let time = SystemTime::now() + Duration::from_secs(age.unsigned_abs());
        let made = fs::File::create(path).and_then(|file| file.set_modified(time));
        made.unwrap();
    }
    let far = fs::File::open(dir).and_then(|dir| dir.set_modified(odd_time(&mut rng)));
    far.unwrap();

    let store = opened(dir, single(1 << 30));
    assert!(
        !temps[0].exists() && temps[1].exists(),
        "a file of the far future has no writer, one of now may"
    );
    expect_all(&store, 0..12, LEN);
    put_each(&store, 12..15);
    expect_all(&store, 0..15, LEN);
    // The limit holds whatever the times are, and the newest rows stay.
    store.reconfigure(single(6 * 9_500));
    put_each(&store, 15..18);
    let bytes = store.stats().bytes;
    assert!(bytes <= 6 * 9_500, "{bytes} bytes are kept");
    count_right(&store, 0..15, LEN);
    expect_all(&store, 15..18, LEN);
    expect_no_faults(&store);
}

#[test]
fn a_hundred_thousand_files_are_listed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    for n in 0..FILES {
        // Empty segments, temporary files of other writers, and foreign files.
        let name = match n % 10 {
            0 => format!("{n:016x}-0-0.tcs"),
            1 => format!(".tmp-{n:016x}-0-0.tcs"),
            _ => format!("foreign {n}"),
        };
        let made = fs::File::create(dir.join(name));
        // Young even if creating the others takes long.
        let dated = made.and_then(|file| match n % 10 {
            1 => file.set_modified(SystemTime::now() + Duration::from_secs(1800)),
            _ => Ok(()),
        });
        dated.unwrap();
    }
    let store = opened(dir, single(1 << 30));
    put_each(&store, 0..SEGMENTS);
    expect_all(&store, 0..SEGMENTS, LEN);
    drop(store);
    let store = opened(dir, single(1 << 30));
    expect_all(&store, 0..SEGMENTS, LEN);
    let empty = store.stats().faults.total();
    assert!(empty == FILES as u64 / 10, "{empty} faults");
    store.clear();
    let left = fs::read_dir(dir).unwrap().count();
    assert!(left == FILES - FILES / 10, "{left} files are left");
    seen("files in one directory", FILES as u64);
}
