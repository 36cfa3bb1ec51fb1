//! Manifests and files that are not manifests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::fs::{FileSystem, Os};

fn part(path: &str, category: Category, digest: u8) -> IdentityPart {
    IdentityPart::new(path, category, "a value", [digest; 32])
}

fn manifest(module: &str, hash: &str) -> Manifest {
    Manifest::new(module, hash, vec![part("fc.ws", Category::Weights, 7)])
}

fn opened(path: &Path) -> Arc<dyn Directory> {
    Os.open_dir(path, true).expect("it can be made")
}

/// Why a file of these bytes is not read.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join(FILE), bytes).expect("it can be written");
    let error = Manifest::read(&*opened(dir.path())).expect_err("it is not a manifest");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    error.to_string()
}

#[test]
fn a_written_manifest_is_read_back_and_never_replaced() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = manifest("m", "1");
    for manifest in [&first, &manifest("m", "2")] {
        manifest.write(&opened(dir.path())).expect("it is written");
        assert_eq!(
            Manifest::read(&*opened(dir.path())).expect("it is ours"),
            first
        );
    }
    let names = fs::read_dir(dir.path()).expect("it can be listed");
    assert_eq!(names.count(), 1, "no temporary file remains");
}

/// Pinned, since other programs may read these files.
#[test]
fn the_layout_of_format_1_is_fixed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manifest = manifest("demo::Head", "5eed");
    let written = manifest.write(&opened(dir.path()));
    written.expect("it is written");
    let text = fs::read_to_string(dir.path().join(FILE)).expect("it is text");
    let expected = format!(
        r#"{{
  "format": 1,
  "module": "demo::Head",
  "hash": "5eed",
  "created_by": "torchcache {}",
  "parts": [
    {{
      "category": "weights",
      "path": "fc.ws",
      "value": "a value",
      "digest": "{}"
    }}
  ]
}}
"#,
        env!("CARGO_PKG_VERSION"),
        "07".repeat(32)
    );
    assert_eq!(text, expected);
    // Fields of other builds are ignored: earlier ones wrote the outputs of functions.
    let more = text.replacen('{', r#"{ "outputs": [[]],"#, 1);
    let read = Manifest::parse(more.as_bytes());
    assert_eq!(read.expect("it is ours"), manifest);
}

#[test]
fn the_newest_manifest_of_a_module_is_found() {
    let root = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(newest(root.path(), "m"), None);
    for (n, (module, hash)) in [("m", "b"), ("m", "a"), ("other", "c")].iter().enumerate() {
        let dir = root.path().join(hash);
        manifest(module, hash)
            .write(&opened(&dir))
            .expect("it is written");
        let file = fs::File::open(dir.join(FILE)).expect("it is there");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(n as u64);
        file.set_modified(time).expect("its time can be set");
    }
    fs::create_dir(root.path().join("empty")).expect("it can be made");
    fs::write(root.path().join("file"), "mine").expect("it can be written");
    let found = newest(root.path(), "m").expect("there are two");
    assert_eq!(found.hash, "a");
    assert_eq!(newest(&root.path().join("no such"), "m"), None);
}

