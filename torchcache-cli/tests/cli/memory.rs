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
    fs::create_dir_all(dir).expect("it can be made");
    let schema: std::sync::Arc<[u8]> = single(ElementKind::Float, &[2]).encode().into();
    for begin in (0..rows).step_by(1 << 18) {
        let mut writer = SegmentWriter::create(dir).expect("it can be made");
        for n in begin..rows.min(begin + (1 << 18)) {
            let key = *blake3::hash(&n.to_le_bytes()).as_bytes();
            let pushed = writer.push(&key, &schema, 8, Encoding::Raw, &n.to_le_bytes());
            pushed.expect("it is written");
        }
        let published = writer.finish().and_then(|finished| finished.publish());
        published.expect("it is written");
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
    let (mut full, writer) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("it can be set");
    let mut filler = writer.try_clone().expect("it can be copied");
    while std::io::Write::write(&mut filler, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("it can be set");
    drop(filler);
    let mut child = command.stdout(writer).spawn().expect("the program starts");
    drop(command);
    let status = format!("/proc/{}/status", child.id());
    let peak = loop {
        std::thread::sleep(std::time::Duration::from_millis(20));
        if root.join(file).exists() {
            let status = fs::read_to_string(&status).expect("it still waits");
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let words = line.expect("it has a peak").trim_end_matches("kB");
            break words.trim().parse().expect("a number");
        }
        assert!(child.try_wait().expect("it is ours").is_none(), "it failed");
    };
    let mut all = Vec::new();
    full.read_to_end(&mut all).expect("it says something");
    assert!(child.wait().expect("it ends").success());
    peak
}

#[test]
fn a_million_rows_export_in_the_memory_of_ten_thousand() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (few, many) = (root.path().join("few"), root.path().join("many"));
    write_rows(&few.join("cache"), 10_000);
    write_rows(&many.join("cache"), 1_000_000);
    for file in ["x.npy", "x.safetensors"] {
        let (of_few, of_many) = (peak(&few, file), peak(&many, file));
        println!("{file}: {of_few} KB for 10,000 rows, {of_many} KB for 1,000,000");
        assert!(of_many < of_few + 4_000, "{of_few} KB, then {of_many} KB");
        let bytes = |root: &Path| fs::metadata(root.join(file)).expect("it is there").len();
        assert!(bytes(&many) > 40_000_000 && bytes(&few) < 500_000);
    }
}
