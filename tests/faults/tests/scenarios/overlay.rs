//! A cache that is part of a container image: its files are in the lower layer of an overlay, and a change of
//! one copies all of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use torchcache_faults::cases::{case, seen};
use torchcache_faults::process::Running;
use torchcache_faults::roles::image::{DIR, LEN, ROWS};
use torchcache_faults::rows::{manual_flush, put_flushed};
use torchcache_store::Store;

use crate::child;

#[test]
fn reading_a_cache_of_an_image_copies_no_segment() {
    let mut caused = 0;
    for mmap in [false, true] {
        caused += case(format_args!("mmap {mmap}"), || u64::from(read(mmap)));
    }
    if caused > 0 {
        seen("a segment of a container image is read", caused);
    }
}

/// Returns whether an overlay can be mounted here.
fn read(mmap: bool) -> bool {
    let root = tempfile::tempdir().unwrap();
    for layer in ["lower", "upper", "work", "merged"] {
        fs::create_dir(root.path().join(layer)).unwrap();
    }
    let lower = root.path().join("lower").join(DIR);
    put_flushed(&Store::open(&lower, manual_flush()).unwrap(), ROWS, LEN);
    let segments = tcs_files(&lower);
    assert_eq!(segments.len(), 1);
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = fs::File::options()
        .write(true)
        .open(lower.join(&segments[0]))
        .unwrap();
    file.set_modified(hour_ago).unwrap();

    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    let mount = "mount -t overlay overlay -o userxattr,lowerdir=\"$3/lower\",upperdir=\"$3/upper\",\
                 workdir=\"$3/work\" \"$3/merged\" && exec \"$@\"";
    let child = child("image", root.path(), &[mmap.to_string()]);
    command.args([mount, "sh"]).arg(child.get_program());
    command.args(child.get_args()).stdout(Stdio::piped());
    let mut running = Running::start(command);
    if running.line().as_deref() != Some("STARTED") {
        println!("left out: no overlay can be mounted here");
        return false;
    }
    running.succeeds();
    let copied: Vec<_> = tcs_files(&root.path().join("upper").join(DIR));
    assert_eq!(copied.len(), 1, "only what was written: {copied:?}");
    assert_ne!(copied, segments);
    true
}

fn tcs_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".tcs")).collect()
}
