//! Faults of the cache directory are misses, counted and logged. Only a directory that cannot be used
//! at all is an error.

use std::fs;
use std::path::{Path, PathBuf};

use tch::Kind;
use torchcache::{ErrorKind, FlushError};

use crate::persistent_module::{Kept, kept, segments};
use crate::support::{logged, random, same, warnings};

#[test]
fn a_corrupt_segment_is_a_counted_miss() {
    let xs = random(&[20, 16]);
    for (name, damage) in [
        (
            "flipped",
            (|bytes: &mut Vec<u8>| {
                bytes
                    .iter_mut()
                    .skip(64)
                    .step_by(97)
                    .for_each(|byte| *byte ^= 0x10)
            }) as fn(&mut Vec<u8>),
        ),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", Vec::clear),
        ("lengthened", |bytes| bytes.extend([7; 100])),
        ("overwritten", |bytes| bytes.fill(0xff)),
    ] {
        let root = tempfile::tempdir().unwrap();
        kept(root.path()).forward(&xs).unwrap();
        let path = segments(root.path()).remove(0);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let model = kept(root.path());
        let (output, lines) = logged(|| model.forward(&xs).unwrap());
        assert!(same(&output, &(&xs * 2.0)), "{name}");
        let stats = model.torchcache.stats();
        assert_eq!(stats.disk.hits + stats.misses, 20, "{name}");
        assert!(stats.misses > 0, "{name}");
        assert!(!stats.faults.is_empty(), "{name}: {stats:?}");
        for (fault, count) in stats.faults.iter() {
            let warned = warnings(&lines, &format!("fault={fault:?}"));
            assert_eq!(warned, 1, "{name}, {count} times {fault}: {lines:?}");
        }
        assert_eq!(
            warnings(&lines, ""),
            stats.faults.iter().count(),
            "{name}: {lines:?}"
        );
        model.torchcache.flush().unwrap();
        let after = kept(root.path());
        assert!(same(&after.forward(&xs).unwrap(), &(&xs * 2.0)), "{name}");
        assert_eq!(after.ran.take(), (0, 0), "{name}: stored again");
    }
}

#[test]
fn a_segment_of_a_future_version_is_reported_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let xs = random(&[5, 4]);
    kept(root.path()).forward(&xs).unwrap();
    let sound = segments(root.path()).remove(0);
    // A copy with a higher version, which follows the magic of eight bytes.
    let mut bytes = fs::read(&sound).unwrap();
    assert_eq!(bytes[8..12], 2u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&3u32.to_le_bytes());
    let future = sound.with_file_name("00000000-future.tcs");
    fs::write(&future, &bytes).unwrap();

    let model = kept(root.path());
    let (output, lines) = logged(|| model.forward(&xs).unwrap());
    assert!(same(&output, &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (0, 0), "the sound segment is read");
    let stats = model.torchcache.stats();
    assert!(stats.faults.iter().eq([("future version", 1)]));
    assert_eq!(stats.disk.rows, 5);
    assert_eq!(warnings(&lines, ""), 1, "{lines:#?}");
    for words in ["format version 3", "reads up to 2", "00000000-future.tcs"] {
        assert_eq!(warnings(&lines, words), 1, "{words}: {lines:#?}");
    }
    drop(model);

    // Without the sound segment its rows are misses, and it stays.
    fs::remove_file(sound).unwrap();
    let model = kept(root.path());
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (1, 5));
    model.torchcache.flush().unwrap();
    let stats = model.torchcache.stats();
    assert!(stats.faults.iter().eq([("future version", 1)]));
    assert_eq!(fs::read(&future).unwrap(), bytes);
}

