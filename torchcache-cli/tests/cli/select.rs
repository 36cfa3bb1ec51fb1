//! DIR and HASH: what they accept, and the errors if they name nothing.

use crate::support::{DAY, command, hash, json, manifest, root, segment, stderr, stdout};

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

#[test]
#[cfg(target_os = "linux")]
fn names_that_are_not_utf_8_are_told_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let root = tempfile::tempdir().unwrap();
    let names = [&b"abc\xfe"[..], b"abc\xff"].map(OsStr::from_bytes);
    for name in names {
        segment(&root.path().join(name), "a.tcs", b"s", 10, 0..2, DAY);
        manifest(&root.path().join(name), "m::Module", Vec::new(), DAY);
    }
    let listed = json(root.path(), &["ls", "."], 0);
    let field = |of: &str| {
        let caches = listed["caches"].as_array().unwrap().iter();
        let mut all: Vec<_> = caches
            .map(|cache| cache[of].as_str().unwrap().to_owned())
            .collect();
        all.sort();
        all
    };
    assert_eq!(field("name"), ["abc\\xfe", "abc\\xff"]);
    assert!(field("path")[1].ends_with("/abc\\xff"), "{listed}");
    let printed = stdout(root.path(), &["ls", "."], 0);
    assert!(
        printed.contains("abc\\xfe") && printed.contains("abc\\xff"),
        "{printed}"
    );
    // As other programs print both of them, and what both begin with.
    for ambiguous in ["abc\u{fffd}", "abc", "abc\\x"] {
        for command in ["show", "clear", "export"] {
            let args = match command {
                "show" => vec![command, ".", ambiguous],
                "clear" => vec![command, ".", ambiguous, "--yes"],
                _ => vec![command, ".", ambiguous, "-o", "x.npy"],
            };
            let error = stderr(root.path(), &args, 2);
            assert!(
                error.contains("is a prefix of 2 caches: abc\\xfe, abc\\xff;"),
                "{error}"
            );
        }
        stderr(root.path(), &["diff", ".", ambiguous, "abc\\xff"], 2);
    }
    assert!(names.iter().all(|name| root.path().join(name).exists()));
    // By its bytes, or as it is printed.
    let shown = json(root.path(), &["show", ".", "abc\\xff"], 0);
    assert_eq!(shown["name"], "abc\\xff");
    let mut clear = command(&["clear", ".", "--yes"]);
    let cleared = clear
        .arg(names[0])
        .current_dir(root.path())
        .output()
        .unwrap();
    assert!(cleared.status.success(), "{cleared:?}");
    assert!(!root.path().join(names[0]).exists() && root.path().join(names[1]).exists());
    json(root.path(), &["clear", ".", "abc\u{fffd}", "--yes"], 0);
    assert!(!root.path().join(names[1]).exists());
}

/// A name may be what another one, which is not UTF-8, is printed as.
#[test]
#[cfg(target_os = "linux")]
fn a_name_with_a_backslash_is_not_another_one() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let root = tempfile::tempdir().unwrap();
    let names = [&b"abc\\xff"[..], b"abc\xff"].map(OsStr::from_bytes);
    for name in names {
        segment(&root.path().join(name), "a.tcs", b"s", 10, 0..2, DAY);
    }
    let exist = || names.map(|name| root.path().join(name).exists());
    let listed = json(root.path(), &["ls", "."], 0);
    let mut printed = [0, 1].map(|n| listed["caches"][n]["name"].as_str().unwrap());
    printed.sort_unstable();
    assert_eq!(printed, ["abc\\x5cxff", "abc\\xff"]);
    stderr(root.path(), &["clear", ".", "abc\\xff", "--yes"], 2);
    assert_eq!(exist(), [true, true]);
    json(root.path(), &["clear", ".", "abc\\x5cxff", "--yes"], 0);
    assert_eq!(exist(), [false, true]);
    json(root.path(), &["clear", ".", "abc\\xff", "--yes"], 0);
    assert_eq!(exist(), [false, false]);
}
