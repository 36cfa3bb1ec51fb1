//! The bytes of exported files, and the errors of `export`. `python.rs` reads the files with Python.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use torchcache_store::schema::{ElementKind, OutputDevice, Schema};

use crate::support::{
    BACKBONE, DAY, corrupt_rows, hash, json, key, manifest, root, segment, single, stderr, stdout,
    tensor, text, value, written,
};

/// The header and the data of a safetensors file.
fn read(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let (len, rest) = bytes.split_first_chunk().unwrap();
    let len = u64::from_le_bytes(*len) as usize;
    assert_eq!(len % 8, 0, "tensors are aligned");
    let header = serde_json::from_slice(&rest[..len]).unwrap();
    (header, rest[len..].to_vec())
}

/// The bytes of a tensor.
fn tensor_bytes<'d>(header: &Value, data: &'d [u8], name: &str) -> &'d [u8] {
    let offsets = &header[name]["data_offsets"];
    let at = |n: usize| offsets[n].as_u64().unwrap() as usize;
    &data[at(0)..at(1)]
}

/// A cache with a segment of float rows of 100 bytes for each range of keys.
fn floats(segments: &[(u64, u64)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(hash(1));
    let schema = single(ElementKind::Float, &[25]).encode();
    for (n, &(begin, end)) in segments.iter().enumerate() {
        segment(&dir, &format!("{n}.tcs"), &schema, 100, begin..end, DAY);
    }
    manifest(&dir, "m::Module", Vec::new(), DAY);
    root
}

#[test]
fn an_export_has_the_rows_keys_and_metadata() {
    let root = root();
    let args = ["export", ".", &hash(1), "-o", "x.safetensors"];
    let report = json(root.path(), &args, 0);
    assert_eq!(report["rows"], json!(1797));
    let (header, data) = read(&root.path().join("x.safetensors"));
    assert_eq!(header["output"]["dtype"], json!("F16"));
    assert_eq!(header["output"]["shape"], json!([1797, 512]));
    assert_eq!(header["keys"]["shape"], json!([1797, 32]));
    let metadata = &header["__metadata__"];
    assert_eq!(
        (&metadata["module"], &metadata["hash"]),
        (&json!(BACKBONE), &json!(hash(1)))
    );
    assert_eq!(metadata["structure"], json!("T"));
    let keys = tensor_bytes(&header, &data, "keys").chunks(32);
    let rows = tensor_bytes(&header, &data, "output").chunks(1024);
    for ((n, got), row) in (0..1797).zip(keys).zip(rows) {
        assert_eq!(got, key(n));
        assert!(row == value(&key(n), 1024), "row {n}");
    }
    assert_eq!(
        fs::read_dir(root.path()).unwrap().count(),
        6,
        "nothing is left"
    );
}

#[test]
fn duplicates_are_merged_and_corrupt_records_left_out() {
    let root = floats(&[(0, 60), (40, 100)]);
    let args = ["export", ".", "-o", "x.safetensors", "--force"];
    let report = json(root.path(), &args, 0);
    assert_eq!(
        (&report["rows"], &report["duplicate_records"]),
        (&json!(100), &json!(20))
    );
    // The first of these rows has a second copy.
    corrupt_rows(&root.path().join(hash(1)).join("0.tcs"), 100, [50, 7]);
    let report = json(root.path(), &args, 1);
    assert_eq!(report["rows"], json!(99));
    assert_eq!(
        (&report["corrupt_records"], &report["lost_rows"]),
        (&json!(2), &json!(1))
    );
    let (header, data) = read(&root.path().join("x.safetensors"));
    assert_eq!(header["output"]["shape"], json!([99, 25]));
    assert_eq!(data.len(), 99 * 132);
    let keys = tensor_bytes(&header, &data, "keys").chunks(32);
    let rows = tensor_bytes(&header, &data, "output").chunks(100);
    let got: HashMap<_, _> = keys.zip(rows).collect();
    for n in 0..100 {
        let expected = (n != 7).then(|| value(&key(n), 100));
        assert_eq!(
            got.get(&key(n)[..]).map(|row| row.to_vec()),
            expected,
            "row {n}"
        );
    }
    let note = stderr(root.path(), &args, 1);
    assert!(
        note.contains("2 corrupt records left out; 1 row lost, with no intact copy"),
        "{note}"
    );
}

#[test]
fn rows_are_exported_by_key_in_their_order() {
    let root = floats(&[(0, 60), (40, 100)]);
    // One that is in two segments, and repeats; the first copy is corrupt.
    corrupt_rows(&root.path().join(hash(1)).join("0.tcs"), 100, [50]);
    let wanted = [99, 50, 3, 50, 0];
    let lines: Vec<String> = wanted
        .iter()
        .zip([",cat.png", "", " dog, 2", "\tx", "\r\n"])
        .map(|(&n, rest)| format!("{}{rest}\n", hex::encode(key(n))))
        .collect();
    fs::write(root.path().join("keys"), lines.concat()).unwrap();
    let args = [
        "export",
        ".",
        "-o",
        "x.safetensors",
        "--force",
        "--keys",
        "keys",
    ];
    let report = json(root.path(), &args, 0);
    assert_eq!(report["rows"], json!(5));
    let (header, data) = read(&root.path().join("x.safetensors"));
    assert_eq!(header["output"]["shape"], json!([5, 25]));
    let keys = tensor_bytes(&header, &data, "keys").chunks(32);
    let rows = tensor_bytes(&header, &data, "output").chunks(100);
    for ((n, got), row) in wanted.into_iter().zip(keys).zip(rows) {
        assert_eq!(got, key(n));
        assert!(row == value(&key(n), 100), "row {n}");
    }

    // A key that no row has, and a row without an intact copy.
    let absent = [&lines[..2], &[hex::encode(key(100)), "\n".into()]].concat();
    fs::write(root.path().join("keys"), absent.concat()).unwrap();
    let error = stderr(root.path(), &args, 1);
    let first = format!("the first is line 3, {}", hex::encode(key(100)));
    assert!(error.contains("1 of 3 keys in keys"), "{error}");
    assert!(error.contains(&first), "{error}");
    corrupt_rows(&root.path().join(hash(1)).join("1.tcs"), 100, [10]);
    fs::write(root.path().join("keys"), &lines[1]).unwrap();
    let error = stderr(root.path(), &args, 2);
    let row = format!("row {}: ", hex::encode(key(50)));
    assert!(error.contains(&row), "{error}");
    for (line, expected) in [
        ("", "keys has no keys"),
        (
            "\nabc,cat.png\n",
            "keys, line 2: got `abc,cat.png`; expected the 64",
        ),
        (&lines[0].replace(',', ""), "cat.png`; expected the 64"),
    ] {
        fs::write(root.path().join("keys"), line).unwrap();
        let error = stderr(root.path(), &args, 2);
        assert!(error.contains(expected), "{error}");
    }
    fs::remove_file(root.path().join("keys")).unwrap();
    let error = stderr(root.path(), &args, 2);
    assert!(error.contains("cannot read keys: "), "{error}");
    let files = fs::read_dir(root.path()).unwrap().count();
    assert_eq!(files, 2, "the first export stays, and nothing else");
}

#[test]
fn an_existing_file_is_replaced_only_with_force() {
    let root = floats(&[(0, 3)]);
    let path = root.path().join("x.npy");
    fs::write(&path, "mine").unwrap();
    let refused = stderr(root.path(), &["export", ".", "-o", "x.npy"], 2);
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    json(root.path(), &["export", ".", "-o", "x.npy", "--force"], 0);
    assert!(fs::read(&path).unwrap().starts_with(b"\x93NUMPY"));
    let ending = stderr(root.path(), &["export", ".", "-o", "x.npz"], 2);
    assert!(ending.contains(".safetensors or .npy"), "{ending}");
    fs::create_dir(root.path().join("d.npy")).unwrap();
    let args = ["export", ".", "-o", "d.npy", "--force"];
    let directory = stderr(root.path(), &args, 2);
    assert!(directory.contains("d.npy is a directory"), "{directory}");
    fs::remove_dir(root.path().join("d.npy")).unwrap();
    let absent = stderr(root.path(), &["export", ".", "-o", "no/x.npy"], 2);
    let expected = "directory no: No such file or directory (os error 2)\n";
    assert!(absent.ends_with(expected), "{absent}");
    assert_eq!(
        fs::read_dir(root.path()).unwrap().count(),
        2,
        "nothing is left"
    );
}

#[test]
fn several_schemas_are_listed_and_one_is_selected() {
    let root = floats(&[(0, 3)]);
    let dir = root.path().join(hash(1));
    let pair = Schema {
        structure: "(TT)".into(),
        tensors: vec![
            tensor(ElementKind::Uint8, ElementKind::Uint8, &[3]),
            tensor(ElementKind::Double, ElementKind::Double, &[]),
        ],
        lengths: Vec::new(),
    };
    segment(&dir, "pair.tcs", &pair.encode(), 11, 10..14, DAY);
    segment(&dir, "unknown.tcs", b"?", 5, 20..22, DAY);
    let args = ["export", ".", "-o", "x.safetensors", "--force"];
    let list = stderr(root.path(), &args, 2);
    assert!(list.contains("1: 3 rows, output float32[25]"), "{list}");
    assert!(
        list.contains("2: 4 rows, 0 uint8[3], 1 float64[]"),
        "{list}"
    );
    assert!(
        list.contains("3: 2 rows, 5 bytes each, of a schema"),
        "{list}"
    );
    let report = json(root.path(), &[&args[..], &["--schema", "2"]].concat(), 0);
    assert_eq!(report["rows"], json!(4));
    let (header, data) = read(&root.path().join("x.safetensors"));
    // The widest elements come first, so that they are aligned.
    assert_eq!(header["1"]["data_offsets"], json!([0, 32]));
    assert_eq!(header["0"]["data_offsets"], json!([32, 44]));
    assert_eq!(
        tensor_bytes(&header, &data, "0")[..3],
        value(&key(10), 11)[..3]
    );
    let unknown = stderr(root.path(), &[&args[..], &["--schema", "3"]].concat(), 2);
    assert!(unknown.contains("cannot export"), "{unknown}");
    let absent = stderr(root.path(), &[&args[..], &["--schema", "4"]].concat(), 2);
    assert!(absent.contains("there is no schema 4"), "{absent}");
}

#[test]
fn schemas_that_differ_only_by_the_device_are_distinct() {
    let root = floats(&[(0, 3)]);
    let dir = root.path().join(hash(1));
    for (n, code) in [(1, 1), (2, 0x8000_0004), (3, 7), (4, 16), (5, 18)] {
        let mut schema = single(ElementKind::Float, &[25]);
        schema.tensors[0].device = OutputDevice::from_code(code);
        let first = 10 * n;
        let name = format!("on-{n}.tcs");
        segment(&dir, &name, &schema.encode(), 100, first..first + 3, DAY);
    }
    let list = stderr(root.path(), &["export", ".", "-o", "x.npy"], 2);
    let shown = stdout(root.path(), &["show", "."], 0);
    let report = json(root.path(), &["show", "."], 0);
    let of_argument = "the device of argument 2";
    let devices = ["", "CPU", of_argument, "device 7", "CUDA 0", "CUDA 2"];
    for (n, device) in devices.iter().enumerate() {
        let on = match device.is_empty() {
            true => String::new(),
            false => format!(" on {device}"),
        };
        let number = n + 1;
        let line = format!("{number}: 3 rows, output float32[25]{on}\n");
        assert!(list.contains(&line), "{line} {list}");
        assert!(shown.contains(&format!("float32{on} ")), "{on} {shown}");
        let expected = if on.is_empty() {
            json!(null)
        } else {
            json!(device)
        };
        assert_eq!(report["schemas"][n]["parts"][0]["device"], expected);
    }
}

/// A row of three tensors after three bytes: quantized, of 8-bit floats, and with a scale only.
fn narrow() -> (Schema, Vec<u8>) {
    let (float, int8) = (ElementKind::Float, ElementKind::QInt8);
    let schema = Schema {
        structure: "{id:T,pooled:T,e4m3:T,e5m2:T}".into(),
        tensors: vec![
            tensor(ElementKind::Uint8, ElementKind::Uint8, &[3]),
            tensor(int8, ElementKind::Half, &[2, 2]),
            tensor(ElementKind::Float8e4m3fn, float, &[2]),
            tensor(ElementKind::Float8e5m2, float, &[]),
        ],
        lengths: Vec::new(),
    };
    let quantized = [&0.5f32.to_le_bytes()[..], &[127, 0, 0x81, 1]].concat();
    let row = [&[7, 8, 9][..], &quantized, &[0x7e, 0x81], &[0xfc]].concat();
    (schema, row)
}

#[test]
fn quantized_rows_are_exported_as_their_numbers() {
    let root = tempfile::tempdir().unwrap();
    let (schema, row) = narrow();
    let rows = [(key(0), row.clone()), (key(1), row.clone())];
    let dir = root.path().join(hash(1));
    written(&dir, "a.tcs", &schema.encode(), row.len(), rows, DAY);
    let shown = stdout(root.path(), &["show", "."], 0);
    assert!(shown.contains("qint8 → float16"), "{shown}");
    assert!(shown.contains("float8_e4m3fn → float32"), "{shown}");

    let pooled: Vec<u8> = [63.5f32, 0.0, -63.5, 0.5]
        .iter()
        .flat_map(|it| it.to_le_bytes())
        .collect();
    let args = ["export", ".", "-o", "x.safetensors"];
    let report = json(root.path(), &args, 0);
    assert_eq!(
        report["arrays"][1],
        json!({ "name": "pooled", "kind": "F32", "shape": [2, 2, 2] })
    );
    let (header, data) = read(&root.path().join("x.safetensors"));
    let bytes = |name| tensor_bytes(&header, &data, name);
    assert_eq!(bytes("pooled"), pooled.repeat(2));
    assert_eq!(header["e4m3"]["dtype"], json!("F8_E4M3"));
    assert_eq!(bytes("e4m3"), [0x7e, 0x81, 0x7e, 0x81]);
    assert_eq!(header["e5m2"]["dtype"], json!("F8_E5M2"));
    assert_eq!(bytes("e5m2"), [0xfc, 0xfc]);
    assert_eq!(bytes("id"), [7, 8, 9, 7, 8, 9]);

    let report = json(root.path(), &["export", ".", "-o", "x.npy"], 0);
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("pooled: the cache has integers and a scale"),
        "{notes}"
    );
    let kinds: Vec<_> = (0..4)
        .map(|at| report["arrays"][at]["kind"].clone())
        .collect();
    assert_eq!(kinds, ["|u1", "<f4", "<f4", "<f4"]);
    let file = fs::read(root.path().join("x.npy")).unwrap();
    let floats = [448f32, -(2f32.powi(-9)), f32::NEG_INFINITY];
    let floats: Vec<u8> = floats.iter().flat_map(|it| it.to_le_bytes()).collect();
    let record = |n| [&key(n)[..], &[7, 8, 9], &pooled, &floats].concat();
    assert!(file.ends_with(&[record(0), record(1)].concat()));
}

