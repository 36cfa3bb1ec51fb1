//! Others had their hands in the directory: links in place of the directory or of a segment, pipes,
//! names that mean mischief, directories and files that everybody may write to or that belong to
//! somebody else. Every segment that is planted holds wrong rows with right checksums.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::geteuid;
use torchcache_store::segment::{Encoding, SegmentWriter};
use torchcache_store::{Fault, Store, StoreError};

use crate::children::{say, sums, unprivileged};
use crate::rows::{batch, key, patient};
use crate::tally::{Plan, Tally, ensure};

const LEN: usize = 64;

pub(super) fn run(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..plan.rounds {
        tally.round("links", links);
        tally.round("names and kinds", names);
        tally.round("everybody may write", open_to_everybody);
        tally.round("another owner", |tally| {
            if !geteuid().is_root() {
                tally.skip("another owner, which only root can give files to");
                return Ok(());
            }
            let root = tempfile::tempdir().map_err(|error| error.to_string())?;
            let victim = root.path().join("of another");
            done(fs::create_dir(&victim))?;
            poison(&victim, "planted.tcs")?;
            let own = root.path().join("own");
            done(fs::create_dir(&own))?;
            poison(&own, "planted.tcs")?;
            for path in [
                victim.clone(),
                victim.join("planted.tcs"),
                own.join("planted.tcs"),
            ] {
                done(chown(path, Some(STRANGER), Some(STRANGER)))?;
            }
            sums(tally, unprivileged("stranger", root.path(), &[])?)
        });
    }
    tally
}

/// A user that nobody is.
const STRANGER: u32 = 61_234;

fn done(result: std::io::Result<()>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

/// Writes a sound segment of rows 0 to 10 with values that are not theirs.
fn poison(dir: &Path, name: impl AsRef<OsStr>) -> Result<PathBuf, String> {
    poison_rows(dir, name, PLANTED)
}

/// The rows of planted segments.
const PLANTED: Range<u64> = 0..10;

/// The same of other rows.
fn poison_rows(dir: &Path, name: impl AsRef<OsStr>, rows: Range<u64>) -> Result<PathBuf, String> {
    let written = || {
        let away = tempfile::tempdir()?;
        let mut writer = SegmentWriter::create(away.path())?;
        for number in rows {
            let schema = b"bytes of a row that its number gives".as_slice().into();
            writer.push(&key(number), &schema, LEN as u32, Encoding::Raw, &[7; LEN])?;
        }
        let path = dir.join(name.as_ref());
        fs::copy(writer.finish()?.publish()?, &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok::<_, std::io::Error>(path)
    };
    written().map_err(|error| error.to_string())
}

fn cache() -> Result<(tempfile::TempDir, PathBuf), String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = root.path().join("cache");
    done(fs::create_dir(&dir))?;
    Ok((root, dir))
}

fn refused(dir: &Path, why: &str) -> Result<(), String> {
    match Store::open(dir, patient()) {
        Err(error @ StoreError::Directory { .. }) if error.to_string().contains(why) => Ok(()),
        other => Err(format!("opening said {other:?}, not {why:?}")),
    }
}

/// Nothing of what was planted is seen, and the store works.
fn nothing_planted(tally: &mut Tally, dir: &Path) -> Result<Store, String> {
    let store = Store::open(dir, patient()).map_err(|error| error.to_string())?;
    let seen = tally.right_or_missing(&store, PLANTED, LEN);
    ensure(seen == 0, || format!("{seen} planted rows were read"))?;
    store.put(batch(0..20, LEN));
    store.flush().map_err(|error| error.to_string())?;
    tally.all_there(&store, 0..20, LEN);
    Ok(store)
}

fn links(tally: &mut Tally) -> Result<(), String> {
    let (root, dir) = cache()?;
    let victim = root.path().join("victim");
    done(fs::create_dir(&victim))?;
    let planted = poison(&victim, "planted.tcs")?;
    let link = root.path().join("link");
    done(symlink(&victim, &link))?;
    refused(&link, "symbolic link")?;
    refused(&link.join(""), "symbolic link")?; // with a slash behind it
    done(symlink("nowhere", root.path().join("dangling")))?;
    refused(&root.path().join("dangling"), "symbolic link")?;
    done(symlink(&planted, dir.join("0.tcs")))?;
    done(symlink("nowhere", dir.join("1.tcs")))?;
    done(symlink(&victim, dir.join("2.tcs")))?;
    tally.caused += 6;
    let before = fs::read(&planted).map_err(|error| error.to_string())?;
    let store = nothing_planted(tally, &dir)?;
    store.clear();
    let after = fs::read(&planted).map_err(|error| error.to_string())?;
    ensure(before == after, || {
        "the file behind the link was changed".into()
    })
}

fn names(tally: &mut Tally) -> Result<(), String> {
    let (_root, dir) = cache()?;
    // As long as a name may be.
    let long = [b"\n".repeat(251).as_slice(), b".tcs"].concat();
    let names: [&[u8]; 11] = [
        b"a\nb.tcs",
        b"a\x1b[2Jb.tcs",
        b"..tcs",
        b".tcs",
        b"a b.tcs",
        b"\xff\xfe.tcs",
        "\u{202e}sct.tcs".as_bytes(),
        b"a\\b.tcs",
        b"-;rm.tcs",
        b"a.tcs~",
        &long,
    ];
    for name in names {
        poison(&dir, OsStr::from_bytes(name))?;
    }
    done(fs::create_dir(dir.join("directory.tcs")))?;
    let pipe = dir.join("pipe.tcs");
    let made = rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o644), 0);
    made.map_err(|errno| errno.to_string())?;
    tally.caused += names.len() as u64 + 2;
    let store = nothing_planted(tally, &dir)?;
    let faults = store.stats().faults;
    ensure(faults.total() == 0, || {
        format!("files of others are no faults: {faults:?}")
    })?;
    store.clear();
    for name in names {
        let is_there = dir.join(OsStr::from_bytes(name)).exists();
        ensure(is_there, || format!("{} was removed", name.escape_ascii()))?;
    }
    Ok(())
}

