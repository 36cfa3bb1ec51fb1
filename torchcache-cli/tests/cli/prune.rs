//! Exactly what was asked for goes.

use serde_json::json;

use crate::support::{DAY, complained, hash, json, root, said, segment};

#[test]
fn a_dry_run_tells_what_a_real_one_does() {
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
        let bytes = |list: &serde_json::Value| list["bytes"].as_u64().expect("a number");
        let removed = wet["removed_bytes"].as_u64().expect("a number");
        assert_eq!(bytes(&after), bytes(&before) - removed);
        assert!(removed > 0, "{criterion:?}");
    }
}

#[test]
fn the_least_recently_read_go_first_and_empty_directories_with_them() {
    let root = root();
    let text = said(root.path(), &["prune", ".", "--max-size", "2.5MB"], 0);
    assert!(
        text.contains("removed 2 segments with 1,800 rows (1.0 MB), 2 caches"),
        "{text}"
    );
    assert!(!root.path().join("resnet18-of-last-spring").exists());
    assert!(!root.path().join(hash(2)).exists());
    let left = json(root.path(), &["ls", "."], 0);
    assert_eq!(left["caches"].as_array().map(Vec::len), Some(3));
    let again = said(root.path(), &["prune", ".", "--max-size", "2.5MB"], 0);
    assert!(again.starts_with("nothing to remove"), "{again}");
}

#[test]
fn exactly_one_criterion_is_needed() {
    let root = root();
    for args in [
        &["prune", "."][..],
        &["prune", ".", "--max-size", "1GB", "--keep-latest", "1"],
        &["prune", ".", "--max-size", "1 parsec"],
        &["prune", ".", "--older-than", "soon"],
    ] {
        let said = complained(root.path(), args, 2);
        assert!(said.starts_with("torchcache: "), "{said}");
    }
}

#[test]
fn a_manifest_that_is_none_of_ours_is_told_as_ls_tells_it_and_stays() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("app");
    segment(&dir, "a.tcs", b"s", 10, 0..2, 40 * DAY);
    std::fs::write(dir.join("manifest.json"), "{}").expect("it can be written");
    let listed = said(root.path(), &["ls", "."], 0);
    assert!(listed.contains("(unreadable manifest)"), "{listed}");
    let pruned = said(root.path(), &["prune", ".", "--older-than", "30d"], 0);
    assert!(pruned.contains("(unreadable manifest)"), "{pruned}");
    assert!(pruned.contains("rest"), "{pruned}");
    let cleared = said(root.path(), &["clear", ".", "--yes"], 0);
    assert!(
        cleared.contains("removed 0 caches with 0 segments"),
        "{cleared}"
    );
    assert!(dir.join("manifest.json").exists());
}
