//! Exactly what was asked for goes.

use serde_json::json;

use crate::support::{complained, hash, json, root, said};

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
