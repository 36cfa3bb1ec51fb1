//! Snapshots of the printed text, for a small and a large terminal.

use std::path::Path;

use serde_json::json;

use torchcache_store::manifest::Category;
use torchcache_store::schema::{ElementKind, Schema};
use unicode_width::UnicodeWidthStr;

use crate::support::{
    DAY, command, hash, json, manifest, mask, part, root, run_in, segment, set_read, tensor, text,
};

/// The text that the program prints in a terminal of this width.
fn screen(root: &Path, columns: &str, args: &[&str]) -> String {
    let mut command = command(args);
    let output = command
        .current_dir(root)
        .env("COLUMNS", columns)
        .output()
        .unwrap();
    let all = text(&output.stdout) + &text(&output.stderr);
    let is_too_wide = |line: &&str| line.chars().count() > 200;
    assert_eq!(all.lines().find(is_too_wide), None);
    mask(&all, root, "ROOT")
}

fn snapshot(name: &str, args: &[&str], widths: &[&str]) {
    let root = root();
    for columns in widths {
        let screen = screen(root.path(), columns, args);
        insta::assert_snapshot!(format!("{name}-{columns}"), screen);
    }
}

/// `docs/cli.md` shows these with 80 columns.
#[test]
fn wide_screens_of_the_documented_commands() {
    let (one, two) = (&hash(1)[..8], &hash(2)[..8]);
    snapshot("ls", &["ls", "."], &["200"]);
    snapshot("show", &["show", ".", one], &["200"]);
    snapshot("diff", &["diff", ".", one, two], &["200"]);
    let prune = ["prune", ".", "--older-than", "1d", "--dry-run"];
    snapshot("prune", &prune, &["200"]);
}

#[test]
fn a_cache_with_several_outputs_and_a_newer_segment() {
    snapshot("show-several", &["show", ".", &hash(3)[..8]], &["80"]);
}

#[test]
fn a_cache_without_manifest_and_known_schema() {
    snapshot("show-unknown", &["show", ".", "resnet"], &["80"]);
}

#[test]
fn a_check_with_corruption() {
    snapshot("check", &["check", "."], &["80", "200"]);
}

#[test]
fn clusters_of_letters_fit_terminals_of_every_width() {
    let keycaps = "1\u{fe0f}\u{20e3}#\u{20e3}".repeat(12);
    let hearts = "❤\u{fe0f}🇩🇪👨\u{200d}👩\u{200d}👧é".repeat(6);
    let root = tempfile::tempdir().unwrap();
    for (number, seconds) in [(1, DAY), (2, 2 * DAY)] {
        let dir = root.path().join(hash(number));
        segment(&dir, "a.tcs", b"s", 10, 0..3, seconds);
        let code = part(Category::Code, &keycaps, &format!("{hearts}{number}"));
        let label = part(Category::Field, &hearts, &format!("{keycaps}{number}"));
        manifest(&dir, &format!("m::{hearts}"), vec![code, label], DAY);
    }
    let (one, two) = (&hash(1)[..8], &hash(2)[..8]);
    for columns in (1..200).step_by(9).chain(40..66) {
        for (args, code, least) in [
            (&["ls", "."][..], 0, 80),
            (&["show", ".", one], 0, 80),
            (&["diff", ".", one, two], 1, 80),
            (&["prune", ".", "--older-than", "1h", "--dry-run"], 0, 90),
        ] {
            let mut command = command(args);
            command.env("COLUMNS", columns.to_string());
            let output = command.current_dir(root.path()).output().unwrap();
            let screen = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{columns}: {screen}");
            // The hash that `show` prints whole and the path are single words.
            let wide = screen.lines().find(|line| {
                line.width() > columns && line.trim_start().contains(' ') && columns >= least
            });
            assert_eq!(wide, None, "{columns}: {screen}");
        }
    }
}

