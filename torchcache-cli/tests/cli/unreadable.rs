//! Caches that cannot be opened and files of absurd lengths are reported by every command, and never as
//! intact.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{DAY, hash, manifest, printed, segment, text};

/// A root with two caches, the second of which has this mode.
fn with_mode(mode: u32) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for n in [1, 2] {
        let dir = root.path().join(hash(n));
        segment(&dir, "a.tcs", b"s", 100, 0..3, DAY);
        manifest(&dir, "m::Module", Vec::new(), DAY);
    }
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    set(root.path(), 0o755).unwrap();
    set(&root.path().join(hash(2)), mode).unwrap();
    root
}

/// Runs the program, as another user if this is root, whom no mode keeps out. That user may be able to run
/// only a copy of the program.
fn run_unprivileged(root: &Path, args: &[&str]) -> (Option<i32>, String, Value) {
    let program = root.join("program");
    // Copied by another process: a file that this one has open for writing cannot be executed.
    let mut copy = Command::new("cp");
    let copied = copy.arg(env!("CARGO_BIN_EXE_torchcache")).arg(&program);
    assert!(copied.status().is_ok_and(|status| status.success()));
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(root);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command.output().unwrap()
    };
    let (plain, json) = (run(args), run(&[args, &["--json"]].concat()));
    assert_eq!(plain.status.code(), json.status.code());
    let parsed = serde_json::from_slice(&json.stdout).unwrap_or(Value::Null);
    let all = text(&plain.stdout) + &text(&plain.stderr);
    (plain.status.code(), all, parsed)
}

#[test]
fn a_cache_that_cannot_be_opened_is_not_intact() {
    let root = with_mode(0);
    for (args, code) in [
        (&["check", "."][..], 2),
        (&["ls", "."], 0),
        (&["show", ".", &hash(1)], 0),
        (&["prune", ".", "--max-size", "1TB"], 0),
        (&["clear", ".", "--yes"], 2),
    ] {
        let (got, text, json) = run_unprivileged(root.path(), args);
        assert_eq!(got, Some(code), "{args:?}: {text}");
        let path = json["skipped"][0]["path"].as_str().unwrap_or_default();
        assert!(path.ends_with(&hash(2)), "{args:?}: {json}");
        assert!(text.contains(&hash(2)), "{args:?}: {text}");
        if args[0] == "check" {
            assert!(!text.contains("intact"), "{text}");
            assert_eq!(
                (&json["intact"], &json["failures"]),
                (&json!(false), &json!(1))
            );
        }
    }
}

#[test]
fn a_cache_that_others_may_write_to_is_not_intact() {
    let root = with_mode(0o777);
    for (args, code) in [
        (&["check", "."][..], 2),
        (&["check", ".", "--repair"], 2),
        (&["ls", "."], 0),
        (&["prune", ".", "--max-size", "1TB"], 0),
    ] {
        let printed = printed(root.path(), args, code);
        assert!(printed.contains("all users may write to it"), "{printed}");
        assert!(!printed.contains("intact"), "{printed}");
        let found = crate::support::json(root.path(), args, code);
        let why = found["skipped"][0]["reason"].as_str().unwrap_or_default();
        assert!(why.contains("all users"), "{args:?}: {found}");
        if args[0] == "check" {
            assert_eq!(found["failures"], json!(1), "{args:?}");
            assert_eq!(
                printed.matches("all users may write").count(),
                1,
                "{printed}"
            );
            assert!(printed.contains("1 could not be checked"), "{printed}");
        }
    }
}

#[test]
fn sums_of_absurd_file_lengths_do_not_overflow() {
    // tmpfs allows sparse files of any length.
    let shared = Path::new("/dev/shm");
    let root = match shared.is_dir() {
        true => tempfile::tempdir_in(shared),
        false => tempfile::tempdir(),
    }
    .unwrap();
    for n in [1, 2] {
        let dir = root.path().join(hash(n));
        segment(&dir, "a.tcs", b"s", 100, 0..3, DAY);
        for number in 0..3 {
            // Those of other programs are left alone.
            let name = &format!("{number:016x}-1-{number:x}.tcs");
            let file = fs::File::create(dir.join(name)).unwrap();
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
        (&["check", "."], 1),
        (&["prune", ".", "--max-size", "1TB", "--dry-run"], 0),
        (&["prune", ".", "--max-size", "15 MB"], 0),
        (&["clear", ".", &hash(1), "--yes"], 0),
        (&["prune", ".", "--max-size", "1KB", "--yes"], 0),
    ] {
        printed(root.path(), args, code);
    }
}
