//! `docs/cli.md`: its console blocks are what the program prints, and its table lists the fields of every
//! JSON document. `cargo xtask docs` runs these tests with `TORCHCACHE_WRITE_DOCS`, and the page is written
//! instead of compared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{HOUR, command, corrupt_rows, cut, hash, json, mask, root, set_read, text};

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")
}

fn page() -> String {
    std::fs::read_to_string(page_path()).unwrap()
}

/// The output of a command line on the caches in `features`, as the page shows it.
fn output(line: &str) -> String {
    let root = root();
    let dir = tempfile::tempdir().unwrap();
    let features = dir.path().join("features");
    std::fs::rename(root.keep(), &features).unwrap();
    // A directory stands for a bucket.
    let here = format!("file://{}/", dir.path().canonicalize().unwrap().display());
    let line = line.replace("file:///data/", &here);
    let args: Vec<_> = line.split(' ').skip(1).collect();
    if let Some(url) = args.iter().find(|arg| arg.starts_with(&here))
        && args[0] != "push"
    {
        let pushed = command(&["push", "features", url])
            .current_dir(dir.path())
            .output();
        assert!(pushed.unwrap().status.success());
    }
    if args[..] == ["check", "features"] {
        std::fs::remove_dir_all(features.join(hash(2))).unwrap();
        let segment = features.join(hash(1)).join("18bd1c2f9a3e4d51-b.tcs");
        corrupt_rows(&segment, 1024, [3, 40]);
        set_read(&segment, HOUR);
    }
    let mut command = command(&args);
    let output = command
        .current_dir(dir.path())
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    mask(&text(&output.stdout), dir.path(), "/data")
}

/// The page with the output of each block `$ torchcache …` below its command line.
fn written(page: &str) -> String {
    let mut written = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        written += &format!("{line}\n");
        if line == "```console" {
            let line = lines.next().unwrap();
            let command = line.strip_prefix("$ ").unwrap();
            written += &format!("{line}\n{}```\n", output(command));
            lines.by_ref().find(|&line| line == "```");
        }
    }
    written
}

#[test]
fn console_blocks_show_what_the_program_prints() {
    let page = page();
    let written = written(&page);
    if std::env::var_os("TORCHCACHE_WRITE_DOCS").is_some() {
        std::fs::write(page_path(), written).unwrap();
    } else if page != written {
        let (old, new) = page
            .lines()
            .zip(written.lines())
            .find(|(a, b)| a != b)
            .unwrap_or_default();
        panic!("docs/cli.md is out of date, run `cargo xtask docs`:\n-{old}\n+{new}");
    }
}

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
fn the_table_lists_the_fields_of_every_document() {
    let page = page();
    let of = |command: &str| documented(&page, &format!("`{command}`"));
    // Without values, references to other rows, and fields of errors that do not occur here.
    let ls = of("ls");
    let show = &(&ls | &of("show")) - &set(&["caches", "ls", "null"]);
    let diff = &(&of("diff") | &set(&["value", "digest"])) - &set(&["show", "null"]);
    let check = &of("check")
        - &set(&[
            "corrupt",
            "null",
            "not checked",
            "rewritten",
            "removed",
            "recent",
            "superseded",
            "failed: …",
        ]);
    let prune = &of("prune") - &set(&["path", "error"]);
    let clear = &of("clear") - &set(&["path"]);
    let generated = documented(&page, "`completions`, `man`");

    let root = root();
    cut(
        &root.path().join(hash(1)).join("18bd1c2f9a3e4d50-a.tcs"),
        1000,
    );
    let (one, two) = (hash(1), hash(2));
    let left = set(&["skipped"]);
    for (args, code, expected) in [
        (&["ls", "."][..], 0, &ls | &left),
        (&["show", ".", &one], 0, &show | &left),
        (&["diff", ".", &one, &two], 1, &diff | &left),
        (&["key", &one, "cat.png"], 0, of("key")),
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
    std::fs::create_dir(&untrusted).unwrap();
    std::fs::write(untrusted.join("manifest.json"), "{}").unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&untrusted, everybody).unwrap();
    let mut found = set(&["skipped"]);
    fields(&json(root.path(), &["ls", "."], 0)["skipped"], &mut found);
    let expected = documented(&page, "all but `key`, `completions` and `man`");
    assert_eq!(found, expected);
}

#[cfg(feature = "remote")]
#[test]
fn the_table_lists_the_fields_of_every_document_on_urls() {
    let page = page();
    let of = |command: &str| documented(&page, &format!("`{command} URL`"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::rename(root().keep(), dir.path().join("features")).unwrap();
    let url = format!("file://{}/b", dir.path().canonicalize().unwrap().display());
    let show = &(&documented(&page, "`ls`") | &documented(&page, "`show`"))
        - &set(&["caches", "ls", "null"]);
    let check = &of("check") - &set(&["null"]);
    let copied = documented(&page, "`push`, `pull`");
    let compact = &documented(&page, "`compact`")
        - &set(&[
            "path",
            "error",
            "sources",
            "superseded_rows",
            "name",
            "bytes",
            "rows",
        ]);
    let prune = &of("prune")
        - &set(&[
            "path",
            "error",
            "name",
            "module",
            "segments",
            "cache_removed",
            "bytes",
            "rows",
            "last_read",
        ]);
    let clear = &of("clear") - &set(&["path", "error"]);
    for (args, code, expected) in [
        (&["push", "features", &url][..], 0, &copied),
        (&["pull", &url, "copy"], 0, &copied),
        (&["ls", &url], 0, &of("ls")),
        (&["show", &url, &hash(1)], 0, &show),
        (&["check", &url], 1, &check),
        (&["compact", &url], 0, &compact),
        (
            &["prune", &url, "--older-than", "1h", "--grace", "1s"],
            0,
            &prune,
        ),
        (&["clear", &url, "--yes"], 0, &clear),
    ] {
        let mut found = Words::new();
        fields(&json(dir.path(), args, code), &mut found);
        assert_eq!(found, expected | &set(&["skipped"]), "{args:?}");
    }
}
