//! A fault is a miss: whatever happens to the files, rows come back right or not at all,
//! and it is counted.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{batch, count_right, fetch, key, keys, manual_flush, segments, temps, value};
use torchcache_store::segment::{Encoding, SegmentReader, SegmentWriter};
use torchcache_store::{Compression, Fault, FlushError, Store};

const LEN: usize = 24;

/// A small segment of raw and compressed rows, as a path and its bytes.
fn small_segment(dir: &Path) -> (PathBuf, Vec<u8>) {
    let store = Store::open(dir, manual_flush()).expect("it opens");
    store.put(batch(&keys(0..3), "raw", LEN));
    store.flush().expect("it is written");
    drop(store);
    let path = segments(dir).pop().expect("one segment");
    let bytes = fs::read(&path).expect("it can be read");
    (path, bytes)
}

#[test]
fn truncating_an_open_segment_costs_only_rows_after_the_cut() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, sound) = small_segment(dir.path());
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    let found: Vec<_> = store.locate(&keys(0..3)).into_iter().flatten().collect();
    fs::write(&path, &sound[..16 + 32 + 32 + 5]).expect("it can be written");
    let mut rows = vec![vec![0; LEN]; 3];
    let mut out: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
    assert_eq!(store.read(&found, &mut out), [true, true, false]);
    assert_eq!(store.stats().faults.get(Fault::Truncated), 1);
    assert!(
        store.locate(&[key(2)])[0].is_none(),
        "a bad row is a miss from then on"
    );
    store.put(batch(&[key(2)], "raw", LEN));
    assert_eq!(
        count_right(&store, &keys(0..3), LEN),
        3,
        "and can be stored again"
    );
}

#[test]
fn foreign_and_future_files_are_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, sound) = small_segment(dir.path());
    let files = [
        ("manifest.json", b"{}".to_vec()),
        ("notes.txt", b"mine".to_vec()),
        ("empty.tcs", Vec::new()),
        (
            "text.tcs",
            b"this is no segment, but it is longer than a header and a trailer".to_vec(),
        ),
        ("future.tcs", {
            let mut bytes = sound.clone();
            bytes[8] = torchcache_store::segment::VERSION as u8 + 1;
            bytes
        }),
    ];
    for (name, bytes) in &files {
        fs::write(dir.path().join(name), bytes).expect("it can be written");
    }
    fs::create_dir(dir.path().join("folder.tcs")).expect("it can be made");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert_eq!(count_right(&store, &keys(0..3), LEN), 3);
    store.refresh();
    let faults = store.stats().faults;
    assert_eq!(
        faults.get(Fault::FutureVersion),
        1,
        "counted once, however often it is seen"
    );
    assert_eq!(faults.get(Fault::Truncated), 1);
    assert_eq!(faults.get(Fault::Corrupt), 1);
    assert_eq!(faults.total(), 3);
    store.put(batch(&keys(3..6), "raw", LEN));
    store.flush().expect("it is written");
    assert_eq!(count_right(&store, &keys(0..6), LEN), 6);
    for (name, bytes) in &files {
        assert_eq!(
            fs::read(dir.path().join(name)).expect("it is there"),
            *bytes,
            "{name}"
        );
    }
    assert!(path.exists());

    // Neither for room nor by clearing.
    let foreign = &files[..4];
    store.reconfigure(manual_flush().with_max_bytes(0));
    store.flush().expect("nothing is queued");
    assert!(!path.exists(), "segments are evicted");
    store.clear();
    for (name, _) in foreign {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

/// What a flush lost.
fn lost(store: &Store) -> u64 {
    match store.flush() {
        Ok(()) => 0,
        Err(FlushError::Lost { rows, .. }) => rows,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn each_opened_store_reports_its_lost_rows_once() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = parent.path().join("cache");
    let open = || Store::open(&dir, manual_flush()).expect("it opens");
    let (first, second, idle) = (open(), open(), open());
    let put = |store: &Store, rows| store.put(batch(&keys(rows), "raw", LEN)).len();
    assert_eq!(put(&first, 0..7), 0);
    // Two of them are those of the first store, and lost with them.
    for skipped in [2, 5] {
        assert_eq!(put(&second, 5..10), skipped);
    }
    fs::remove_dir_all(&dir).expect("it can be removed");
    fs::write(&dir, "in the way").expect("it can be written");
    let clone = first.clone();
    for (store, rows) in [(&idle, 0), (&second, 5), (&first, 7)] {
        assert_eq!(lost(store), rows);
        assert_eq!(store.flush(), Ok(()), "reported before");
    }
    assert_eq!(clone.flush(), Ok(()), "its original reported it");
    assert_eq!(first.lost_rows(), 10, "each row once");
    fs::remove_file(&dir).expect("it can be removed");
    assert_eq!(open().flush(), Ok(()), "opened after the loss");
}

#[test]
fn only_the_store_whose_rows_find_no_room_lost_them() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = parent.path().join("cache");
    let config = manual_flush()
        .with_queue_bytes(1)
        .with_stall_timeout(Duration::ZERO);
    let open = || Store::open(&dir, config.clone()).expect("it opens");
    let (first, second) = (open(), open());
    let mut tried = 0;
    while second.lost_rows() == 0 {
        first.put(batch(&keys(2 * tried..2 * tried + 1), "raw", LEN));
        second.put(batch(&keys(2 * tried + 1..2 * tried + 2), "raw", LEN));
        tried += 1;
    }
    first.reconfigure(manual_flush());
    let all = lost(&first) + lost(&second);
    assert_eq!(all, first.lost_rows(), "each is reported by one of them");
}

#[test]
fn a_record_under_the_wrong_key_does_not_pass() {
    // A sound record of another key in place of this one's: only a checksum over the key detects
    // it. Both rows have one length, so swapping their records keeps the layout.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, mut bytes) = small_segment(dir.path());
    let (first, second) = bytes[16..16 + 2 * (LEN + 8)].split_at_mut(LEN + 8);
    first.swap_with_slice(second);
    fs::write(&path, &bytes).expect("it can be written");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    assert_eq!(fetch(&store, &key(0)), None);
    assert_eq!(fetch(&store, &key(1)), None);
    assert!(fetch(&store, &key(2)).is_some());
    assert_eq!(store.stats().faults.get(Fault::Corrupt), 2);
}

#[test]
fn keys_that_share_eight_bytes_are_a_miss_for_each_other() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    let one = key(1);
    let mut two = one;
    two[31] ^= 1;
    store.put(batch(&[one], "raw", LEN));
    store.flush().expect("it is written");
    assert_eq!(fetch(&store, &two), None, "never the other key's row");
    assert_eq!(store.stats().faults.get(Fault::Corrupt), 1);
}