#[test]
fn a_segment_of_another_identity_is_a_miss_and_no_fault() {
    let root = tempfile::tempdir().unwrap();
    let (directory, xs) = (root.path(), random(&[50, 4]));
    let [half, full] = [Some(Kind::Half), None].map(|dtype| {
        let open = move || Kept {
            torchcache_cache_dtype: dtype,
            ..kept(directory)
        };
        let model = open();
        let ys = model.forward(&xs).unwrap();
        model.torchcache.flush().unwrap();
        let own = directory.join(model.torchcache.module_hash().unwrap());
        (open, ys, segments(&own).remove(0))
    });
    assert!(!same(&half.1, &full.1));
    // Each has the segment of the other, whose rows have other keys.
    let aside = directory.join("aside");
    fs::rename(&half.2, &aside).unwrap();
    fs::rename(&full.2, &half.2).unwrap();
    fs::rename(&aside, &full.2).unwrap();
    for (model, ys) in [((half.0)(), half.1), ((full.0)(), full.1)] {
        assert!(same(&model.forward(&xs).unwrap(), &ys));
        assert_eq!(model.ran.take(), (1, 50));
        let faults = model.torchcache.stats().faults;
        assert!(faults.is_empty(), "{faults:?}");
    }
}

#[test]
fn foreign_files_in_the_directory_are_kept() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("notes.txt"), "mine").unwrap();
    fs::create_dir(root.path().join("photos")).unwrap();
    fs::write(root.path().join("photos/manifest.json"), "[1, 2]").unwrap();
    let xs = random(&[5, 4]);
    let model = kept(root.path());
    model.forward(&xs).unwrap();
    let own = root.path().join(model.torchcache.module_hash().unwrap());
    fs::write(own.join("readme.md"), "mine as well").unwrap();
    model.torchcache.clear();
    drop(model);
    let model = kept(root.path());
    model.forward(&xs).unwrap();
    assert_eq!(model.ran.take(), (1, 5), "cleared");
    for file in ["notes.txt", "photos/manifest.json"] {
        assert!(root.path().join(file).exists());
    }
    assert!(own.join("readme.md").exists());
}

