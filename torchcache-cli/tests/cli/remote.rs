//! The commands on a URL: a directory as an object store.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{
    command, hash, json, printed, root, run_on_terminal, segment, stderr, stdout, text,
};

/// A directory with caches in `features`, all of which are in the bucket that is returned.
fn pushed() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let features = dir.path().join("features");
    std::fs::rename(root().keep(), &features).unwrap();
    // Its rows only look compressed.
    std::fs::remove_dir_all(features.join(hash(2))).unwrap();
    let url = format!(
        "file://{}/bucket/team",
        dir.path().canonicalize().unwrap().display()
    );
    let out = stdout(dir.path(), &["push", "features", &url], 0);
    assert!(out.contains("copied 1,840 rows"), "{out}");
    (dir, url)
}

fn bucket(dir: &Path) -> PathBuf {
    dir.join("bucket/team/torchcache-1")
}

/// The segments of a cache in the bucket.
fn segments(dir: &Path, n: u64) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(bucket(dir).join(hash(n)).join("s"));
    let mut paths: Vec<PathBuf> = listed.unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Sets the times of all objects to so many seconds ago.
fn age(dir: &Path, seconds: u64) {
    let mut folders = vec![bucket(dir)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => crate::support::set_read(&path, seconds),
            }
        }
    }
}