#[test]
fn an_unsupported_kind_names_the_other_format() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("x");
    let schema = single(ElementKind::ComplexDouble, &[2]).encode();
    segment(&dir, "a.tcs", &schema, 32, 0..3, DAY);
    let refused = stderr(root.path(), &["export", ".", "-o", "x.safetensors"], 2);
    assert!(
        refused.contains("complex128") && refused.contains(".npy"),
        "{refused}"
    );
    json(root.path(), &["export", ".", "-o", "x.npy"], 0);
}

#[test]
fn exporting_an_empty_cache_fails() {
    let root = tempfile::tempdir().unwrap();
    manifest(&root.path().join("x"), "m", Vec::new(), DAY);
    let nothing = stderr(root.path(), &["export", ".", "-o", "x.npy"], 1);
    assert!(nothing.contains("holds no rows"), "{nothing}");
    assert!(!root.path().join("x.npy").exists());
}

#[test]
fn schema_numbers_do_not_depend_on_segment_names() {
    let numbers = |names: [&str; 3]| {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(hash(1));
        for (n, name) in names.iter().enumerate() {
            let schema = single(ElementKind::Uint8, &[n as i64 + 1]).encode();
            let first = 10 * n as u64;
            segment(&dir, name, &schema, n + 1, first..first + 2, DAY);
        }
        let shown = json(root.path(), &["show", "."], 0);
        let schemas = shown["schemas"].as_array().unwrap().clone();
        let lengths: Vec<_> = schemas.iter().map(|it| it["row_bytes"].clone()).collect();
        let args = ["export", ".", "-o", "x.npy", "--schema", "2"];
        let exported = json(root.path(), &args, 0);
        (lengths, exported["arrays"].clone())
    };
    assert_eq!(
        numbers(["a.tcs", "b.tcs", "c.tcs"]),
        numbers(["c.tcs", "b.tcs", "a.tcs"])
    );
    assert_eq!(
        numbers(["a.tcs", "b.tcs", "c.tcs"]),
        numbers(["b.tcs", "c.tcs", "a.tcs"])
    );
}