#[test]
fn names_in_a_pipe_are_not_shortened() {
    let root = root();
    let output = run_in(root.path(), &["ls", "."]);
    let listed = text(&output.stdout);
    assert!(listed.contains(crate::support::BACKBONE), "{listed}");
    assert!(
        !listed.contains('…') && !listed.contains('\x1b'),
        "{listed}"
    );
}

#[test]
fn json_has_whole_names_and_plain_numbers() {
    let root = root();
    let list = json(root.path(), &["ls", "."], 0);
    assert_eq!(
        (&list["rows"], list["caches"].as_array().map(Vec::len)),
        (&json!(3637), Some(5))
    );
    let second = &list["caches"][1];
    assert_eq!(second["name"], json!(hash(1)));
    assert_eq!(second["module"], json!(crate::support::BACKBONE));
    assert_eq!(second["ratio"], json!(1.0));
    assert_eq!(second["versions"], json!([2]));
    assert_eq!(list["caches"][0]["newer_versions"], json!([9]));
    let read = second["last_read"].as_str().unwrap();
    assert!(read.len() == 20 && read.ends_with('Z'), "{read}");

    let shown = json(root.path(), &["show", ".", &hash(3)], 0);
    let parts = shown["schemas"][0]["parts"].as_array().unwrap();
    assert_eq!(parts[1]["name"], json!("layers.0"));
    assert_eq!(parts[1]["stored"], json!("bfloat16"));
    assert_eq!(parts[1]["output"], json!("float32"));
    assert_eq!(parts[1]["shape"], json!([128, 24]));
    assert_eq!(shown["segments"][1]["rows"], json!(40));
    assert!(shown["segments"][0]["error"].is_string());
    let unknown = json(root.path(), &["show", ".", "resnet"], 0);
    assert_eq!(unknown["schemas"][0]["parts"], json!(null));
    assert_eq!(unknown["module"], json!(null));

    let diff = json(root.path(), &["diff", ".", &hash(1), &hash(2)], 1);
    let changes = diff["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 4);
    assert_eq!(changes[0]["path"], json!("version"));
    assert_eq!(changes[0]["after"]["value"], json!("2"));
    assert_eq!(diff["differ"], json!(true));
    let same = json(root.path(), &["diff", ".", &hash(1), &hash(1)], 0);
    assert_eq!(same["differ"], json!(false));
    assert_eq!(same["summary"], json!("both are the same cache"));
}

#[test]
fn names_cannot_move_the_cursor() {
    let evil = "evil\x1b[2J\x7f\u{9b}\u{61c}\u{202e}";
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join(evil);
    let cache = root.join(format!("{evil}1"));
    let schema = Schema {
        structure: format!("{{{evil}:T,{evil}:T}}"),
        tensors: vec![tensor(ElementKind::Uint8, ElementKind::Uint8, &[1]); 2],
        lengths: Vec::new(),
    };
    segment(&cache, "a.tcs", &schema.encode(), 2, 0..3, DAY);
    let open = segment(&cache, &format!("{evil}.tcs"), b"s", 10, 0..3, DAY);
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(open, everybody).unwrap();
    let broken = cache.join(format!("{evil}2.tcs"));
    std::fs::write(&broken, "broken").unwrap();
    set_read(&broken, DAY);
    for other in ["2", "3"] {
        let dir = root.join(format!("{evil}{other}"));
        manifest(&dir, evil, Vec::new(), DAY);
    }
    let untrusted = root.join(format!("{evil}4"));
    manifest(&untrusted, evil, Vec::new(), DAY);
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(untrusted, everybody).unwrap();
    std::fs::create_dir(outer.path().join("empty\x1b[2J")).unwrap();
    let target = format!("{evil}.npy");
    let name = format!("{evil}1");
    for args in [
        &["ls", evil][..],
        &["ls", "empty\x1b[2J"],
        &["ls", "absent\x1b[2J"],
        &["ls", "a", "b\x1b[2J"],
        &["show", evil],
        &["show", evil, &name],
        &["show", evil, "zzz\x1b[2J"],
        &["diff", evil, &name, &name],
        &["diff", &format!("{evil}/{name}"), "a", "b"],
        &["check", evil],
        &["prune", evil, "--max-size", "1TB"],
        &["prune", &format!("{evil}/{name}"), "--keep-latest", "1"],
        &["export", evil, &name, "-o", &target],
        &["export", evil, &name, "-o", &target],
        &["export", evil, &name, "-o", "x\x1b[2J"],
        &["export", evil, &name, "-o", "no\x1b[2J/x.npy"],
        &["man", "x\x1b[2J"],
        &["clear", evil],
        &["check", evil, "--repair"],
        &["clear", evil, "--yes"],
    ] {
        for json in [&[][..], &["--json"]] {
            if json.len() == 1 && args[0] == "clear" {
                continue;
            }
            let output = run_in(outer.path(), &[args, json].concat());
            let shown = text(&output.stdout) + &text(&output.stderr);
            let moves = |letter: &char| {
                letter.is_control() && *letter != '\n' || "\u{61c}\u{202e}".contains(*letter)
            };
            assert_eq!(shown.chars().find(moves), None, "{args:?}: {shown:?}");
            assert!(!shown.is_empty(), "{args:?}");
            if args == ["ls", evil] && json.is_empty() {
                assert!(shown.contains("evil\\u{1b}[2J\\u{7f}\\u{9b}"), "{shown}");
            }
        }
    }
}

#[test]
fn names_neither_style_text_nor_break_lines() {
    let shown_with = |name: &str| {
        let root = tempfile::tempdir().unwrap();
        let schema = Schema {
            structure: format!("{{{name}:T,{name}:T}}"),
            tensors: vec![tensor(ElementKind::Uint8, ElementKind::Uint8, &[1]); 2],
            lengths: Vec::new(),
        };
        let caches = [1, 2].map(|number| format!("{name}{number}"));
        for (cache, seconds) in caches.iter().zip([DAY, 2 * DAY]) {
            let dir = root.path().join(cache);
            segment(&dir, "a.tcs", &schema.encode(), 2, 0..3, seconds);
            let broken = dir.join("0000000000000001-1-1.tcs");
            std::fs::write(&broken, "broken").unwrap();
            set_read(&broken, DAY);
            let categories = [
                Category::Code,
                Category::Field,
                Category::Weights,
                Category::Option,
            ];
            let parts =
                categories.map(|category| part(category, name, &format!("{name} in {cache}")));
            manifest(&dir, &format!("{name}::{cache}"), parts.into(), DAY);
        }
        let [one, two] = &caches;
        let file = format!("{name}.npy");
        let commands = [
            &["ls", "."][..],
            &["show", ".", one],
            &["show", "."],
            &["diff", ".", one, two],
            &["check", "."],
            &["prune", ".", "--older-than", "36h", "--dry-run"],
            &["prune", ".", "--older-than", "1h"],
            &["export", ".", one, "-o", &file],
            &["export", ".", one, "-o", &file],
            &["check", ".", "--repair"],
            &["clear", ".", "--yes"],
        ];
        commands.map(|args| {
            let mut command = command(args);
            let output = command
                .current_dir(root.path())
                .env("CLICOLOR_FORCE", "1")
                .output();
            let output = output.unwrap();
            text(&output.stdout) + &text(&output.stderr)
        })
    };
    let evil = "e\n\x1b[45mv\u{2028}\r\x1b[0m";
    for (shown, expected) in shown_with(evil).iter().zip(shown_with("plain")) {
        assert!(
            !shown.contains("\x1b[45m") && !shown.contains(['\r', '\u{2028}']),
            "{shown:?}"
        );
        assert_eq!(
            shown.lines().count(),
            expected.lines().count(),
            "{shown}\n{expected}"
        );
    }
}
