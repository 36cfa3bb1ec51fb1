//! `prune` removes what its criterion says and reports it.

use serde_json::json;

use crate::support::{DAY, hash, json, root, segment, stdout};

#[test]
fn a_dry_run_reports_what_a_real_run_removes() {
    for criterion in [
        &["--max-size", "2.5 MB"][..],
        &["--older-than", "1d"],
        &["--keep-latest", "1"],
    ] {
        let root = root();
        let before = json(root.path(), &["ls", "."], 0);
        let args = [&["prune", "."], criterion].concat();
        let mut dry = json(root.path(), &[&args[..], &["--dry-run"]].concat(), 0);
        assert_eq!(json(root.path(), &["ls", "."], 0), before);
        let wet = json(root.path(), &args, 0);
        assert_eq!(dry["dry_run"], json!(true));
        dry["dry_run"] = json!(false);
        assert_eq!(dry, wet, "{criterion:?}");
        let after = json(root.path(), &["ls", "."], 0);
        let bytes = |list: &serde_json::Value| list["bytes"].as_u64().unwrap();
        let removed = wet["removed_bytes"].as_u64().unwrap();
        assert_eq!(bytes(&after), bytes(&before) - removed);
        assert!(removed > 0, "{criterion:?}");
    }
}

#[test]
fn least_recently_read_segments_are_removed_first() {
    let root = root();
    let text = stdout(root.path(), &["prune", ".", "--max-size", "2.5MB"], 0);
    assert!(
        text.contains("removed 2 segments with 1,800 rows (1.0 MB), 2 caches"),
        "{text}"
    );
    assert!(!root.path().join("resnet18-of-last-spring").exists());
    assert!(!root.path().join(hash(2)).exists());
    let left = json(root.path(), &["ls", "."], 0);
    assert_eq!(left["caches"].as_array().map(Vec::len), Some(3));
    let again = stdout(root.path(), &["prune", ".", "--max-size", "2.5MB"], 0);
    assert!(again.starts_with("nothing to remove"), "{again}");
}

#[test]
fn a_manifest_of_another_program_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("app");
    segment(&dir, "a.tcs", b"s", 10, 0..2, 40 * DAY);
    std::fs::write(dir.join("manifest.json"), "{}").unwrap();
    let listed = stdout(root.path(), &["ls", "."], 0);
    assert!(listed.contains("(unreadable manifest)"), "{listed}");
    let pruned = stdout(root.path(), &["prune", ".", "--older-than", "30d"], 0);
    assert!(pruned.contains("(unreadable manifest)"), "{pruned}");
    assert!(pruned.contains("rest"), "{pruned}");
    let cleared = stdout(root.path(), &["clear", ".", "--yes"], 0);
    assert!(
        cleared.contains("removed 0 caches with 0 segments"),
        "{cleared}"
    );
    assert!(dir.join("manifest.json").exists());
}
