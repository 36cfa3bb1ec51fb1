//! `check` finds corruption, and `repair` removes it and nothing else.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use torchcache_store::admin::{
    CheckReport, Keep, Root, SegmentRepair, SegmentState, check, clear, prune, repair,
};
use torchcache_store::segment::SegmentError;
use torchcache_store::{Compression, Fault, Store};

use super::{LEN, filled, only, segment};
use crate::common::{batch, count_right, keys, manual_flush, segments, value};

fn checked(dir: &Path) -> CheckReport {
    check(&[only(dir)], &()).remove(0)
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("it can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 4], at)
        .expect("it can be written");
}

#[test]
fn check_finds_no_fault_in_intact_caches() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path();
    let config = manual_flush().with_compression(Some(Compression::new(1, 1)));
    let store = Store::open(dir, config).expect("it opens");
    store.put(batch(&keys(0..200), "s", 3000).element_bytes(4));
    store.flush().expect("it is written");
    drop(store);
    segment(dir, &keys(0..1000), 0);
    segment(dir, &[], 0);
    for version in ["v1", "v2"] {
        let from = format!(
            "{}/tests/fixtures/{version}.tcs",
            env!("CARGO_MANIFEST_DIR")
        );
        fs::copy(from, dir.join(format!("{version}.tcs"))).expect("it can be copied");
    }
    let report = checked(dir);
    assert!(report.is_intact(), "{report:?}");
    let rows = report.segments.iter().map(|segment| match segment.state {
        SegmentState::Intact { rows } => rows,
        _ => 0,
    });
    let rows: u64 = rows.sum();
    assert_eq!(rows, only(dir).summary().expect("it is there").rows());
    assert!(rows > 1200);
}

#[test]
fn repair_keeps_intact_rows_and_running_stores_find_them() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path();
    let all = keys(0..300);
    let store = filled(dir, &all);
    let path = segments(dir).remove(0);
    // The records of rows 7 and 100.
    for row in [7, 100] {
        flip(&path, 16 + row * (LEN as u64 + 8) + 3);
    }
    let before = fs::metadata(&path).and_then(|file| file.modified());
    let report = checked(dir);
    let [found] = &report.segments[..] else {
        panic!("{report:?}")
    };
    assert!(
        matches!(
            found.state,
            SegmentState::Corrupt {
                rows: 300,
                corrupt: 2,
                ..
            }
        ),
        "{found:?}"
    );
    let repairs = repair(&report);
    assert!(repairs.error.is_none(), "{repairs:?}");
    let done = repairs.segments[0].1.as_ref().expect("it was repaired");
    let SegmentRepair::Rewritten { to, kept, lost } = done else {
        panic!("{done:?}")
    };
    assert_eq!((*kept, *lost), (298, 2));
    let now = segments(dir);
    assert_eq!(now, [dir.join(to)], "the old one is gone");
    let after = fs::metadata(&now[0]).and_then(|file| file.modified());
    assert_eq!(
        before.expect("it was there"),
        after.expect("it is there"),
        "a repair is not a read"
    );
    assert!(checked(dir).is_intact());
    let intact: Vec<_> = (0..300).filter(|n| ![7, 100].contains(n)).collect();
    let intact: Vec<_> = intact.iter().map(|&n| all[n as usize]).collect();
    assert_eq!(count_right(&store, &intact, LEN), 298);
    // The corrupt rows are missing, and can be put again.
    store.put(batch(&[all[7], all[100]], "s", LEN));
    store.flush().expect("it is written");
    let again = Store::open(dir.join("."), manual_flush()).expect("it opens");
    assert_eq!(count_right(&again, &all, LEN), 300);
    assert_eq!(again.stats().faults.get(Fault::Corrupt), 0);
}

#[test]
fn repair_removes_unreadable_segments_but_not_foreign_ones() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path();
    let intact = segment(dir, &keys(0..10), 0);
    let cut = segment(dir, &keys(10..20), 0);
    let bytes = fs::read(&cut).expect("it is there");
    fs::write(&cut, &bytes[..bytes.len() - 1]).expect("it can be written");
    let footer = segment(dir, &keys(20..30), 0);
    let len = fs::metadata(&footer).expect("it is there").len();
    flip(&footer, len - 100);
    let all_corrupt = segment(dir, &keys(30..31), 0);
    flip(&all_corrupt, 20);
    let future = segment(dir, &keys(40..50), 0);
    let file = fs::OpenOptions::new().write(true).open(&future);
    let file = file.expect("it can be opened");
    file.write_all_at(&[9], 8).expect("it can be written");
    // Corrupt, but writable by all users: skipped.
    let open = segment(dir, &keys(50..60), 0);
    flip(&open, 0);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).expect("it is ours");

    for path in [&cut, &footer, &all_corrupt] {
        super::set_read(path, 1);
    }
    let report = checked(dir);
    let damaged = |report: &CheckReport| {
        let damaged = report.segments.iter().filter(|it| it.state.is_corrupt());
        damaged.count()
    };
    assert_eq!((report.segments.len(), damaged(&report)), (6, 3));
    let repairs = repair(&report);
    assert!(repairs.error.is_none(), "{repairs:?}");
    let mut lost: Vec<_> = repairs
        .segments
        .iter()
        .map(|(_, done)| match done {
            Ok(SegmentRepair::Removed { lost }) => *lost,
            other => panic!("{other:?}"),
        })
        .collect();
    lost.sort();
    assert_eq!(lost, [None, None, Some(1)]);
    let mut left = [intact, future, open];
    left.sort();
    let mut there = segments(dir);
    there.sort();
    assert_eq!(there, left);
    assert!(checked(dir).is_intact());
}

