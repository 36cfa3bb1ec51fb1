//! The executables that cargo built, from its messages: their file names contain a hash.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// How an executable is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExecutableKind {
    Test,
    Bench,
    /// A program that tests of its package start.
    Bin,
}

impl ExecutableKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Bench => "bench",
            Self::Bin => "bin",
        }
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Executable {
    pub(crate) kind: ExecutableKind,
    pub(crate) path: PathBuf,
    /// The folder of the package, in which cargo starts it.
    pub(crate) package: PathBuf,
    /// The name of the target.
    pub(crate) target: String,
}

/// Parses the output of `cargo … --message-format json`.
pub(crate) fn parse(messages: &str) -> Vec<Executable> {
    messages
        .lines()
        .filter_map(|line| executable(&serde_json::from_str(line).ok()?))
        .collect()
}

/// Libraries and build scripts are artifacts without an executable.
fn executable(message: &Value) -> Option<Executable> {
    let test = message["profile"]["test"] == true;
    let kind = match message["target"]["kind"][0].as_str()? {
        "bench" => ExecutableKind::Bench,
        // `cargo bench` builds unit tests even of programs with `test = false`.
        "bin" if test => return None,
        _ if test => ExecutableKind::Test,
        _ => ExecutableKind::Bin,
    };
    Some(Executable {
        kind,
        path: message["executable"].as_str()?.into(),
        package: Path::new(message["manifest_path"].as_str()?)
            .parent()?
            .to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_artifacts_with_an_executable_are_found() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"a","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"promises","kind":["test"]},"profile":{"test":true},"executable":"/t/deps/promises-0f"}
{"reason":"build-script-executed","package_id":"a"}
a line of a program
{"reason":"build-finished","success":true}"#;
        let expected = Executable {
            kind: ExecutableKind::Test,
            path: "/t/deps/promises-0f".into(),
            package: "/w/tests".into(),
            target: "promises".into(),
        };
        assert_eq!(parse(messages), [expected]);
    }

    #[test]
    fn tests_benchmarks_and_helper_programs_are_distinguished() {
        let kind = |kind: &str, test: bool| {
            let message = serde_json::json!({
                "manifest_path": "/w/Cargo.toml",
                "target": { "name": "x", "kind": [kind] },
                "profile": { "test": test },
                "executable": "/t/x",
            });
            parse(&message.to_string()).first().map(|found| found.kind)
        };
        assert_eq!(kind("lib", true), Some(ExecutableKind::Test));
        assert_eq!(kind("bin", false), Some(ExecutableKind::Bin));
        assert_eq!(kind("bin", true), None);
        assert_eq!(kind("bench", false), Some(ExecutableKind::Bench));
        assert_eq!(kind("bench", true), Some(ExecutableKind::Bench));
    }
}
