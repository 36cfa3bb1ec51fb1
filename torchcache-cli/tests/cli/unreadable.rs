//! Caches that cannot be looked into, and sizes beyond all measure: told by every command, and never
//! called sound.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{DAY, command, hash, manifest, segment, text};

/// A root with a sound cache, and one that is given this mode.
fn with_mode(mode: u32) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary directory");
    for n in [1, 2] {
        let dir = root.path().join(hash(n));
        segment(&dir, "a.tcs", b"s", 100, 0..3, DAY);
        manifest(&dir, "m::Module", Vec::new(), DAY);
    }
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    set(root.path(), 0o755).expect("it is ours");
    set(&root.path().join(hash(2)), mode).expect("it is ours");
    root
}

/// What the program says where not even the administrator may look: as another user, who may not be
/// able to reach it but for a copy.
fn said(root: &Path, args: &[&str]) -> (Option<i32>, String, Value) {
    let program = root.join("program");
    // By another process: a file that this one has open to write to may not be started.
    let mut copy = Command::new("cp");
    let copied = copy.arg(env!("CARGO_BIN_EXE_torchcache")).arg(&program);
    assert!(copied.status().is_ok_and(|status| status.success()));
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(root);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command.output().expect("the program starts")
    };
    let (plain, json) = (run(args), run(&[args, &["--json"]].concat()));
    assert_eq!(plain.status.code(), json.status.code());
    let parsed = serde_json::from_slice(&json.stdout).unwrap_or(Value::Null);
    let all = text(&plain.stdout) + &text(&plain.stderr);
    (plain.status.code(), all, parsed)
}

#[test]
fn a_cache_that_cannot_be_opened_is_told_and_nothing_is_called_sound() {
    let root = with_mode(0);
    for (args, code) in [
        (&["verify", "."][..], 2),
        (&["ls", "."], 0),
        (&["show", ".", &hash(1)], 0),
        (&["prune", ".", "--max-size", "1TB"], 0),
        (&["clear", ".", "--yes"], 2),
    ] {
        let (got, text, json) = said(root.path(), args);
        assert_eq!(got, Some(code), "{args:?}: {text}");
        let path = json["left_alone"][0]["path"].as_str().unwrap_or_default();
        assert!(path.ends_with(&hash(2)), "{args:?}: {json}");
        assert!(text.contains(&hash(2)), "{args:?}: {text}");
        if args[0] == "verify" {
            assert!(!text.contains("sound"), "{text}");
            assert_eq!(
                (&json["sound"], &json["failures"]),
                (&json!(false), &json!(1))
            );
        }
    }
}

#[test]
fn a_cache_that_others_may_write_to_is_told_and_nothing_is_called_sound() {
    let root = with_mode(0o777);
    for (args, code) in [
        (&["verify", "."][..], 2),
        (&["verify", ".", "--repair"], 2),
        (&["ls", "."], 0),
        (&["prune", ".", "--max-size", "1TB"], 0),
    ] {
        let output = command(args).current_dir(root.path()).output();
        let output = output.expect("the program starts");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains("all users may write to it"), "{said}");
        assert!(!said.contains("sound"), "{said}");
        let found = crate::support::json(root.path(), args, code);
        let why = found["left_alone"][0]["why"].as_str().unwrap_or_default();
        assert!(why.contains("all users"), "{args:?}: {found}");
        if args[0] == "verify" {
            assert_eq!(found["failures"], json!(1), "{args:?}");
            assert_eq!(said.matches("all users may write").count(), 1, "{said}");
            assert!(said.contains("1 could not be looked at"), "{said}");
        }
    }
}

#[test]
fn files_of_any_length_are_added_up_without_an_overflow() {
    // Where a sparse file may be as long as can be said.
    let shared = Path::new("/dev/shm");
    let root = match shared.is_dir() {
        true => tempfile::tempdir_in(shared),
        false => tempfile::tempdir(),
    };
    let root = root.expect("a temporary directory");
    for n in [1, 2] {
        let dir = root.path().join(hash(n));
        segment(&dir, "a.tcs", b"s", 100, 0..3, DAY);
        for name in ["b.tcs", "c.tcs", "d.tcs"] {
            let file = fs::File::create(dir.join(name)).expect("it can be made");
            if file.set_len(i64::MAX as u64).is_err() {
                println!("nothing was tested: no file may be so long here");
                return;
            }
            drop(file);
            crate::support::set_read(&dir.join(name), DAY);
        }
    }
    for (args, code) in [
        (&["ls", "."][..], 0),
        (&["show", ".", &hash(1)], 0),
        (&["verify", "."], 1),
        (&["prune", ".", "--max-size", "1TB", "--dry-run"], 0),
        (&["prune", ".", "--max-size", "15 MB"], 0),
        (&["clear", ".", &hash(1), "--yes"], 0),
        (&["prune", ".", "--max-size", "1KB"], 0),
    ] {
        let output = command(args).current_dir(root.path()).output();
        let output = output.expect("the program starts");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    }
}
