//! The keys of ids.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use torchcache_store::ids::{self, IdKind};

use crate::support::{command, json, stderr, stdout, text};

const PREFIX: &str = "00010203040506070809000102030405060708090001020304050607080900ff";

fn key(id: &ids::IdBytes) -> String {
    let mut prefix = [0; 32];
    hex::decode_to_slice(PREFIX, &mut prefix).unwrap();
    hex::encode(ids::row_key(&prefix, id))
}

fn here() -> &'static Path {
    Path::new(".")
}

#[test]
fn each_id_has_a_line_with_its_key() {
    let args = ["key", PREFIX, "cat.png", "a b"];
    let [cat, other] = ["cat.png", "a b"].map(|id| key(&ids::bytes(id.as_bytes())));
    assert_eq!(
        stdout(here(), &args, 0),
        format!("{cat} cat.png\n{other} a b\n")
    );
    let keys = json!([{ "id": "cat.png", "key": cat }, { "id": "a b", "key": other }]);
    assert_eq!(json(here(), &args, 0), json!({ "keys": keys }));
}

#[test]
fn ids_are_of_the_types_that_programs_pass() {
    let keys = |kind: &str, given: &[&str]| {
        let args = [&["key", PREFIX, "--type", kind][..], given].concat();
        let lines = stdout(here(), &args, 0);
        let keys = lines
            .lines()
            .map(|line| line.split(' ').next().unwrap().to_owned());
        keys.collect::<Vec<_>>()
    };
    let integer = |id: i128| ids::integer(&id.to_le_bytes(), id < 0);
    let most = u128::MAX;
    assert_eq!(
        keys("integer", &["7", "-1", &most.to_string()]),
        [
            integer(7),
            integer(-1),
            ids::integer(&most.to_le_bytes(), false)
        ]
        .map(|id| key(&id))
    );
    let lists = [ids::integers([7, -1]), ids::integers([])].map(|id| key(&id));
    assert_eq!(keys("integers", &["7,-1", ""]), lists);
    assert_eq!(keys("bytes", &["00ff"]), [key(&ids::bytes(&[0, 255]))]);
    let elements = [
        (IdKind::Text, ids::bytes(b"train")),
        (IdKind::Integer, integer(7)),
    ];
    assert_eq!(
        keys("text,integer", &["train\t7"]),
        [key(&ids::tuple(elements))]
    );
}

#[test]
fn ids_are_read_from_the_lines_of_the_standard_input() {
    for (given, expected) in [("", 0), ("a\n", 1), ("a\r\nb", 2), ("a\n\nb\n", 3)] {
        let mut child = command(&["key", PREFIX])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(given.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let lines = text(&output.stdout);
        assert_eq!(lines.lines().count(), expected, "{given:?}: {lines}");
        let first = key(&ids::bytes(b"a"));
        assert!(expected == 0 || lines.starts_with(&first), "{lines}");
    }
}

#[test]
fn an_id_of_another_type_is_an_error() {
    for (kind, id, message) in [
        ("integer", "cat", "got the id `cat`; expected an integer"),
        ("integers", "7,x", "got the id `7,x`; expected integers"),
        (
            "bytes",
            "0",
            "got the id `0`; expected pairs of hexadecimal digits",
        ),
        (
            "text,integer",
            "train",
            "the id `train` has 1 elements, and --type 2",
        ),
    ] {
        let error = stderr(here(), &["key", PREFIX, "--type", kind, id], 2);
        assert!(error.contains(message), "{error}");
    }
    let error = stderr(here(), &["key", "ab", "cat.png"], 2);
    assert!(error.contains("expected 64 hexadecimal digits"), "{error}");
}
