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