fn names(listed: &Value) -> Vec<String> {
    let caches = listed["caches"].as_array().unwrap().iter();
    let mut names: Vec<String> = caches
        .map(|cache| cache["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn pushed_caches_are_listed_shown_and_intact() {
    let (dir, url) = pushed();
    let listed = json(dir.path(), &["ls", &url], 0);
    // The segment of a newer version is not copied; the manifest of an empty cache is.
    let expected = names(&json(dir.path(), &["ls", "features"], 0));
    assert_eq!(names(&listed), expected);
    assert_eq!(listed["path"], json!(url));
    let shown = json(dir.path(), &["show", &url, &hash(1)[..6]], 0);
    assert_eq!(
        (&shown["rows"], &shown["segments"][0]["rows"]),
        (&json!(1797), &json!(1797))
    );
    assert!(shown["module"].as_str().unwrap().contains("Backbone"));
    let screen = stdout(dir.path(), &["show", &url, &hash(1)], 0);
    assert!(screen.contains("  store       file://"), "{screen}");
    let checked = json(dir.path(), &["check", &url], 0);
    assert_eq!(
        (&checked["intact"], &checked["rows"]),
        (&json!(true), &json!(1840))
    );
    let again = json(dir.path(), &["push", "features", &url], 0);
    assert_eq!((&again["rows"], &again["segments"]), (&json!(0), &json!(0)));
}

#[test]
fn pulled_rows_are_those_that_were_pushed() {
    let (dir, url) = pushed();
    let dry = json(dir.path(), &["pull", &url, "copy", "--dry-run"], 0);
    assert!(!dir.path().join("copy").exists());
    let wet = json(dir.path(), &["pull", &url, "copy"], 0);
    assert_eq!((&dry["rows"], &wet["rows"]), (&json!(1840), &json!(1840)));
    let checked = json(dir.path(), &["check", "copy"], 0);
    assert_eq!(
        (&checked["intact"], &checked["rows"]),
        (&json!(true), &json!(1840))
    );
    let same = stdout(dir.path(), &["diff", "copy", &hash(1), &hash(1)], 0);
    assert!(same.contains("both are the same"), "{same}");
    for (from, to) in [("features", "a.npy"), ("copy", "b.npy")] {
        stdout(dir.path(), &["export", from, &hash(1), "-o", to], 0);
    }
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (a, b) = (bytes("a.npy"), bytes("b.npy"));
    assert_eq!(a.len(), b.len());
    let none = json(dir.path(), &["pull", &url, "copy", &hash(1)], 0);
    assert_eq!(
        (&none["rows"], &none["present_rows"]),
        (&json!(0), &json!(1797))
    );
}

#[test]
fn corruption_is_found_and_left_out() {
    let (dir, url) = pushed();
    let path = segments(dir.path(), 1).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = stdout(dir.path(), &["check", &url], 1);
    assert!(found.contains("1 of 1,797 rows corrupt"), "{found}");
    assert!(found.contains("prune"), "{found}");
    let pulled = json(dir.path(), &["pull", &url, "copy"], 1);
    assert_eq!(
        (&pulled["rows"], &pulled["corrupt_rows"]),
        (&json!(1839), &json!(1))
    );
    let refused = stderr(dir.path(), &["check", &url, "--repair"], 2);
    assert!(refused.contains("works on directories"), "{refused}");
}

#[test]
fn segments_that_are_corrupt_as_a_whole_are_left_out_with_code_1() {
    let (dir, url) = pushed();
    let path = segments(dir.path(), 1).remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let mut newer = bytes.clone();
    newer[bytes.len() - 48 + 24] = 9;
    // A newer version is no corruption.
    for (damaged, code) in [(vec![7; bytes.len()], 1), (newer, 0)] {
        std::fs::write(&path, damaged).unwrap();
        let copy = format!("copy{code}");
        for args in [
            &["pull", &url, &copy, "--dry-run"][..],
            &["pull", &url, &copy],
        ] {
            let pulled = json(dir.path(), args, code);
            assert_eq!(pulled["skipped_segments"], json!(1), "{args:?}");
            assert_eq!(pulled["corrupt_segments"], json!(code), "{args:?}");
        }
    }
    // Only a name that torchcache gives makes it no file of another program.
    let local = dir.path().join("features").join(hash(1));
    std::fs::write(
        local.join("18bd1c2f9a3e4d52-1-b.tcs"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    let pushed = json(
        dir.path(),
        &["push", "features", &format!("{url}/other")],
        1,
    );
    // One more is of a newer version.
    assert_eq!(pushed["skipped_segments"], json!(2));
    assert_eq!(pushed["corrupt_segments"], json!(1));
}

#[test]
fn a_dry_run_of_pruning_reports_what_a_real_run_removes() {
    for criterion in [["--older-than", "8d"], ["--max-size", "2MB"]] {
        let (dir, url) = pushed();
        age(dir.path(), 10 * crate::support::DAY);
        let args = [&["prune", &url, "--yes"], &criterion[..]].concat();
        let mut dry = json(dir.path(), &[&args[..], &["--dry-run"]].concat(), 0);
        let before = json(dir.path(), &["ls", &url], 0);
        let wet = json(dir.path(), &args, 0);
        dry["dry_run"] = json!(false);
        assert_eq!(dry, wet, "{criterion:?}");
        let after = json(dir.path(), &["ls", &url], 0);
        let bytes = |list: &Value| list["bytes"].as_u64().unwrap();
        let removed = wet["removed_bytes"].as_u64().unwrap();
        assert_eq!(bytes(&after), bytes(&before) - removed);
        assert!(removed > 0, "{criterion:?}");
    }
}

#[test]
fn pruning_says_what_the_grace_period_keeps_and_asks_before_everything_goes() {
    let (dir, url) = pushed();
    let kept = stdout(dir.path(), &["prune", &url, "--max-size", "1MB"], 0);
    assert!(kept.contains("nothing to remove"), "{kept}");
    assert!(
        kept.contains("stay, since they were put less than 7days ago (--grace)"),
        "{kept}"
    );
    assert!(kept.contains("leave no read marks"), "{kept}");
    age(dir.path(), 10 * crate::support::DAY);
    let args = ["prune", &url, "--older-than", "8d"];
    let refused = stderr(dir.path(), &args, 2);
    assert!(refused.contains("everything: 3 segments in"), "{refused}");
    let (asked, code) = run_on_terminal(dir.path(), &args, "y\n");
    assert!(asked.contains("everything"), "{asked}");
    assert_eq!(code, Some(0));
    assert_eq!(json(dir.path(), &["ls", &url], 0)["bytes"], json!(0));
}

#[test]
fn clearing_asks_and_leaves_objects_of_others() {
    let (dir, url) = pushed();
    let notes = bucket(dir.path()).join(hash(1)).join("notes.txt");
    std::fs::write(&notes, "mine").unwrap();
    let refused = stderr(dir.path(), &["clear", &url], 2);
    assert!(refused.contains("--yes"), "{refused}");
    let dry = json(dir.path(), &["clear", &url, "--dry-run"], 0);
    assert_eq!(dry["removed_segments"], json!(3));
    let one = printed(dir.path(), &["clear", &url, &hash(1)[..8], "--yes"], 0);
    assert!(one.contains("removed 1 cache with 1 segment"), "{one}");
    assert!(
        one.contains("objects of other programs are left alone"),
        "{one}"
    );
    let all = json(dir.path(), &["clear", &url, "--yes"], 0);
    assert_eq!(all["removed_segments"], json!(2));
    assert!(notes.exists());
    let empty = printed(dir.path(), &["ls", &url], 0);
    assert!(empty.contains("holds no caches"), "{empty}");
}

#[test]
fn small_segments_are_joined() {
    let (dir, url) = pushed();
    for n in 0..3 {
        let more = dir.path().join("more").join(hash(1));
        let _ = std::fs::remove_dir_all(&more);
        segment(&more, "a.tcs", b"s", 100, 5000 + 100 * n..5100 + 100 * n, 0);
        stdout(dir.path(), &["push", "more", &url], 0);
    }
    let recent = stdout(dir.path(), &["compact", &url], 0);
    assert!(recent.contains("nothing to join"), "{recent}");
    age(dir.path(), 2 * crate::support::HOUR);
    let dry = json(dir.path(), &["compact", &url, "--dry-run"], 0);
    assert_eq!(dry["joined"][0]["sources"], json!(3));
    let joined = stdout(dir.path(), &["compact", &url, &hash(1)], 0);
    assert!(joined.contains("joined 3 segments"), "{joined}");
    assert!(
        joined.contains("3 segments that were joined stay for an hour"),
        "{joined}"
    );
    assert_eq!(segments(dir.path(), 1).len(), 5);
    age(dir.path(), 2 * crate::support::HOUR);
    let removed = json(dir.path(), &["compact", &url], 0);
    assert_eq!(removed["removed_segments"], json!(3));
    assert_eq!(segments(dir.path(), 1).len(), 2);
    assert_eq!(json(dir.path(), &["check", &url], 0)["rows"], json!(2140));
}

#[test]
fn urls_that_name_nothing_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    for (args, words) in [
        (&["ls", "ftp://host/x"][..], "s3://"),
        (&["ls", "s3://"], "names no bucket"),
        (&["ls", "file://relative"], "absolute path"),
        (&["ls", "s3://key:secret@bucket/x"], "credentials"),
        (
            &["check", "s3://key:secret@bucket/x", "--repair"],
            "works on directories",
        ),
        (&["diff", "file:///x", "a", "b"], "works on directories"),
        (
            &["export", "s3://b/x", "-o", "x.npy"],
            "works on directories",
        ),
        (&["push", "s3://b/x", "s3://b/y"], "works on directories"),
        (&["push", ".", "elsewhere"], "write a URL"),
        (&["pull", "elsewhere", "."], "write a URL"),
        (&["compact", "."], "write a URL"),
    ] {
        let said = stderr(dir.path(), args, 2);
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let (dir, url) = pushed();
    let none = stderr(dir.path(), &["show", &url, "fffffffff"], 1);
    assert!(none.contains("no cache whose name begins with"), "{none}");
    let many = stderr(dir.path(), &["show", &url], 2);
    assert!(many.contains("holds 4 caches; name one of them"), "{many}");
}

#[test]
fn a_store_that_refuses_connections_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = command(&["ls", "s3://bucket/x"])
        .current_dir(dir.path())
        .env("AWS_ENDPOINT_URL", &endpoint)
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", "us-east-1")
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot list s3://bucket/x"), "{said}");
}