#[test]
fn an_export_removes_files_of_killed_exports() {
    let root = floats(&[(0, 3)]);
    let file = |name: &str, seconds| {
        let path = root.path().join(format!(".torchcache-export-{name}"));
        fs::write(&path, "half").unwrap();
        crate::support::set_read(&path, seconds);
        path
    };
    let (stale, young, running) = (file("stale", 90), file("young", 5), file("running", 90));
    let lock = fs::File::open(&running).unwrap();
    lock.try_lock().unwrap();
    json(root.path(), &["export", ".", "-o", "x.npy"], 0);
    assert!(!stale.exists() && young.exists() && running.exists());
}

/// Neither a rename that replaces nothing nor a second link of a file, from now on in this thread and in processes
/// that it starts.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn without_exclusive_names() {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };
    let flags = SeccompCondition::new(4, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0);
    let with_flags = SeccompRule::new(vec![flags.unwrap()]).unwrap();
    let links = [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_link, Vec::new()),
        (libc::SYS_linkat, Vec::new()),
    ];
    for (calls, errno) in [
        (vec![(libc::SYS_renameat2, vec![with_flags])], libc::EINVAL),
        (links.into(), libc::EPERM),
    ] {
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let (allow, fail) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
        let filter = SeccompFilter::new(calls.into_iter().collect(), allow, fail, arch);
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
    }
}

