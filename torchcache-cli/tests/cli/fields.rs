//! The fields of every document are those that docs/cli.md lists.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{DAY, hash, json, root, set_read};

type Words = BTreeSet<String>;

fn set(words: &[&str]) -> Words {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Collects the names of all fields at any depth, but not those in `skipped`.
fn fields(value: &Value, found: &mut Words) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                if name != "skipped" {
                    fields(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

/// The code in the table row of some commands.
fn documented(page: &str, commands: &str) -> Words {
    let line = page.lines().find_map(|line| {
        let line = line.strip_prefix("| ")?.strip_prefix(commands)?;
        line.strip_prefix(" | ")
    });
    let line = line.unwrap_or_else(|| panic!("docs/cli.md has no line for {commands}"));
    let code = line.split('`').skip(1).step_by(2);
    code.map(str::to_owned).collect()
}

#[test]
fn the_page_lists_the_fields_of_every_document() {
    let page = include_str!("../../../docs/cli.md");
    let of = |command: &str| documented(page, &format!("`{command}`"));
    // Without values, references to other rows, and fields of errors that do not occur here.
    let ls = of("ls");
    let show = &(&ls | &of("show")) - &set(&["caches", "ls", "null"]);
    let diff = &(&of("diff") | &set(&["value", "digest"])) - &set(&["show", "null"]);
    let check = &of("check")
        - &set(&[
            "corrupt",
            "unreadable",
            "not checked",
            "rewritten",
            "removed",
            "recent",
            "superseded",
            "failed: …",
        ]);
    let prune = &of("prune") - &set(&["path", "error"]);
    let clear = &of("clear") - &set(&["path"]);
    let generated = documented(page, "`completions`, `man`");

    let root = root();
    let cut = root.path().join(hash(1)).join("18bd1c2f9a3e4d50-a.tcs");
    let file = std::fs::OpenOptions::new().write(true).open(&cut);
    let shortened = file.and_then(|file| file.set_len(1000));
    shortened.expect("it can be written");
    set_read(&cut, DAY);
    let (one, two) = (hash(1), hash(2));
    let left = set(&["skipped"]);
    for (args, code, expected) in [
        (&["ls", "."][..], 0, &ls | &left),
        (&["show", ".", &one], 0, &show | &left),
        (&["diff", ".", &one, &two], 1, &diff | &left),
        (&["check", ".", "--repair"], 1, &check | &left),
        (&["prune", ".", "--older-than", "1h"], 0, &prune | &left),
        (
            &["export", ".", &hash(3), "-o", "x.npy"],
            0,
            &of("export") | &left,
        ),
        (&["clear", ".", "--yes"], 0, &clear | &left),
        (&["completions", "zsh"], 0, generated),
        (&["man"], 0, set(&["text"])),
    ] {
        let mut found = Words::new();
        fields(&json(root.path(), args, code), &mut found);
        assert_eq!(found, expected, "{args:?}");
    }

    let untrusted = root.path().join("x");
    std::fs::create_dir(&untrusted).expect("it can be made");
    std::fs::write(untrusted.join("manifest.json"), "{}").expect("it can be written");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&untrusted, everybody).expect("it is ours");
    let mut found = set(&["skipped"]);
    fields(&json(root.path(), &["ls", "."], 0)["skipped"], &mut found);
    let expected = documented(page, "all but `completions` and `man`");
    assert_eq!(found, expected);
}