#[test]
fn check_decompresses_records_too() {
    use torchcache_store::segment::{Encoding, SegmentWriter};
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut writer = SegmentWriter::create(temp.path()).expect("it can be made");
    let schema = b"s".as_slice().into();
    for (n, len) in [(0, LEN), (1, LEN - 1), (2, LEN)] {
        let key = keys(n..n + 1)[0];
        let frame = zstd::bulk::compress(&value(&key, len), 3).expect("it compresses");
        let pushed = writer.push(&key, &schema, LEN as u32, Encoding::Zstd, &frame);
        pushed.expect("it is written");
    }
    let published = writer.finish().and_then(|finished| finished.publish());
    published.expect("it is written");
    let report = checked(temp.path());
    assert!(!report.is_intact());
    repair(&report);
    assert!(checked(temp.path()).is_intact());
    let summary = only(temp.path()).summary().expect("it is there");
    assert_eq!(summary.rows(), 2);
}

#[test]
fn repair_removes_only_stale_temporary_files() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path();
    segment(dir, &keys(0..3), 0);
    let (dead, young, locked) = (
        dir.join(".tmp-0000000000000001-1-0000000000000001.tcs"),
        dir.join(".tmp-0000000000000002-1-0000000000000002.tcs"),
        dir.join(".tmp-0000000000000003-1-0000000000000003.tcs"),
    );
    for path in [&dead, &young, &locked] {
        fs::write(path, b"half").expect("it can be written");
    }
    super::set_read(&dead, 2);
    super::set_read(&locked, 2);
    let lock = fs::File::open(&locked).expect("it is there");
    lock.try_lock().expect("it is not locked");
    let report = checked(dir);
    assert_eq!(
        report.stale_files,
        [".tmp-0000000000000001-1-0000000000000001.tcs"]
    );
    assert!(report.is_intact(), "a temporary file is no damage");
    assert_eq!(
        repair(&report).stale_files,
        [".tmp-0000000000000001-1-0000000000000001.tcs"]
    );
    assert!(!dead.exists() && young.exists() && locked.exists());
}

#[test]
fn files_that_only_end_like_a_segment_stay() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = temp.path().join("cache");
    segment(&dir, &keys(0..3), 0);
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).expect("it can be written");
        super::set_read(&path, 100);
        path
    };
    let intact = fs::read(&segments(&dir)[0]).expect("it is there");
    let overwritten = [b"\xFF".repeat(8), intact[8..].to_vec()].concat();
    let foreign = || {
        [
            file("begun.tcs", b"\x89TCSEG\r"),
            file("copied.tcs", &overwritten),
            file("cut.tcs", &intact[..20]),
            file("empty.tcs", b""),
            file("header.tcs", &[&[0; 100][..], b"and data"].concat()),
            file("machine.tcs", b"a machine's description"),
            file("one.tcs", b"\0"),
            file("zeros.tcs", &[0; 100]),
        ]
    };
    let others = foreign();
    let all_stay = || {
        let stay = others.iter().all(|path| path.exists());
        assert!(stay, "{:?}", segments(&dir));
    };
    // Ours by a name that only torchcache gives.
    let names = [1, 2, 3, 4].map(|n| format!("18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a84{n}.tcs"));
    let ours = || {
        [
            file(&names[2], &intact[..20]),
            file(&names[3], &overwritten),
            file(&names[0], b"a name of ours, and overwritten"),
            file(&names[1], b""),
        ]
    };
    let all = ours();
    let report = checked(&dir);
    let damaged = report.segments.iter().filter(|it| it.state.is_corrupt());
    assert_eq!(damaged.count(), all.len(), "{report:?}");
    for segment in &report.segments {
        let is_other = others.contains(&dir.join(&segment.name));
        let is_foreign = matches!(segment.state, SegmentState::NotRead(SegmentError::Foreign));
        assert_eq!(is_foreign, is_other, "{segment:?}");
    }
    repair(&report);
    assert!(checked(&dir).is_intact());
    assert!(!all.iter().any(|path| path.exists()));
    all_stay();

    let all = ours();
    let root = Root::open(temp.path()).expect("it is there");
    let pruning = prune(&root, Keep::ReadWithin(Duration::from_secs(36_000)), false);
    let pruning = pruning.expect("it can be pruned");
    assert_eq!(pruning.caches[0].segments.len(), all.len(), "{pruning:?}");
    assert_eq!(pruning.skipped.len(), others.len(), "{pruning:?}");
    let is_named = |(_, why): &(_, String)| why.contains("another program");
    assert!(pruning.skipped.iter().all(is_named), "{pruning:?}");
    all_stay();

    let all = ours();
    let cleared = clear(&only(temp.path()), false).expect("it can be cleared");
    assert_eq!(cleared.segments, all.len() as u64 + 1);
    assert!(!cleared.directory_removed && cleared.failed.is_empty());
    assert_eq!(segments(&dir), others);
}