fn open_to_everybody(tally: &mut Tally) -> Result<(), String> {
    let (_root, dir) = cache()?;
    let mode =
        |path: &Path, mode| done(fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    let planted = poison(&dir, "planted.tcs")?;
    mode(&planted, 0o666)?;
    let store = nothing_planted(tally, &dir)?;
    let faults = store.stats().faults;
    ensure(faults.get(Fault::Untrusted) == 1, || {
        format!("faults: {faults:?}")
    })?;
    store.clear();
    drop(store);
    ensure(!planted.exists(), || {
        "clearing empties the directory".into()
    })?;
    for open in [0o777, 0o1777, 0o757] {
        mode(&dir, open)?;
        refused(&dir, "chmod o-w")?;
        tally.caused += 1;
    }
    mode(&dir, 0o755)?;
    // It is opened while a store has it.
    let store = nothing_planted(tally, &dir)?;
    mode(&dir, 0o777)?;
    // Rows that the store does not have: what it has, it would not look for.
    poison_rows(&dir, "planted.tcs", 100..110)?;
    tally.caused += 2;
    store.refresh();
    tally.all_there(&store, 0..20, LEN);
    let seen = tally.right_or_missing(&store, 100..110, LEN);
    ensure(seen == 0, || format!("{seen} planted rows were read"))?;
    ensure(store.stats().faults.total() > 0, || {
        "it was not noticed".into()
    })?;
    mode(&dir, 0o755)
}

/// The child: a user that is not root.
pub(super) fn stranger(root: &Path, _: &[String]) {
    let mut tally = Tally::default();
    refused(&root.join("of another"), "belongs to user").expect("it is somebody else's");
    let store = nothing_planted(&mut tally, &root.join("own")).expect("it is this user's");
    assert_eq!(store.stats().faults.get(Fault::Untrusted), 1);
    tally.caused += 2;
    say(tally.line());
}
