//! Directories of caches as stores write them, and running the program on them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use torchcache_store::Key;
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::manifest::{Category, IdentityPart, Manifest};
use torchcache_store::schema::{ElementKind, OutputDevice, Schema, TensorSpec};
use torchcache_store::segment::{Encoding, SegmentWriter};

pub(crate) const MINUTE: u64 = 60;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;

/// The program with these arguments, printing as to a pipe.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torchcache"));
    command.args(args);
    for variable in ["COLUMNS", "NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the program in a directory.
pub(crate) fn run_in(dir: &Path, args: &[&str]) -> Output {
    command(args).current_dir(dir).output().unwrap()
}

/// Runs the program on a terminal, and answers its question. Returns the question and the exit code.
pub(crate) fn run_on_terminal(dir: &Path, args: &[&str], answer: &str) -> (String, Option<i32>) {
    run_on_terminal_while(dir, args, answer, || {})
}

/// [`run_on_terminal`], and does something before it answers.
pub(crate) fn run_on_terminal_while(
    dir: &Path,
    args: &[&str],
    answer: &str,
    before_answer: impl FnOnce(),
) -> (String, Option<i32>) {
    // Tests that run meanwhile start processes with few descriptors.
    #[cfg(target_os = "linux")]
    let private = OpenptFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let private = OpenptFlags::empty();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | private).unwrap();
    grantpt(&terminal)
        .and_then(|()| unlockpt(&terminal))
        .unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let name = name.to_str().unwrap().to_owned();
    let side = File::options().read(true).write(true).open(name).unwrap();
    let mut command = command(args);
    let copy = side.try_clone().unwrap();
    command
        .current_dir(dir)
        .stdin(Stdio::from(OwnedFd::from(copy)));
    command
        .stderr(Stdio::from(OwnedFd::from(side)))
        .stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command); // closes our copies of the terminal's other side
    let mut screen = File::from(terminal);
    let (mut asked, mut piece) = (Vec::new(), [0; 256]);
    while !text(&asked).contains("[y/N]") {
        let read = screen.read(&mut piece).unwrap();
        asked.extend(&piece[..read]);
    }
    before_answer();
    screen.write_all(answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (text(&asked), output.status.code())
}

