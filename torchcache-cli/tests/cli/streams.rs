//! Pipes, colours, exit codes, and the streams that text goes to.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{command, cut, hash, manifest, root, run_in, stderr, stdout, text};

/// Standard error and then the exit code, if the reader of the pipe is gone before the program writes.
fn into_a_closed_pipe(dir: &Path, args: &str) -> String {
    let program = env!("CARGO_BIN_EXE_torchcache");
    let script = format!("{{ sleep 0.2; {program} {args}; echo $? >&2; }} | true");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir)
        .output()
        .unwrap();
    text(&output.stderr)
}

#[test]
fn a_closed_pipe_is_no_error_and_keeps_the_exit_code() {
    let root = root();
    let show = format!("show . {} --json", hash(1));
    for args in ["ls .", &show, "completions bash", "--help"] {
        assert_eq!(into_a_closed_pipe(root.path(), args), "0\n", "{args}");
    }
    cut(
        &root.path().join(hash(1)).join("18bd1c2f9a3e4d50-a.tcs"),
        100,
    );
    for args in ["check .", "check . --json"] {
        let printed = into_a_closed_pipe(root.path(), args);
        assert!(printed.ends_with("1\n"), "{args}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else {
        println!("nothing was tested: there is no /dev/full here");
        return;
    };
    let root = root();
    for args in [&["ls", "."][..], &["--help"]] {
        let mut command = command(args);
        let child = command
            .current_dir(root.path())
            .stdout(full.try_clone().unwrap())
            .stderr(Stdio::piped());
        let output = child.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let printed = text(&output.stderr);
        assert!(printed.starts_with("torchcache: cannot print"), "{printed}");
    }
}

#[test]
fn colours_are_for_terminals_unless_forced() {
    let root = root();
    let coloured = |variable: Option<(&str, &str)>| {
        let mut command = command(&["ls", "."]);
        command.current_dir(root.path()).envs(variable);
        let output = command.output().unwrap();
        text(&output.stdout).contains('\x1b')
    };
    assert!(!coloured(None));
    assert!(coloured(Some(("CLICOLOR_FORCE", "1"))));
    assert!(!coloured(Some(("NO_COLOR", "1"))));
}

#[test]
fn notes_are_not_part_of_the_document() {
    let root = root();
    // --json may precede the command.
    let output = run_in(root.path(), &["--json", "prune", ".", "--max-size", "1TB"]);
    let parsed: Result<Value, _> = serde_json::from_slice(&output.stdout);
    parsed.unwrap();
    assert!(text(&output.stderr).contains("format version 9"));
}

#[test]
fn completions_and_man_pages_are_generated() {
    let root = root();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(root.path(), &["completions", shell], 0);
        assert!(script.contains("keep-latest"), "{shell}");
    }
    let page = stdout(root.path(), &["man"], 0);
    assert!(
        page.contains(".TH torchcache 1") && page.contains("check"),
        "{page}"
    );
    // Every page that this one refers to is installed by the lines of docs/cli.md.
    let docs = include_str!("../../../docs/cli.md");
    let others = page.split("torchcache\\-").skip(1);
    let others = others.filter_map(|rest| Some(rest.split_once("(1)")?.0));
    let others: Vec<_> = others.collect();
    assert!(docs.contains(&format!("for command in {}; do", others.join(" "))));
    let page = stdout(root.path(), &["man", "export"], 0);
    assert!(page.contains("\\-\\-output <FILE>"), "{page}");
    let page = stdout(root.path(), &["man", "prune"], 0);
    assert!(page.contains("keep\\-latest"), "{page}");
    let source = concat!("\"torchcache ", env!("CARGO_PKG_VERSION"), "\"");
    let title = page.lines().find(|line| line.starts_with(".TH"));
    assert!(
        title.is_some_and(|title| title.contains(source)),
        "{title:?}"
    );
    assert!(stderr(root.path(), &["man", "nothing"], 2).contains("prune"));
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let root = root();
    assert!(stdout(root.path(), &["--help"], 0).contains("Exit codes"));
    let version = stdout(root.path(), &["--version"], 0);
    assert_eq!(
        version,
        concat!("torchcache ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for args in [&[][..], &["sl"], &["ls"], &["ls", ".", "--jsn"]] {
        stderr(root.path(), args, 2);
    }
    let typo = stderr(root.path(), &["chekc", "."], 2);
    assert!(
        typo.starts_with("torchcache: ") && typo.contains("check"),
        "{typo}"
    );
}

#[test]
fn generated_text_does_not_depend_on_the_width() {
    let root = root();
    for args in [
        &["completions", "bash"][..],
        &["completions", "fish"],
        &["man"],
    ] {
        let plain = run_in(root.path(), args).stdout;
        let mut narrow = command(args);
        narrow.current_dir(root.path()).env("COLUMNS", "80");
        narrow.env("CLICOLOR_FORCE", "1");
        let narrow = narrow.output().unwrap().stdout;
        assert!(plain == narrow, "{args:?}");
    }
}

#[test]
fn json_escapes_every_letter_without_loss() {
    let root = tempfile::tempdir().unwrap();
    let name = "a\u{7f}b\u{85}c\u{61c}\u{202e}";
    manifest(&root.path().join(name), name, Vec::new(), 0);
    let output = run_in(root.path(), &["ls", ".", "--json"]);
    let document = text(&output.stdout);
    let read: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(read["caches"][0]["name"], Value::from(name));
    assert_eq!(read["caches"][0]["module"], Value::from(name));
    assert!(document.is_ascii(), "{document}");
    assert!(
        document.contains("a\\u007fb\\u0085c\\u061c\\u202e"),
        "{document}"
    );
}