#[test]
fn other_files_are_refused_without_quoting_them() {
    let valid = serde_json::to_string(&manifest("m", "1")).expect("it is JSON");
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let deep_unknown = [br#"{"x":"#.as_slice(), &deep, b"}"].concat();
    for bytes in [
        b"".as_slice(),
        b"{}",
        b"[1, 2]",
        b"{not json",
        b"\xFF\xFE",
        &deep,
        &deep_unknown,
        valid.replace("weights", "\u{1b}[31mweights").as_bytes(),
        valid.replace("07", "0").as_bytes(),
        valid.replace("07", "zz").as_bytes(),
        valid.replace("\"format\":1", "\"format\":2").as_bytes(),
        valid.replace("\"format\":1", "\"format\":-1").as_bytes(),
        valid.replacen("{", r#"{"hash":"","#, 1).as_bytes(),
        &valid.as_bytes()[..valid.len() - 1],
    ] {
        let message = refusal(bytes);
        assert!(
            message.len() < 80 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
    assert!(refusal(b"{}").contains("line 1, column 2"));
    assert!(refusal(&vec![b' '; MAX_BYTES as usize + 1]).contains("16777217 bytes"));
}

#[test]
fn links_and_pipes_are_not_opened() {
    let [elsewhere, root] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let there = manifest("m", "there").write(&opened(elsewhere.path()));
    there.expect("it is written");
    symlink(elsewhere.path(), root.path().join("link")).expect("it can be linked");
    assert_eq!(newest(root.path(), "m"), None);

    let dir = opened(&root.path().join("dir"));
    let path = dir.path().join(FILE);
    symlink(elsewhere.path().join(FILE), &path).expect("it can be linked");
    assert!(Manifest::read(&*dir).is_err());
    let written = manifest("m", "dir").write(&dir);
    written.expect("a link counts as a manifest");
    assert!(path.is_symlink());
    fs::remove_file(&path).expect("it can be removed");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("every Unix has it").success());
    assert!(Manifest::read(&*dir).is_err());
}

#[test]
fn changes_are_described_by_category() {
    let before = [
        part("scale", Category::Field, 1),
        part("version", Category::Option, 1),
    ];
    let after = [
        part("scale", Category::Field, 2),
        part("version", Category::Option, 2),
    ];
    assert_eq!(
        difference(&before, &after),
        "the field `scale` changed; the option `version` changed; weights did not"
    );
    assert_eq!(
        difference(&before, &before),
        "nothing in the manifest changed; the format of the identity may have"
    );
    let with_code = |scale| {
        [
            part("scale", Category::Field, scale),
            part("forward", Category::Code, 1),
        ]
    };
    assert_eq!(
        difference(&with_code(1), &with_code(2)),
        "the field `scale` changed; code, weights and options did not"
    );
    let layers = |digest| ["a", "b", "c", "d"].map(|path| part(path, Category::Weights, digest));
    assert_eq!(
        difference(&layers(1)[..3], &layers(2)[..3]),
        "the weights of `a`, `b`, `c` changed; fields and options did not"
    );
    assert_eq!(
        difference(&layers(1), &[]),
        "the weights of `a` and 3 more changed; fields and options did not"
    );
}

#[test]
fn long_and_odd_names_are_described_in_one_short_line() {
    let odd = format!("\u{1b}[2J\n\u{9b}\u{202e}`{}", "x".repeat(10_000));
    let text = difference(&[part(&odd, Category::Code, 1)], &[]);
    assert!(
        text.starts_with(r"the code of `\u{1b}[2J\n\u{9b}\u{202e}`x"),
        "{text}"
    );
    assert!(
        !text.contains(char::is_control) && text.len() < 300,
        "{text}"
    );
}

#[test]
fn values_and_names_are_cut_between_grapheme_clusters() {
    for cluster in [
        "1\u{fe0f}\u{20e3}",
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "\u{1f1e6}\u{1f1f9}",
        "e\u{301}",
        "\r\n",
    ] {
        for before in 0..cluster.chars().count() {
            let text = "x".repeat(before) + &cluster.repeat(121);
            let part = IdentityPart::new(&text, Category::Field, &text, [1; 32]);
            let cut = part.value.strip_suffix('…').expect("it is cut");
            let rest = text.strip_prefix(cut).expect("it is the start");
            assert!(
                rest.starts_with(cluster) || before > 0 && cut.is_empty(),
                "{cut:?}"
            );
            let letters = cut.chars().count();
            let most = 120 - cluster.chars().count()..=120;
            assert!(most.contains(&letters), "{letters} letters of {cluster:?}");
            let shown = difference(std::slice::from_ref(&part), &[]);
            assert!(shown.contains(&cut.escape_debug().to_string()), "{shown}");
        }
    }
    // One that is longer is left out: no value has more letters.
    let endless = "e".to_owned() + &"\u{301}".repeat(1000);
    let part = IdentityPart::new("x", Category::Field, &endless, [1; 32]);
    assert_eq!(part.value, "…");
}

/// Comparing every pair would take an hour.
#[test]
fn large_identities_are_compared_in_linear_time() {
    let large = |changed: usize| {
        let words = (0..100_000).map(|n| {
            let digest = if n == changed { 7 } else { 1 };
            part(&format!("words.{n}"), Category::Field, digest)
        });
        words.collect::<Vec<_>>()
    };
    assert_eq!(
        difference(&large(5), &large(99_999)),
        "the field `words.5`, `words.99999` changed; weights and options did not"
    );
}
