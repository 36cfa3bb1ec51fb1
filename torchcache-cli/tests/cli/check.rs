//! `check` reports corruption by its exit code, and `--repair` removes it.

use std::fs;
use std::path::Path;

use serde_json::json;
use torchcache_store::schema::ElementKind;

use crate::support::{
    DAY, HOUR, NEWER, corrupt_rows, cut, hash, json, manifest, root, segment, single, stdout,
};

/// The name of the segment that is cut short: one that torchcache gives.
const CUT: &str = "ffffffffffffffff-1-c.tcs";

/// A cache with an intact segment, one with two corrupt rows, and one that is cut short.
fn corrupt_cache() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(hash(1));
    let schema = single(ElementKind::Float, &[25]).encode();
    segment(&dir, "a.tcs", &schema, 100, 0..50, HOUR);
    let corrupt = segment(&dir, "b.tcs", &schema, 100, 50..100, HOUR);
    let short = segment(&dir, CUT, &schema, 100, 100..150, HOUR);
    manifest(&dir, "m::Module", Vec::new(), DAY);
    corrupt_rows(&corrupt, 100, [3, 40]);
    cut(&short, 1000);
    root
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn corruption_is_reported_and_kept_without_repair() {
    let root = corrupt_cache();
    let dir = root.path().join(hash(1));
    let before = names(&dir);
    let text = stdout(root.path(), &["check", "."], 1);
    assert!(text.contains("b.tcs: 2 of 50 rows corrupt"), "{text}");
    assert!(
        text.contains("c.tcs: corrupt as a whole: the segment is cut short"),
        "{text}"
    );
    assert!(text.contains("--repair"), "{text}");
    let found = json(root.path(), &["check", "."], 1);
    assert_eq!(found["intact"], json!(false));
    assert_eq!(
        (&found["corrupt_rows"], &found["corrupt_segments"]),
        (&json!(2), &json!(2))
    );
    let segments = &found["caches"][0]["segments"];
    for (at, rows) in [(1, json!(50)), (2, json!(null))] {
        let segment = &segments[at];
        assert_eq!(
            (&segment["state"], &segment["rows"]),
            (&json!("corrupt"), &rows)
        );
    }
    let listed = json(root.path(), &["ls", "."], 0);
    assert_eq!(listed["caches"][0]["corrupt_segments"], json!(1));
    assert_eq!(names(&dir), before);
}

#[test]
fn repair_reports_each_segment_and_leaves_the_cache_intact() {
    let root = corrupt_cache();
    let done = json(root.path(), &["check", ".", "--repair"], 1);
    let segments = &done["caches"][0]["segments"];
    assert_eq!(segments[0]["repair"], json!(null));
    assert_eq!(segments[1]["repair"], json!("rewritten"));
    assert_eq!(segments[1]["lost_rows"], json!(2));
    assert_eq!(segments[2]["repair"], json!("removed"));
    let new = segments[1]["replaced_by"].as_str().unwrap();
    let there = names(&root.path().join(hash(1)));
    let mut expected = ["a.tcs", new, "manifest.json"];
    expected.sort_unstable();
    assert_eq!(there, expected);
    let clean = json(root.path(), &["check", "."], 0);
    assert_eq!(
        (&clean["rows"], &clean["intact"]),
        (&json!(98), &json!(true))
    );

    let root = corrupt_cache();
    let text = stdout(root.path(), &["check", ".", "--repair"], 1);
    assert!(text.contains("48 rows kept, 2 lost"), "{text}");
    assert!(
        text.contains("removed: the number of its rows is not known"),
        "{text}"
    );
}

#[test]
fn a_segment_of_a_newer_version_is_not_corrupt() {
    let root = root();
    fs::remove_dir_all(root.path().join(hash(2))).unwrap();
    let text = stdout(root.path(), &["check", ".", "--repair"], 0);
    assert!(text.contains(&format!("{NEWER}: not checked")), "{text}");
    assert!(text.contains("intact: 1,840 rows"), "{text}");
    assert!(root.path().join(hash(3)).join(NEWER).exists());
}

#[test]
fn repair_skips_a_segment_written_within_the_last_minute() {
    let root = corrupt_cache();
    let cut = root.path().join(hash(1)).join(CUT);
    crate::support::set_read(&cut, 20);
    let done = json(root.path(), &["check", ".", "--repair"], 1);
    assert_eq!(done["caches"][0]["segments"][2]["repair"], json!("recent"));
    assert!(cut.exists());
    let text = stdout(root.path(), &["check", ".", "--repair"], 1);
    assert!(text.contains("less than a minute ago"), "{text}");
    crate::support::set_read(&cut, 70);
    stdout(root.path(), &["check", ".", "--repair"], 1);
    assert!(!cut.exists());
}
