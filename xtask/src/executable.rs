//! The executables that cargo says it built. Their file names hold a hash, so cargo's messages
//! are the only honest way to find them.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What cargo would do with an executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Test,
    Bench,
    /// A program of the package, which its tests start.
    Bin,
}

impl Kind {
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
    pub(crate) kind: Kind,
    pub(crate) path: PathBuf,
    /// Folder of the package, in which cargo would start it.
    pub(crate) package: PathBuf,
    /// Name of the target: `tests/promises.rs` is `promises`.
    pub(crate) target: String,
}

/// Reads what `cargo … --message-format json` printed.
pub(crate) fn parse(messages: &str) -> Vec<Executable> {
    messages
        .lines()
        .filter_map(|line| executable(&serde_json::from_str(line).ok()?))
        .collect()
}

/// Libraries and build scripts are artifacts as well, but name no executable.
fn executable(message: &Value) -> Option<Executable> {
    let test = message["profile"]["test"] == true;
    let kind = match message["target"]["kind"][0].as_str()? {
        "bench" => Kind::Bench,
        // `cargo bench` builds unit tests of programs that say they have none.
        "bin" if test => return None,
        _ if test => Kind::Test,
        _ => Kind::Bin,
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
            kind: Kind::Test,
            path: "/t/deps/promises-0f".into(),
            package: "/w/tests".into(),
            target: "promises".into(),
        };
        assert_eq!(parse(messages), [expected]);
    }

    #[test]
    fn unit_tests_benchmarks_and_helpers_are_told_apart() {
        let kind = |kind: &str, test: bool| {
            let message = serde_json::json!({
                "manifest_path": "/w/Cargo.toml",
                "target": { "name": "x", "kind": [kind] },
                "profile": { "test": test },
                "executable": "/t/x",
            });
            parse(&message.to_string()).first().map(|found| found.kind)
        };
        assert_eq!(kind("lib", true), Some(Kind::Test));
        assert_eq!(kind("bin", false), Some(Kind::Bin));
        assert_eq!(kind("bin", true), None);
        // With a harness of its own or with the standard one, a benchmark is one.
        assert_eq!(kind("bench", false), Some(Kind::Bench));
        assert_eq!(kind("bench", true), Some(Kind::Bench));
    }
}
