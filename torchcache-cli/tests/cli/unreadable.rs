//! Caches that cannot be opened and files of absurd lengths are reported by every command, and never as
//! intact.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use torchcache_store::schema::ElementKind;

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

/// A root with three caches of three segments each. One segment has a corrupt row, and a writer of each cache crashed.
fn several() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for n in 0..3 {
        let dir = root.path().join(hash(n));
        for (name, first) in [("a.tcs", 0), ("b.tcs", 3), ("c.tcs", 6)] {
            let schema = crate::support::single(ElementKind::Uint8, &[100]).encode();
            let written = segment(&dir, name, &schema, 100, first..first + 3, DAY);
            if (n, name) == (0, "b.tcs") {
                crate::support::corrupt_rows(&written, 100, [1]);
                crate::support::set_read(&written, DAY);
            }
        }
        manifest(&dir, "m::Module", Vec::new(), DAY);
        let temporary = dir.join(".tmp-0000000000000001-1-0.tcs");
        fs::write(&temporary, "half").unwrap();
        crate::support::set_read(&temporary, DAY);
    }
    root
}

#[test]
fn without_descriptors_commands_fail_and_leave_nothing_out() {
    let (one, two) = (hash(1), hash(2));
    for args in [
        &["ls", "."][..],
        &["show", ".", &one],
        &["diff", ".", &one, &two],
        &["check", "."],
        &["check", ".", "--repair"],
        &["prune", ".", "--max-size", "1KB", "--dry-run"],
        &["prune", ".", "--max-size", "1KB"],
        &["prune", ".", "--keep-latest", "1"],
        &["clear", ".", &one, "--yes"],
        &["clear", ".", "--yes"],
        &["export", ".", &one, "-o", "x.npy", "--force"],
    ] {
        let is_changing =
            args.contains(&"--yes") || args.contains(&"--repair") || args[0] == "prune";
        let mut root = several();
        let mut run = |descriptors: u32| {
            if is_changing {
                root = several();
            }
            let mut command = Command::new("sh");
            let script = format!("ulimit -n {descriptors}; exec \"$@\"");
            command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_torchcache")]);
            let output = command
                .args(args)
                .arg("--json")
                .current_dir(root.path())
                .output()
                .unwrap();
            let mut found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            leave_out(&mut found, &["path", "last_read", "created", "replaced_by"]);
            (output.status.code(), found, text(&output.stderr))
        };
        let (code, expected, _) = run(64);
        assert!(code.is_some_and(|code| code < 2), "{args:?}: {expected}");
        let mut failed = 0;
        for descriptors in 4..12 {
            let (got, found, error) = run(descriptors);
            if got == Some(2) || got == Some(127) {
                failed += 1;
            } else {
                assert_eq!(
                    (got, &found),
                    (code, &expected),
                    "{args:?}, {descriptors}: {error}"
                );
            }
        }
        assert!(failed > 0, "{args:?}");
    }
}

/// Removes fields at any depth.
fn leave_out(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !names.contains(&name.as_str()));
            fields
                .values_mut()
                .for_each(|value| leave_out(value, names));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| leave_out(value, names)),
        _ => {}
    }
}