#[test]
fn a_vanished_segment_is_a_counted_miss() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, _) = small_segment(dir.path());
    let store = Store::open(dir.path(), manual_flush()).expect("it opens");
    fs::remove_file(&path).expect("it can be removed");
    assert_eq!(count_right(&store, &keys(0..3), LEN), 0);
    assert_eq!(store.stats().faults.get(Fault::Vanished), 3);
    assert_eq!(store.stats().rows, 0);
}

#[test]
fn opening_removes_only_stale_temporary_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let age = |name: &str, hours: u64| {
        let path = dir.path().join(name);
        let file = fs::File::create(&path).expect("it can be made");
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        file.set_modified(time).expect("the time can be set");
    };
    age(".tmp-0000000000000001-1-0000000000000001.tcs", 2);
    age(".tmp-0000000000000004-1-0000000000000004.tcs", 0);
    age(".tmp-foreign.tcs", 2);
    // One whose writer lives, but has not written for long: its lock shows that.
    let writer = SegmentWriter::create(dir.path()).expect("it can be made");
    let known = [
        "-0000000000000001.tcs",
        "-0000000000000004.tcs",
        "foreign.tcs",
    ];
    let is_new = |path: &PathBuf| {
        !known
            .iter()
            .any(|end| path.to_string_lossy().ends_with(end))
    };
    let of_the_writer = temps(dir.path()).into_iter().find(is_new);
    let of_the_writer = of_the_writer.expect("it has a file");
    let name = of_the_writer.file_name().and_then(|name| name.to_str());
    age(name.expect("a name"), 2);
    Store::open(dir.path(), manual_flush()).expect("it opens");
    let mut left = [
        dir.path()
            .join(".tmp-0000000000000004-1-0000000000000004.tcs"),
        dir.path().join(".tmp-foreign.tcs"),
        of_the_writer.clone(),
    ];
    left.sort();
    assert_eq!(temps(dir.path()), left);
    drop(writer);
    assert!(!of_the_writer.exists(), "it tidies up itself");
}

#[test]
fn a_mapped_file_that_changes_gives_right_rows_or_none() {
    const LEN: usize = 200_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let compression = Some(Compression::new(1, 1));
    let config = manual_flush().with_compression(compression);
    let store = Store::open(dir.path(), config).expect("it opens");
    store.put(batch(&[key(0)], "zstd", LEN));
    store.flush().expect("it is written");
    let path = segments(dir.path()).remove(0);
    let segment = SegmentReader::open(&path, true).expect("it is sound");
    let row = segment
        .rows()
        .next()
        .expect("one row")
        .expect("it is sound");
    assert_eq!(row.encoding, Encoding::Zstd);
    // Random bytes of the value lie in the frame as they are, so that zstd notices nothing.
    let at = row.offset + u64::from(row.stored_len) - 1000;
    let mut sound = [0];
    let file = fs::File::options().read(true).write(true).open(&path);
    let file = file.expect("it opens");
    file.read_exact_at(&mut sound, at).expect("it is there");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for byte in [sound[0] ^ 1, sound[0]] {
                    file.write_all_at(&[byte], at).expect("it can be written");
                    thread::sleep(Duration::from_micros(50));
                }
            }
        });
        let expected = value(&key(0), LEN);
        let (mut right, mut out) = (0, vec![0; LEN]);
        let wrong = (0..500).find(|_| {
            let read = segment.read(&row, &mut out).is_ok();
            right += u32::from(read);
            read && out != expected
        });
        done.store(true, Ordering::Relaxed);
        assert!(wrong.is_none() && right > 0, "{wrong:?}, {right} right");
    });
}
