//! What compiles with the attribute and the derives, what does not, and what the compiler says.
//!
//! Each file in `programs/` is a crate with a table of small programs: the modules at its top level.
//! The comments `// error: …` and `// warning: …` above a program are the starts of all messages that the
//! compiler shows in it; a program without them compiles in silence. Cargo checks each file once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The crates, with the name under which their manifest has the library. Those of earlier editions share a
/// file.
const CRATES: [(&str, &str); 11] = [
    ("accepted", "torchcache = { workspace = true }"),
    ("forbidden", "torchcache = { workspace = true }"),
    ("edition_2015", "torchcache = { workspace = true }"),
    ("edition_2018", "torchcache = { workspace = true }"),
    ("edition_2021", "torchcache = { workspace = true }"),
    ("rejected", "torchcache = { workspace = true }"),
    ("rejected_by_names", "torchcache = { workspace = true }"),
    ("rejected_by_types", "torchcache = { workspace = true }"),
    ("renamed", "tc = { workspace = true }"),
    ("facade", "torchcache = { workspace = true }"),
    ("behind_a_facade", "facade = { path = \"../facade\" }"),
];

/// The names of the crates of earlier editions begin so.
const EDITION: &str = "edition_";

/// The file of a crate.
fn file(root: &Path, name: &str) -> PathBuf {
    let name = match name.starts_with(EDITION) {
        true => "editions",
        false => name,
    };
    root.join(format!("programs/{name}.rs"))
}

/// A program in a table.
#[derive(Debug)]
struct Program {
    /// The first and the last line.
    lines: (u64, u64),
    /// The starts of the messages.
    expected: Vec<String>,
}

#[test]
fn programs_compile_or_are_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    write_project(root, &project);
    let shown = messages(&project);
    let (mut count, mut mistakes) = (0, Vec::new());
    for (name, _) in CRATES {
        let path = file(root, name);
        let programs = table(&fs::read_to_string(&path).unwrap());
        assert!(!programs.is_empty(), "{name} has programs");
        let mut rest = shown.get(&path).cloned().unwrap_or_default();
        for (program, Program { lines, expected }) in &programs {
            let within = |(line, _): &mut (u64, String)| (lines.0..=lines.1).contains(line);
            let mut found: Vec<_> = rest.extract_if(.., within).map(|(_, text)| text).collect();
            let mut expected = expected.clone();
            found.sort();
            expected.sort();
            let is_right = found.len() == expected.len()
                && found
                    .iter()
                    .zip(&expected)
                    .all(|(found, start)| found.starts_with(start));
            if !is_right {
                mistakes.push(format!(
                    "{name}: {program}\n  expected {expected:#?}\n  found {found:#?}"
                ));
            }
        }
        for (line, text) in rest {
            mistakes.push(format!("{name}:{line}: {text}"));
        }
        count += programs.len();
    }
    assert!(
        mistakes.is_empty(),
        "{} of {count}:\n{}",
        mistakes.len(),
        mistakes.join("\n")
    );
}

/// The programs of a table: the modules that begin and end at the first column.
fn table(source: &str) -> BTreeMap<String, Program> {
    let mut programs = BTreeMap::new();
    let mut expected = Vec::new();
    let mut begun: Option<(String, u64)> = None;
    for (line, text) in (1..).zip(source.lines()) {
        let module = text
            .strip_prefix("pub mod ")
            .and_then(|rest| rest.strip_suffix(" {"));
        let message = ["// error: ", "// warning: "]
            .iter()
            .any(|kind| text.starts_with(kind));
        if let Some(name) = module {
            begun = Some((name.to_owned(), line));
        } else if message && begun.is_none() {
            expected.push(text["// ".len()..].to_owned());
        } else if text == "}"
            && let Some((name, first)) = begun.take()
        {
            let lines = (first - expected.len() as u64, line);
            let program = Program {
                lines,
                expected: std::mem::take(&mut expected),
            };
            assert!(programs.insert(name, program).is_none(), "one name each");
        }
    }
    programs
}

/// A workspace of the crates. Its lock file is that of this workspace, whose packages are there.
fn write_project(root: &Path, project: &Path) {
    let library = root.join("../torchcache");
    // Without libtorch: nothing is linked.
    let library = format!("path = {library:?}, features = [\"doc-only\"]");
    let manifest = format!(
        "[workspace]\nresolver = \"3\"\nmembers = {:?}\n\n\
         [workspace.dependencies]\n\
         tch = {{ version = \"*\", features = [\"doc-only\"] }}\n\
         torchcache = {{ {library} }}\n\
         tc = {{ package = \"torchcache\", {library} }}\n",
        CRATES.map(|(name, _)| name),
    );
    fs::create_dir_all(project).unwrap();
    write(&project.join("Cargo.toml"), &manifest);
    let lock = fs::read_to_string(root.join("../Cargo.lock")).unwrap();
    write(&project.join("Cargo.lock"), &lock);
    for (name, dependency) in CRATES {
        let folder = project.join(name);
        fs::create_dir_all(&folder).unwrap();
        let path = file(root, name);
        let edition = name.strip_prefix(EDITION).unwrap_or("2024");
        let manifest = format!(
            "[package]\nname = {name:?}\nversion = \"0.0.0\"\nedition = {edition:?}\n\n\
             [lib]\npath = {path:?}\n\n\
             [features]\ndefault = [\"on\"]\non = []\noff = []\n\n\
             [dependencies]\ntch.workspace = true\n{dependency}\n",
        );
        write(&folder.join("Cargo.toml"), &manifest);
    }
}

/// Writes a file, unless it is so already: Cargo compares times.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).unwrap();
    }
}

/// The errors and warnings in each file, with their lines.
fn messages(project: &Path) -> BTreeMap<PathBuf, Vec<(u64, String)>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--offline", "--workspace", "--keep-going"]);
    cargo.args(["--quiet", "--message-format=json"]);
    cargo.args(["--target-dir", "target"]).current_dir(project);
    cargo.env_remove("RUSTFLAGS").stderr(Stdio::piped());
    let output = cargo.output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeMap::new();
    let mut compiled = 0;
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let is_table = |line: &Value| {
            CRATES
                .iter()
                .any(|(name, _)| line["target"]["name"] == **name)
        };
        if !is_table(&line) {
            continue;
        }
        compiled += 1;
        let message = &line["message"];
        let level = message["level"].as_str().unwrap_or_default();
        let spans = message["spans"].as_array().cloned().unwrap_or_default();
        let Some(primary) = spans.iter().find(|span| span["is_primary"] == true) else {
            continue;
        };
        let file = project.join(primary["file_name"].as_str().unwrap());
        let text = message["message"].as_str().unwrap();
        let at = primary["line_start"].as_u64().unwrap();
        found
            .entry(file)
            .or_insert_with(Vec::new)
            .push((at, format!("{level}: {text}")));
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        compiled >= CRATES.len(),
        "Cargo reached every crate: {errors}"
    );
    found
}
