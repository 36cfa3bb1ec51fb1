//! DIR and HASH: what they accept, and the errors if they name nothing.

use crate::support::{DAY, hash, json, manifest, root, segment, stderr, stdout};

#[test]
fn dir_may_be_the_directory_of_one_cache() {
    let root = root();
    let dir = root.path().join(hash(1));
    assert!(stdout(&dir, &["ls", "."], 0).contains("1,797"));
    assert!(stdout(&dir, &["show", "."], 0).contains("1,797 in 2 segments"));
    assert!(stdout(&dir, &["check", "."], 0).starts_with("intact: 1,797 rows"));
    let dry = stdout(&dir, &["prune", ".", "--max-size", "1MB", "--dry-run"], 0);
    assert!(dry.contains("would remove 1 segment"), "{dry}");
    let diff = stderr(&dir, &["diff", ".", "a", "b"], 2);
    assert!(
        diff.contains("name the directory that holds both"),
        "{diff}"
    );
    let latest = stderr(&dir, &["prune", ".", "--keep-latest", "1"], 2);
    assert!(latest.contains("name the directory above it"), "{latest}");
}

#[test]
fn an_unknown_or_ambiguous_name_lists_the_caches() {
    let root = root();
    let nothing = stderr(root.path(), &["show", ".", "zzz"], 1);
    assert!(
        nothing.contains("no cache whose name begins with \"zzz\""),
        "{nothing}"
    );
    assert!(nothing.contains(&hash(1)[..8]), "{nothing}");
    for name in ["a", "b"] {
        std::fs::create_dir(root.path().join(format!("twin-{name}"))).unwrap();
        let path = root.path().join(format!("twin-{name}/manifest.json"));
        std::fs::write(path, "{}").unwrap();
    }
    let several = stderr(root.path(), &["show", ".", "twin"], 2);
    assert!(several.contains("twin-a, twin-b"), "{several}");
    let which = stderr(root.path(), &["show", "."], 2);
    assert!(
        which.contains("holds 7 caches; name one of them"),
        "{which}"
    );
    assert_eq!(
        json(root.path(), &["show", ".", "twin-a"], 0)["name"],
        "twin-a"
    );
}

#[test]
fn a_missing_or_empty_directory_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let absent = stderr(root.path(), &["ls", "absent"], 2);
    assert!(
        absent.starts_with("torchcache: cannot open the directory absent"),
        "{absent}"
    );
    assert!(stderr(root.path(), &["ls", "."], 0).contains("holds no caches"));
    assert!(stderr(root.path(), &["show", ".", "x"], 1).contains("persistent_cache_dir"));
    for args in [
        &["show", "."][..],
        &["export", ".", "-o", "x.npy"],
        &["clear", ".", "x"],
    ] {
        let printed = stderr(root.path(), args, 1);
        assert_eq!(printed.matches("holds no caches").count(), 1, "{printed}");
    }
    let json = json(root.path(), &["ls", "."], 0);
    assert_eq!(json["caches"], serde_json::json!([]));
}

#[test]
fn a_stray_segment_or_manifest_hides_no_cache() {
    let stray = |root: &std::path::Path, what: &str| match what {
        "segment" => drop(segment(root, "stray.tcs", b"s", 10, 0..2, DAY)),
        _ => manifest(root, "m::Stray", Vec::new(), DAY),
    };
    for what in ["segment", "manifest"] {
        let root = root();
        stray(root.path(), what);
        let list = json(root.path(), &["ls", "."], 0);
        let caches = list["caches"].as_array().unwrap();
        assert_eq!(caches.len(), 6, "{list}");
        assert!(caches.iter().any(|cache| cache["name"] == "."), "{list}");
        let found = json(root.path(), &["check", "."], 1);
        assert_eq!(found["caches"].as_array().map(Vec::len), Some(6));
        stdout(root.path(), &["show", ".", "."], 0);
        stdout(root.path(), &["diff", ".", &hash(1), &hash(2)], 1);
        stdout(root.path(), &["clear", ".", "--yes"], 0);
        assert!(!root.path().join(hash(1)).exists());
    }
}

#[test]
fn a_path_that_a_shell_would_have_expanded_gets_a_hint() {
    let root = root();
    for (dir, args) in [
        ("~/features", &["ls"][..]),
        ("~someone/features", &["check"]),
        ("$HOME/features", &["prune", "--max-size", "1TB"]),
    ] {
        let refused = stderr(root.path(), &[args, &[dir]].concat(), 2);
        assert!(refused.contains("only a shell expands"), "{refused}");
        assert!(refused.contains(dir), "{refused}");
    }
    let args = ["export", ".", &hash(1)[..8], "--output=~/rows.npy"];
    let refused = stderr(root.path(), &args, 2);
    assert!(refused.contains("only a shell expands"), "{refused}");
    // A directory of that name is opened.
    std::fs::create_dir(root.path().join("~")).unwrap();
    stdout(root.path(), &["ls", "~"], 0);
    let missing = stderr(root.path(), &["ls", "missing"], 2);
    assert!(!missing.contains("shell"), "{missing}");
}