/// Runs the program, asserts the exit code, and returns both streams.
fn streams(dir: &Path, args: &[&str], code: i32) -> (String, String) {
    let output = run_in(dir, args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
    (out, err)
}

/// Standard output of a run that ends with this exit code.
pub(crate) fn stdout(dir: &Path, args: &[&str], code: i32) -> String {
    streams(dir, args, code).0
}

/// Standard error of a run that ends with this exit code.
pub(crate) fn stderr(dir: &Path, args: &[&str], code: i32) -> String {
    streams(dir, args, code).1
}

/// Standard output, then standard error, of a run that ends with this exit code.
pub(crate) fn printed(dir: &Path, args: &[&str], code: i32) -> String {
    let (out, err) = streams(dir, args, code);
    out + &err
}

/// Runs the program with `--json`, asserts the exit code, and returns the document.
pub(crate) fn json(dir: &Path, args: &[&str], code: i32) -> Value {
    let out = stdout(dir, &[args, &["--json"]].concat(), code);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn key(n: u64) -> Key {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

/// A value of `len` bytes that belongs to one key only.
pub(crate) fn value(key: &Key, len: usize) -> Vec<u8> {
    let mut value = vec![0; len];
    blake3::Hasher::new_keyed(key)
        .finalize_xof()
        .fill(&mut value);
    value
}

/// The module hash of a cache by its number.
pub(crate) fn hash(n: u64) -> String {
    blake3::hash(&n.to_le_bytes()).to_hex().to_string()
}

/// A tensor of an output.
pub(crate) fn tensor(stored: ElementKind, output: ElementKind, shape: &[i64]) -> TensorSpec {
    TensorSpec {
        stored,
        output,
        device: OutputDevice::Module,
        shape: shape.to_vec(),
    }
}

/// An output that is one tensor of this kind.
pub(crate) fn single(kind: ElementKind, shape: &[i64]) -> Schema {
    Schema {
        structure: "T".into(),
        tensors: vec![tensor(kind, kind, shape)],
        lengths: Vec::new(),
    }
}

/// Writes a segment of this name, last read this many seconds ago.
pub(crate) fn segment(
    dir: &Path,
    name: &str,
    schema: &[u8],
    row_bytes: usize,
    keys: impl IntoIterator<Item = u64>,
    seconds: u64,
) -> PathBuf {
    let values = keys
        .into_iter()
        .map(|n| (key(n), value(&key(n), row_bytes)));
    written(dir, name, schema, row_bytes, values, seconds)
}

/// [`segment`] with these values. A value shorter than a row is stored as if it were compressed.
pub(crate) fn written(
    dir: &Path,
    name: &str,
    schema: &[u8],
    row_bytes: usize,
    rows: impl IntoIterator<Item = (Key, Vec<u8>)>,
    seconds: u64,
) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let schema = schema.into();
    let mut writer = SegmentWriter::create(dir).unwrap();
    for (key, value) in rows {
        let encoding = match value.len() == row_bytes {
            true => Encoding::Raw,
            false => Encoding::Zstd,
        };
        writer
            .push(&key, &schema, row_bytes as u32, encoding, &value)
            .unwrap();
    }
    let published = writer.finish().and_then(|finished| finished.publish());
    let path = dir.join(name);
    std::fs::rename(published.unwrap(), &path).unwrap();
    set_read(&path, seconds);
    path
}

pub(crate) fn set_read(path: &Path, seconds: u64) {
    let read = SystemTime::now() - Duration::from_secs(seconds);
    File::open(path)
        .and_then(|file| file.set_modified(read))
        .unwrap();
}

/// A part of an identity, whose digest is that of its value.
pub(crate) fn part(category: Category, path: &str, value: &str) -> IdentityPart {
    IdentityPart::new(
        path,
        category,
        value,
        *blake3::hash(value.as_bytes()).as_bytes(),
    )
}

/// Writes a manifest into a cache, this many seconds ago.
pub(crate) fn manifest(dir: &Path, module: &str, parts: Vec<IdentityPart>, seconds: u64) {
    let name = dir.file_name().unwrap().to_string_lossy();
    let opened = Os.open_dir(dir, true).unwrap();
    Manifest::new(module, &name, parts).write(&opened).unwrap();
    set_read(&dir.join("manifest.json"), seconds);
}

/// The identity of the module of most tests.
pub(crate) fn backbone(version: &str, weights: &str) -> Vec<IdentityPart> {
    let mut parts = vec![
        part(Category::Option, "cache_dtype", "Some(Half)"),
        part(Category::Option, "subsample_count", "None"),
        part(Category::Option, "version", version),
        part(Category::Field, "type", &format!("{BACKBONE:?}")),
        part(
            Category::Code,
            "forward",
            "self . stem . forward_t (xs , false) . apply (& self . layers) . flat_view ()",
        ),
        part(Category::Field, "label", "\"resnet18\""),
    ];
    for (path, shape) in [
        ("stem.conv.ws", "Float[64, 3, 7, 7]"),
        ("layers.0.0.conv1.ws", "Float[64, 64, 3, 3]"),
        ("layers.0.0.bn1.running_mean", "Float[64]"),
    ] {
        let digest = blake3::hash(format!("{path} {weights}").as_bytes());
        // As the library writes it.
        let value = format!("{shape} {}", &digest.to_hex()[..16]);
        parts.push(IdentityPart::new(
            path,
            Category::Weights,
            &value,
            *digest.as_bytes(),
        ));
    }
    parts
}

pub(crate) const BACKBONE: &str = "transfer_learning::models::backbone::FrozenBackbone";

/// A segment of a newer version.
pub(crate) const NEWER: &str = "18bd1c2f9a3e4d52-1-b.tcs";

/// A root with five caches: two of one module, one of a function with several outputs and a segment of a
/// newer version, one with a name of its own and no manifest, and an empty one.
pub(crate) fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(hash(1));
    let mut half = single(ElementKind::Half, &[512]);
    half.tensors[0].output = ElementKind::Float;
    let half = half.encode();
    segment(
        &dir,
        "18bd1c2f9a3e4d50-a.tcs",
        &half,
        1024,
        0..1500,
        3 * DAY,
    );
    segment(
        &dir,
        "18bd1c2f9a3e4d51-b.tcs",
        &half,
        1024,
        1500..1797,
        2 * HOUR,
    );
    manifest(&dir, BACKBONE, backbone("", "one"), 5 * DAY);

    let dir = root.path().join(hash(2));
    // Stored in half of the bytes.
    let rows = (0..1797).map(|n| (key(n), value(&key(n), 512)));
    written(&dir, "18bd1c2f9a3e4d50-c.tcs", &half, 1024, rows, 12 * DAY);
    manifest(&dir, BACKBONE, backbone("2", "two"), 12 * DAY);

    let dir = root.path().join(hash(3));
    let schema = Schema {
        structure: "{pooled:T,layers:[T]}".into(),
        tensors: vec![
            tensor(ElementKind::Float, ElementKind::Float, &[384]),
            tensor(ElementKind::BFloat16, ElementKind::Float, &[128, 24]),
            tensor(ElementKind::BFloat16, ElementKind::Float, &[128, 24]),
        ],
        lengths: vec![2],
    };
    let bytes = schema.row_bytes().unwrap();
    segment(&dir, "a.tcs", &schema.encode(), bytes, 0..40, 20 * MINUTE);
    let future = segment(&dir, NEWER, &schema.encode(), bytes, 40..50, 20 * MINUTE);
    let mut changed = std::fs::read(&future).unwrap();
    changed[8] = 9;
    std::fs::write(&future, changed).unwrap();
    set_read(&future, 30 * MINUTE);
    let code = part(Category::Code, "embed", "encoder () . forward (tokens)");
    manifest(&dir, "embed_corpus::embed", vec![code], DAY);

    let dir = root.path().join("resnet18-of-last-spring");
    segment(&dir, "a.tcs", b"another schema", 100, 0..3, 90 * DAY);

    let dir = root.path().join(hash(5));
    manifest(&dir, "embed_corpus::unused", Vec::new(), HOUR);
    root
}

/// Cuts a segment short, a day ago.
pub(crate) fn cut(path: &Path, len: u64) {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(len)).unwrap();
    set_read(path, DAY);
}

/// Overwrites the start of some records of a segment of raw rows.
pub(crate) fn corrupt_rows(path: &Path, row_bytes: u64, rows: impl IntoIterator<Item = u64>) {
    let file = File::options().write(true).open(path).unwrap();
    for row in rows {
        file.write_all_at(b"bad", 16 + row * (row_bytes + 8))
            .unwrap();
    }
}

/// Replaces what differs between runs: `dir` by `shown`, and times.
pub(crate) fn mask(text: &str, dir: &Path, shown: &str) -> String {
    const TIME: &str = "2026-05-04T10:20:30Z";
    let dir = dir.canonicalize().unwrap();
    let text = text.replace(&*dir.to_string_lossy(), shown);
    let mut masked = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find("Z, ") {
        masked += &rest[..=at - TIME.len()];
        masked += TIME;
        rest = &rest[at + 1..];
    }
    masked + rest
}