#[test]
fn a_directory_deleted_in_use_is_created_again() {
    let root = tempfile::tempdir().unwrap();
    let model = Kept {
        torchcache_max_memory_cache_size: 0,
        ..kept(root.path())
    };
    let xs = random(&[5, 4]);
    model.forward(&xs).unwrap();
    model.torchcache.flush().unwrap();
    let directory = root.path().join(model.torchcache.module_hash().unwrap());
    assert_eq!(model.ran.take(), (1, 5));
    fs::remove_dir_all(&directory).unwrap();

    let (output, lines) = logged(|| model.forward(&xs).unwrap());
    assert!(same(&output, &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (1, 5), "lost rows are computed");
    assert_eq!(warnings(&lines, "fault=\"vanished\""), 1, "{lines:#?}");
    let stats = model.torchcache.stats();
    assert!(stats.faults.iter().eq([("vanished", 5)]));
    model.torchcache.flush().expect("and stored again");
    assert_eq!(segments(&directory).len(), 1);
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(model.ran.take(), (0, 0), "they are hits again");
    assert_eq!(model.torchcache.stats().disk.hits, 5);
    let (_, lines) = logged(|| drop(model));
    assert_eq!(warnings(&lines, "count=5"), 1, "one summary: {lines:#?}");
    let reopened = kept(root.path());
    assert!(same(&reopened.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(reopened.ran.take(), (0, 0), "on disk as well");
}

#[test]
fn a_directory_that_breaks_in_use_is_a_fault() {
    let root = tempfile::tempdir().unwrap();
    let caches = root.path().join("caches");
    let mut model = kept(&caches);
    let xs = random(&[5, 4]);
    model.forward(&xs).unwrap();
    model.torchcache.flush().unwrap();
    assert_eq!(model.ran.take(), (1, 5));

    fs::rename(&caches, root.path().join("away")).unwrap();
    fs::write(&caches, "").unwrap();
    // A change of this option opens the store again.
    model.torchcache_zstd_compression = true;
    let (output, lines) = logged(|| model.forward(&xs).unwrap());
    assert!(same(&output, &(&xs * 2.0)));
    assert_eq!(
        warnings(&lines, "the disk tier could not be opened"),
        1,
        "{lines:#?}"
    );
    assert_eq!(model.torchcache.stats().faults.open, 1);
    model.torchcache.flush().expect_err("nothing is on disk");

    model.ran.take();
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    assert_eq!(
        model.ran.take(),
        (0, 0),
        "meanwhile rows are kept in memory"
    );

    // A new directory option that cannot be used is an error.
    model.torchcache_persistent_cache_dir = caches.join("below");
    assert!(model.forward(&xs).is_err());
    model.torchcache_persistent_cache_dir = root.path().join("away");
    assert!(same(&model.forward(&xs).unwrap(), &(&xs * 2.0)));
    model.torchcache.flush().unwrap();
}

#[test]
fn a_restored_directory_is_used_again() {
    let root = tempfile::tempdir().unwrap();
    let (caches, away) = (root.path().join("caches"), root.path().join("away"));
    let mut model = kept(&caches);
    let xs = random(&[5, 4]);
    model.forward(&xs).unwrap();
    fs::rename(&caches, &away).unwrap();
    fs::write(&caches, "").unwrap();
    model.torchcache_zstd_compression = true;
    model.forward(&xs).unwrap();
    model.torchcache.flush().unwrap_err();
    fs::remove_file(&caches).unwrap();
    fs::rename(&away, &caches).unwrap();
    // Calls try it again every ten seconds.
    model.forward(&random(&[5, 4])).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(10_100));
    let others = random(&[5, 4]);
    model.forward(&others).unwrap();
    let missing = model.torchcache.flush();
    assert!(matches!(missing, Err(FlushError::Rows(_))), "{missing:?}");
    model.torchcache.flush().expect("the disk is back");
    let reopened = kept(&caches);
    assert!(same(&reopened.forward(&others).unwrap(), &(&others * 2.0)));
    assert_eq!(reopened.ran.take(), (0, 0), "with the rows stored since");
}

#[test]
fn rows_lost_before_the_module_hash_changed_fail_the_flush() {
    let root = tempfile::tempdir().unwrap();
    let mut model = kept(root.path());
    model.forward(&random(&[5, 4])).unwrap();
    model.torchcache.flush().unwrap();
    let directory = model.torchcache.directory().unwrap();
    fs::rename(&directory, root.path().join("away")).unwrap();
    fs::write(&directory, "").unwrap();
    model.forward(&random(&[7, 4])).unwrap();
    assert_eq!(model.ran.take(), (2, 12));

    model.torchcache_cache_dtype = Some(Kind::Half);
    model.forward(&random(&[3, 4])).unwrap();
    let lost = model.torchcache.flush().unwrap_err();
    assert!(matches!(lost, FlushError::Rows(_)), "{lost:?}");
    assert_eq!(lost.to_string(), "not every row was written to disk");
    let source = std::error::Error::source(&lost).unwrap();
    assert!(source.to_string().starts_with("7 rows"), "{source}");
    model.torchcache.flush().expect("reported once");
    assert_eq!(model.torchcache.stats().disk.rows, 3);
}

/// Two caches of one module hash and directory with rows on disk only, and what makes the disk lose rows until it
/// is dropped.
fn two_on_a_bad_disk(root: &Path) -> ([Kept; 2], BadDisk) {
    let models = [(); 2].map(|()| Kept {
        torchcache_max_memory_cache_size: 0,
        ..kept(root)
    });
    for model in &models {
        model.forward(&random(&[5, 4])).unwrap();
        model.torchcache.flush().unwrap();
    }
    let (directory, away) = (models[0].torchcache.directory().unwrap(), root.join("away"));
    assert_eq!(models[1].torchcache.directory().as_ref(), Some(&directory));
    fs::rename(&directory, &away).unwrap();
    fs::write(&directory, "").unwrap();
    (models, BadDisk { directory, away })
}

struct BadDisk {
    directory: PathBuf,
    away: PathBuf,
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        fs::remove_file(&self.directory).unwrap();
        fs::rename(&self.away, &self.directory).unwrap();
    }
}

/// The rows that a flush reports as lost.
fn lost(model: &Kept) -> Option<String> {
    let lost = model.torchcache.flush().err()?;
    Some(std::error::Error::source(&lost).unwrap().to_string())
}

#[test]
fn each_cache_reports_its_own_lost_rows() {
    let root = tempfile::tempdir().unwrap();
    let (models, disk) = two_on_a_bad_disk(root.path());
    for (model, rows) in models.iter().zip([7, 2]) {
        model.forward(&random(&[rows, 4])).unwrap();
    }
    for (model, rows) in models.iter().zip(["7 rows", "2 rows"]).rev() {
        let lost = lost(model).expect("they are lost");
        assert!(lost.starts_with(rows), "{lost}");
    }
    drop(disk);
    assert_eq!(models.each_ref().map(lost), [None, None], "reported once");
}

#[test]
fn rows_lost_before_an_option_changed_fail_the_flush() {
    let root = tempfile::tempdir().unwrap();
    let ([mut model, other], disk) = two_on_a_bad_disk(root.path());
    model.forward(&random(&[7, 4])).unwrap();
    assert_eq!(lost(&other), None, "none of its own");
    drop(disk);
    model.torchcache_zstd_compression = true;
    model.forward(&random(&[3, 4])).unwrap();
    let lost_rows = lost(&model).expect("they are lost");
    assert!(lost_rows.starts_with("7 rows"), "{lost_rows}");
    assert_eq!(lost(&model), None, "reported once");
}

#[test]
fn a_flush_covers_rows_of_an_earlier_module_hash() {
    let root = tempfile::tempdir().unwrap();
    let (mut model, other) = (kept(root.path()), kept(root.path()));
    let xs = random(&[5, 4]);
    model.forward(&xs).unwrap();
    // It keeps the rows' cache open, so that they are not written because it is closed.
    other.forward(&random(&[1, 4])).unwrap();
    let before = model.torchcache.directory().unwrap();
    assert_eq!(other.torchcache.directory(), Some(before.clone()));
    model.torchcache_cache_dtype = Some(Kind::Half);
    model.forward(&xs).unwrap();
    model.torchcache.flush().unwrap();
    assert_ne!(model.torchcache.directory(), Some(before.clone()));
    assert_eq!(segments(&before).len(), 1);
}

#[test]
fn an_unusable_directory_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a file");
    fs::write(&file, "").unwrap();
    for path in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/a file"),
    ] {
        let error = kept(&path).forward(&random(&[1, 2])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Directory, "{error}");
        assert!(error.to_string().contains("a file"), "{error}");
    }
    // It exists, but cannot be written to.
    let error = kept(Path::new("/proc"))
        .forward(&random(&[1, 2]))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Directory, "{error}");
    assert!(
        error
            .to_string()
            .contains("cannot use the cache directory /proc"),
        "{error}"
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("os error"), "{source}");
    let mut model = kept(&file);
    assert!(model.forward(&random(&[1, 2])).is_err());
    let flushed = model.torchcache.flush().unwrap_err();
    assert!(matches!(flushed, FlushError::Directory(_)), "{flushed:?}");
    assert_eq!(flushed.to_string(), "no row was written to disk");
    let source = std::error::Error::source(&flushed).unwrap().to_string();
    assert!(
        source.contains("cannot use the cache directory"),
        "{source}"
    );
    assert_eq!(model.torchcache.directory(), None);
    model.torchcache_persistent_cache_dir = root.path().join("deeper").join("still");
    model.forward(&random(&[1, 2])).unwrap();
    model.torchcache.flush().unwrap();
    assert!(
        root.path().join("deeper/still").is_dir(),
        "parents are created"
    );
}

#[test]
fn a_directory_that_is_not_asked_for_any_more_fails_no_flush() {
    let root = tempfile::tempdir().unwrap();
    let (file, directory) = (root.path().join("a file"), root.path().join("cache"));
    fs::write(&file, "").unwrap();
    for enabled in [true, false] {
        let (mut model, xs) = (kept(&directory), random(&[2, 2]));
        model.torchcache_enabled = enabled;
        model.forward(&xs).unwrap();
        (
            model.torchcache_enabled,
            model.torchcache_persistent_cache_dir,
        ) = (true, file.clone());
        model.forward(&xs).unwrap_err();
        model.torchcache.flush().unwrap_err();
        (
            model.torchcache_enabled,
            model.torchcache_persistent_cache_dir,
        ) = (enabled, directory.clone());
        model.forward(&xs).unwrap();
        model.torchcache.flush().unwrap();
    }
}
