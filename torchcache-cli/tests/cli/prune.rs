//! `prune` removes what its criterion says and reports it; everything only after a confirmation.

use serde_json::json;

use crate::support::{
    DAY, HOUR, hash, json, manifest, root, run_on_terminal, run_on_terminal_while, segment,
    set_read, stderr, stdout,
};

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
    let pruned = stdout(root.path(), &["prune", ".", "--older-than", "30d", "-y"], 0);
    assert!(pruned.contains("(unreadable manifest)"), "{pruned}");
    assert!(pruned.contains("rest"), "{pruned}");
    let cleared = stdout(root.path(), &["clear", ".", "--yes"], 0);
    assert!(
        cleared.contains("removed 0 caches with 0 segments"),
        "{cleared}"
    );
    assert!(dir.join("manifest.json").exists());
}

#[test]
fn more_caches_than_descriptors_are_pruned() {
    let root = tempfile::tempdir().unwrap();
    for n in 0..100 {
        segment(&root.path().join(hash(n)), "a.tcs", b"s", 1000, 0..10, DAY);
    }
    let prune = |descriptors: u32| {
        let script = format!("ulimit -n {descriptors}; exec \"$@\"");
        let pruned = std::process::Command::new("sh")
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_torchcache")])
            .args(["prune", ".", "--max-size", "300KB", "--yes"])
            .current_dir(root.path())
            .output();
        pruned.unwrap()
    };
    // Too few to look at one cache.
    let failed = prune(4);
    let error = String::from_utf8_lossy(&failed.stderr);
    assert!(
        !failed.status.success() && error.contains("open files"),
        "{failed:?}"
    );
    let pruned = prune(40);
    assert!(
        pruned.status.success() && pruned.stderr.is_empty(),
        "{pruned:?}"
    );
    let left = json(root.path(), &["ls", "."], 0);
    assert!(left["bytes"].as_u64().unwrap() <= 300_000, "{left}");
    assert!(
        left["caches"]
            .as_array()
            .is_some_and(|left| left.len() > 20)
    );
}

#[test]
fn what_changes_before_the_answer_stays() {
    for criterion in [&["--max-size", "1KB"][..], &["--older-than", "1h"]] {
        let root = ten_caches();
        let path = |n: u64, name: &str| root.path().join(hash(n)).join(name);
        let args = [&["prune", "."], criterion].concat();
        let (question, code) = run_on_terminal_while(root.path(), &args, "y\n", || {
            set_read(&path(3, "a.tcs"), 2 * HOUR); // another process read a row
            segment(&root.path().join(hash(4)), "new.tcs", b"s", 10, 0..3, DAY);
        });
        assert!(question.contains("everything: 10 segments"), "{question}");
        assert_eq!(code, Some(0));
        let left = json(root.path(), &["ls", "."], 0);
        let names: Vec<_> = left["caches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["name"])
            .collect();
        assert_eq!(names.len(), 2, "{left}");
        assert!(path(3, "a.tcs").exists() && path(4, "new.tcs").exists());
    }
}

/// Ten caches, each with one segment of about 56 KB.
fn ten_caches() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for n in 0..10 {
        let dir = root.path().join(hash(n));
        segment(
            &dir,
            "a.tcs",
            b"s",
            1_000,
            53 * n..53 * (n + 1),
            DAY + n * HOUR,
        );
        manifest(&dir, &format!("m::Module{n}"), Vec::new(), DAY);
    }
    root
}

fn caches(root: &tempfile::TempDir) -> usize {
    std::fs::read_dir(root.path()).unwrap().count()
}

#[test]
fn everything_is_removed_only_after_a_confirmation() {
    for (criterion, reason) in [
        (["--max-size", "5B"], "alone is larger than 5 B"),
        (["--max-size", "50KB"], "alone is larger than 50.0 KB"),
        (["--older-than", "2h"], "530 rows"),
    ] {
        let root = ten_caches();
        let args = [&["prune", "."], &criterion[..]].concat();
        for args in [args.clone(), [&args[..], &["--json"]].concat()] {
            let refused = stderr(root.path(), &args, 2);
            for words in ["10 segments in 10 caches", reason, "--yes"] {
                assert!(refused.contains(words), "{criterion:?}: {refused}");
            }
        }
        assert_eq!(caches(&root), 10, "{criterion:?}");
        let dry = json(root.path(), &[&args[..], &["--dry-run"]].concat(), 0);
        assert_eq!(dry["removed_segments"], json!(10), "nothing to confirm");
        let (asked, code) = run_on_terminal(root.path(), &args, "n\n");
        assert!(asked.contains("10 caches"), "{asked}");
        assert_eq!((code, caches(&root)), (Some(2), 10), "{criterion:?}");
        let (_, code) = run_on_terminal(root.path(), &args, "y\n");
        assert_eq!((code, caches(&root)), (Some(0), 0), "{criterion:?}");
    }
    let root = ten_caches();
    stdout(root.path(), &["prune", ".", "--max-size", "5B", "-y"], 0);
    assert_eq!(caches(&root), 0);
    let nothing = stdout(root.path(), &["prune", ".", "--max-size", "5B"], 0);
    assert!(nothing.starts_with("nothing to remove"), "{nothing}");
}

#[test]
fn a_part_is_removed_without_a_confirmation() {
    let root = ten_caches();
    for (size, left) in [("520 KB", 9), ("100KB", 1)] {
        stdout(root.path(), &["prune", ".", "--max-size", size], 0);
        assert_eq!(caches(&root), left, "{size}");
    }
}

#[test]
fn a_size_without_a_unit_removes_nothing() {
    let root = ten_caches();
    for size in ["5", "5e9", "0"] {
        let refused = stderr(root.path(), &["prune", ".", "--yes", "--max-size", size], 2);
        assert!(refused.contains("write a unit"), "{refused}");
    }
    assert_eq!(caches(&root), 10);
}
