//! numpy and the safetensors package read exported files. `cargo xtask test` installs them below
//! `target/readback/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use torchcache_store::schema::{ElementKind, Schema};

use crate::support::{DAY, hash, json, key, manifest, segment, single, tensor, text, value};

/// Runs a script with the packages.
fn python(dir: &Path, script: &str) {
    let (program, packages) = interpreter();
    let output = Command::new(&program)
        .args(["-c", script])
        .current_dir(dir)
        .env("PYTHONPATH", &packages)
        .env_remove("PYTHONHOME")
        // cargo sets it for libtorch.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap_or_else(|error| panic!("{} does not run: {error}; {SET_UP}", program.display()));
    let printed = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{printed}\n{SET_UP}");
    println!("{printed}");
}

const SET_UP: &str = "run `cargo xtask test`, which puts numpy and safetensors below \
                      target/readback/, or name a Python that has them with \
                      TORCHCACHE_READBACK_PYTHON";

/// The interpreter, and the folder with the packages unless they are its own.
fn interpreter() -> (PathBuf, PathBuf) {
    if let Some(named) = std::env::var_os("TORCHCACHE_READBACK_PYTHON") {
        let packages = std::env::var_os("TORCHCACHE_READBACK").unwrap_or_default();
        return (named.into(), packages.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let packages = root.unwrap().join("target/readback/packages");
    let python = fs::read_to_string(packages.join("python"));
    let python = python.unwrap_or_else(|error| {
        panic!("{}: {error}; {SET_UP}", packages.display());
    });
    (python.trim().into(), packages)
}

/// A schema with every kind, a scalar, and a name that is not ASCII.
fn every_kind() -> Schema {
    let names = ElementKind::ALL.map(|kind| format!("{kind}:T"));
    let part = |kind: ElementKind| match kind.is_of_tensors() {
        true => tensor(kind, kind, &[3]),
        false => tensor(kind, ElementKind::Float, &[3]),
    };
    let mut parts: Vec<_> = ElementKind::ALL.map(part).to_vec();
    parts.push(tensor(ElementKind::Float, ElementKind::Float, &[]));
    parts.push(tensor(ElementKind::Int, ElementKind::Int, &[2, 2]));
    Schema {
        structure: format!("{{{},größe:T,key:T}}", names.join(",")),
        tensors: parts,
        lengths: Vec::new(),
    }
}

/// Writes the expected rows into the file `expected`: for each, the key and the value.
fn write_expected(dir: &Path, rows: u64, row_bytes: usize) {
    let records = (0..rows).flat_map(|n| [key(n).to_vec(), value(&key(n), row_bytes)].concat());
    fs::write(dir.join("expected"), records.collect::<Vec<_>>()).unwrap();
}

#[test]
fn numpy_reads_every_kind() {
    let root = tempfile::tempdir().unwrap();
    let schema = every_kind();
    let bytes = schema.row_bytes().unwrap();
    let dir = root.path().join(hash(1));
    segment(&dir, "a.tcs", &schema.encode(), bytes, 0..300, DAY);
    segment(&dir, "b.tcs", &schema.encode(), bytes, 200..500, DAY);
    json(root.path(), &["export", ".", "-o", "x.npy"], 0);
    write_expected(root.path(), 500, bytes);
    let wide = Schema {
        structure: "{hidden_states_of_layers:[T]}".into(),
        tensors: vec![tensor(ElementKind::Uint8, ElementKind::Uint8, &[2]); 256],
        lengths: vec![256],
    };
    let dir = root.path().join("wide");
    segment(&dir, "a.tcs", &wide.encode(), 512, 0..3, DAY);
    let report = json(root.path(), &["export", ".", "wide", "-o", "wide.npy"], 0);
    let note = report["notes"][0].as_str().unwrap();
    let size = note.split_once("max_header_size=").unwrap().1;
    fs::write(root.path().join("size"), size.trim_end_matches(')')).unwrap();
    python(
        root.path(),
        "
import numpy as np
try:
    np.load('wide.npy')
except ValueError:
    pass
else:
    raise AssertionError('it needs no note')
size = int(open('size').read())
for mode in [None, 'r']:
    wide = np.load('wide.npy', mmap_mode=mode, max_header_size=size)
    assert len(wide) == 3 and len(wide.dtype) == 257
rows = np.load('x.npy', mmap_mode='r')
assert rows.shape == (500,), rows.shape
names = rows.dtype.names
expected = np.frombuffer(open('expected', 'rb').read(), np.uint8).reshape(500, -1)
floats = {'float8_e5m2': (2, 15), 'float8_e4m3fn': (3, 7), 'float8_e5m2fnuz': (2, 16),
          'float8_e4m3fnuz': (3, 8)}
def widened(bits, name):
    digits, bias = floats[name]
    magnitude = (bits & 127).astype(np.int64)
    exponent, digit = magnitude >> digits, (magnitude & (2 ** digits - 1)) / 2 ** digits
    values = np.where(exponent > 0, (1 + digit) * 2.0 ** (exponent - bias), digit * 2.0 ** (1 - bias))
    if name == 'float8_e5m2':
        values = np.where(magnitude == 124, np.inf, np.where(magnitude > 124, np.nan, values))
    elif name == 'float8_e4m3fn':
        values = np.where(magnitude == 127, np.nan, values)
    else:
        values = np.where(bits == 128, np.nan, values)
    return np.where(bits > 127, -values, values).astype(np.float32)
at = 0
for name in names:
    size = {'qint8': 7, **dict.fromkeys(floats, 3)}.get(name, rows.dtype[name].itemsize)
    stored, at = np.ascontiguousarray(expected[:, at:at + size]), at + size
    if name in floats:
        assert np.array_equal(rows[name], widened(stored, name), equal_nan=True), name
    elif name == 'qint8':
        with np.errstate(all='ignore'):
            products = np.ascontiguousarray(stored[:, :4]).view('<f4') * stored[:, 4:].view(np.int8)
        assert np.array_equal(rows[name], products, equal_nan=True), name
    else:
        assert np.ascontiguousarray(rows[name]).tobytes() == stored.tobytes(), name
assert at == expected.shape[1]
assert names[0] == 'key_', 'a part is called key, so that the keys are not'
assert 'größe' in names and rows['größe'].shape == (500,)
assert rows['key_'].shape == (500, 32) and rows['key'].shape == (500, 2, 2)
for name, kind in [('float32', 'f4'), ('float16', 'f2'), ('int64', 'i8'), ('bool', '?'),
                   ('complex64', 'c8'), ('complex128', 'c16'), ('bfloat16', 'u2'),
                   ('float8_e5m2', 'f4'), ('qint8', 'f4')]:
    assert rows[name].dtype == np.dtype(kind) and rows[name].shape == (500, 3), name
assert rows['complex32'].shape == (500, 3, 2)
assert rows['complex32'].dtype == np.float16
print('numpy', np.__version__, 'read', len(rows), 'rows of', rows.dtype.itemsize, 'bytes')
",
    );
}

/// The script is that of the documentation.
#[test]
fn python_reads_the_rows_of_samples() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(hash(1));
    let schema = single(ElementKind::Float, &[25]).encode();
    segment(&dir, "a.tcs", &schema, 100, 0..100, DAY);
    let samples = [(7, "cat.png"), (99, "dog.png"), (7, "a copy of cat.png")];
    let line = |(n, name)| format!("{},{name}\n", hex::encode(key(n)));
    fs::write(root.path().join("keys.csv"), samples.map(line).concat()).unwrap();
    let args = [
        "export",
        ".",
        "-o",
        "rows.safetensors",
        "--keys",
        "keys.csv",
    ];
    json(root.path(), &args, 0);
    let values = samples.map(|(n, _)| value(&key(n), 100));
    fs::write(root.path().join("expected"), values.concat()).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md");
    let page = fs::read_to_string(page).unwrap();
    let script = page
        .split("```python\n")
        .skip(1)
        .find(|text| text.contains("keys.csv"));
    let script = script.and_then(|text| text.split("```").next());
    let script = script.expect("docs/guide.md has the script");
    python(
        root.path(),
        &format!(
            "{script}
expected = np.frombuffer(open('expected', 'rb').read(), np.float32).reshape(3, 25)
names = ['cat.png', 'dog.png', 'a copy of cat.png']
assert list(features) == names, features
for name, row in zip(names, expected):
    assert features[name].tobytes() == row.tobytes(), name
"
        ),
    );
}

/// The 8-bit kinds that only newer releases of safetensors have.
const NEWER: [ElementKind; 2] = [ElementKind::Float8e5m2fnuz, ElementKind::Float8e4m3fnuz];

#[test]
fn safetensors_reads_every_kind_it_has_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let mut schema = every_kind();
    // `export.rs` compares quantized rows, whose numbers are no bytes of the cache.
    let unknown = [
        ElementKind::ComplexHalf,
        ElementKind::ComplexDouble,
        ElementKind::QInt8,
    ];
    for kind in unknown.iter().chain(&NEWER) {
        schema.tensors.retain(|part| part.stored != *kind);
        schema.structure = schema.structure.replace(&format!("{kind}:T,"), "");
    }
    let bytes = schema.row_bytes().unwrap();
    let dir = root.path().join(hash(1));
    segment(&dir, "a.tcs", &schema.encode(), bytes, 0..500, DAY);
    manifest(&dir, "m::Größe", Vec::new(), DAY);
    json(root.path(), &["export", ".", "-o", "x.safetensors"], 0);
    write_expected(root.path(), 500, bytes);
    let newer = Schema {
        structure: "(TT)".into(),
        tensors: NEWER.map(|kind| tensor(kind, kind, &[4])).to_vec(),
        lengths: Vec::new(),
    };
    let dir = root.path().join("newer");
    segment(&dir, "a.tcs", &newer.encode(), 8, 0..3, DAY);
    let args = ["export", ".", "newer", "-o", "newer.safetensors"];
    let report = json(root.path(), &args, 0);
    let notes = report["notes"].as_array().unwrap();
    let has_hint = |note: &Value| note.to_string().contains("safetensors.torch");
    assert!(notes.len() == 2 && notes.iter().all(has_hint), "{report}");
    python(
        root.path(),
        "
import numpy as np, safetensors
from safetensors.numpy import load_file
from safetensors import deserialize, safe_open
tensors = dict(deserialize(open('x.safetensors', 'rb').read()))
expected = np.frombuffer(open('expected', 'rb').read(), np.uint8).reshape(500, -1)
assert tensors['keys']['shape'] == [500, 32]
def raw(name):
    return np.frombuffer(bytes(tensors[name]['data']), np.uint8).reshape(500, -1)
assert (raw('keys') == expected[:, :32]).all()
order = ['uint8', 'int8', 'int16', 'int32', 'int64', 'float16', 'float32', 'float64', 'complex64',
         'bool', 'bfloat16', 'float8_e5m2', 'float8_e4m3fn', 'größe', 'key']
assert (np.concatenate([raw(name) for name in order], 1) == expected[:, 32:]).all()
with safe_open('x.safetensors', 'np') as file:
    about = file.metadata()
    assert about['module'] == 'm::Größe', about
    assert file.get_tensor('float32').dtype == np.float32
    assert file.get_tensor('float32').tobytes() == raw('float32').tobytes()
    assert file.get_tensor('größe').shape == (500,)
    assert file.get_tensor('complex64').dtype == np.complex64
try:
    load_file('x.safetensors')
except Exception:
    pass
else:
    raise AssertionError('it needs no note')
if tuple(map(int, safetensors.__version__.split('.')[:2])) >= (0, 8):
    newer = dict(deserialize(open('newer.safetensors', 'rb').read()))
    assert newer['0']['dtype'] == 'F8_E5M2FNUZ' and newer['1']['shape'] == [3, 4], newer
print('safetensors', safetensors.__version__, 'read', len(tensors), 'tensors;', about)
",
    );
}