#[test]
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn a_file_system_without_exclusive_names_gets_exports() {
    let root = floats(&[(0, 3)]);
    std::thread::scope(|scope| {
        let exported = scope.spawn(|| {
            without_exclusive_names();
            let moved = fs::hard_link(root.path(), root.path().join("link"));
            assert_eq!(moved.unwrap_err().raw_os_error(), Some(libc::EPERM));
            for file in ["x.npy", "x.safetensors"] {
                let exported = json(root.path(), &["export", ".", "-o", file], 0);
                assert_eq!(exported["rows"], 3);
                let bytes = fs::metadata(root.path().join(file)).unwrap().len();
                assert_eq!(exported["bytes"], bytes);
                let again = stderr(root.path(), &["export", ".", "-o", file], 2);
                assert!(again.contains("exists already"), "{again}");
            }
        });
        exported.join().unwrap();
    });
    assert_eq!(temporary_files(root.path()), 0);
}

fn temporary_files(dir: &Path) -> usize {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let is_temporary =
        |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".torchcache-export-");
    names.filter(is_temporary).count()
}

#[test]
fn a_file_size_limit_is_an_error() {
    let root = root();
    let broken = root.path().join(hash(1)).join("18bd1c2f9a3e4d50-a.tcs");
    corrupt_rows(&broken, 1024, [3]);
    // Errors of a pipe are read, those of a file are not written.
    for (script, args, error) in [
        (
            "exec \"$@\"",
            &["export", ".", &hash(1), "-o", "x.npy"][..],
            "File too large",
        ),
        (
            "exec \"$@\"",
            &["export", ".", &hash(1), "-o", "x.safetensors"],
            "File too large",
        ),
        (
            "exec \"$@\"",
            &["check", ".", "--repair"],
            "1 could not be checked or repaired",
        ),
        (
            "exec \"$@\" > printed",
            &["show", ".", &hash(1)],
            "cannot print",
        ),
        (
            "exec \"$@\" > printed",
            &["ls", ".", "--json"],
            "cannot print",
        ),
        (
            "exec \"$@\" > printed",
            &["completions", "bash"],
            "cannot print",
        ),
    ] {
        let mut limited = Command::new("env");
        limited.args([
            "--default-signal=XFSZ",
            "sh",
            "-c",
            &format!("ulimit -f 1; {script}"),
            "sh",
        ]);
        let limited = limited.arg(env!("CARGO_BIN_EXE_torchcache")).args(args);
        let output = limited.current_dir(root.path()).output().unwrap();
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {:?} {printed}",
            output.status
        );
        assert!(printed.contains(error), "{args:?}: {printed}");
        assert!(!root.path().join("x.npy").exists() && !root.path().join("x.safetensors").exists());
        assert_eq!(temporary_files(root.path()), 0);
    }
}
