//! `clear` removes rows only after a confirmation.

use std::fs;

use crate::support::{hash, json, root, run_on_terminal, stderr, stdout};

#[test]
fn without_a_terminal_clear_needs_yes() {
    let root = root();
    let refused = stderr(root.path(), &["clear", ".", &hash(1)[..8]], 2);
    assert!(refused.contains("--yes"), "{refused}");
    assert!(root.path().join(hash(1)).exists());
    let done = json(root.path(), &["clear", ".", &hash(1)[..8], "--yes"], 0);
    assert_eq!(done["removed_segments"], serde_json::json!(2));
    assert!(!root.path().join(hash(1)).exists() && root.path().join(hash(2)).exists());
    assert!(stdout(root.path(), &["clear", ".", "-y"], 0).starts_with("removed 4 caches"));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    assert!(stdout(root.path(), &["clear", "."], 0).starts_with("removed 0 caches"));
}

#[test]
fn a_dry_run_reports_what_a_real_run_removes() {
    for hash in [None, Some(hash(1))] {
        let root = root();
        // One of another program keeps its directory.
        fs::write(
            root.path().join("resnet18-of-last-spring/notes.tcs"),
            "notes",
        )
        .unwrap();
        let before = json(root.path(), &["ls", "."], 0);
        let mut args = vec!["clear", "."];
        args.extend(hash.as_deref());
        let mut dry = json(root.path(), &[&args[..], &["--dry-run"]].concat(), 0);
        assert_eq!(json(root.path(), &["ls", "."], 0), before);
        let wet = json(root.path(), &[&args[..], &["--yes"]].concat(), 0);
        assert_eq!(dry["dry_run"], serde_json::json!(true));
        dry["dry_run"] = serde_json::json!(false);
        assert_eq!(dry, wet, "{hash:?}");
        assert!(wet["removed_bytes"].as_u64() > Some(0));
    }
    let root = root();
    let text = stdout(root.path(), &["clear", ".", "--dry-run"], 0);
    assert!(text.starts_with("would remove 5 caches with"), "{text}");
}

#[test]
fn on_a_terminal_only_yes_confirms() {
    for (answer, code) in [
        ("n\n", 2),
        ("\n", 2),
        ("yess\n", 2),
        ("y\n", 0),
        ("YES\n", 0),
    ] {
        let root = root();
        let args = ["clear", ".", &hash(1)[..8]];
        let (asked, ended) = run_on_terminal(root.path(), &args, answer);
        assert!(asked.contains("1,797 rows"), "{asked}");
        assert_eq!(ended, Some(code), "{answer:?}");
        assert_eq!(root.path().join(hash(1)).exists(), code != 0, "{answer:?}");
    }
}
