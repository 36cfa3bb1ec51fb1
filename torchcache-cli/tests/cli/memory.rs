//! The memory of an export does not depend on the number of rows.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use torchcache_store::schema::ElementKind;
use torchcache_store::segment::{Encoding, SegmentWriter};

use crate::support::{command, single};

/// Writes rows of 8 bytes, in segments as large as a store makes them.
fn write_rows(dir: &Path, rows: u64) {
    fs::create_dir_all(dir).unwrap();
    let schema: std::sync::Arc<[u8]> = single(ElementKind::Float, &[2]).encode().into();
    for begin in (0..rows).step_by(1 << 18) {
        let mut writer = SegmentWriter::create(dir).unwrap();
        for n in begin..rows.min(begin + (1 << 18)) {
            let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
            writer
                .push(&key, &schema, 8, Encoding::Raw, &n.to_le_bytes())
                .unwrap();
        }
        writer
            .finish()
            .and_then(|finished| finished.publish())
            .unwrap();
    }
}

/// The peak memory of an export in KB. Standard output is a full pipe, so that the process still exists
/// when the export is complete.
fn peak(root: &Path, file: &str) -> u64 {
    let mut command = command(&["export", ".", "-o", file, "--json"]);
    command
        .current_dir(root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let (mut full, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let mut filler = writer.try_clone().unwrap();
    while std::io::Write::write(&mut filler, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    drop(filler);
    let mut child = command.stdout(writer).spawn().unwrap();
    drop(command);
    let status = format!("/proc/{}/status", child.id());
    let peak = loop {
        std::thread::sleep(std::time::Duration::from_millis(20));
        if root.join(file).exists() {
            let status = fs::read_to_string(&status).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let words = line.unwrap().trim_end_matches("kB");
            break words.trim().parse().unwrap();
        }
        assert!(child.try_wait().unwrap().is_none(), "it failed");
    };
    let mut all = Vec::new();
    full.read_to_end(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn a_million_rows_export_in_the_memory_of_ten_thousand() {
    let root = tempfile::tempdir().unwrap();
    let (few, many) = (root.path().join("few"), root.path().join("many"));
    write_rows(&few.join("cache"), 10_000);
    write_rows(&many.join("cache"), 1_000_000);
    for file in ["x.npy", "x.safetensors"] {
        let (of_few, of_many) = (peak(&few, file), peak(&many, file));
        println!("{file}: {of_few} KB for 10,000 rows, {of_many} KB for 1,000,000");
        assert!(of_many < of_few + 4_000, "{of_few} KB, then {of_many} KB");
        let bytes = |root: &Path| fs::metadata(root.join(file)).unwrap().len();
        assert!(bytes(&many) > 40_000_000 && bytes(&few) < 500_000);
    }
}
