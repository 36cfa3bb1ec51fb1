//! An object store in a directory that processes share. Files in place of objects switch faults on.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use torchcache_store::remote::{
    ListedObject, ObjectError, ObjectErrorKind, ObjectPage, ObjectStore, RangeRead,
};

/// Requests get no answer while there is this file.
const HANGS: &str = "hangs";

/// Requests fail at once while there is this file.
const REFUSES: &str = "refuses";

/// Requests are denied while there is this file.
const DENIES: &str = "denies";

/// The end of the names of files that are no objects yet.
const TEMP: &str = ".unfinished";

/// A bucket in a directory.
#[derive(Debug)]
pub struct DirObjects {
    dir: PathBuf,
    temp_files: AtomicU64,
}

impl DirObjects {
    /// The bucket of this directory, which is made.
    pub fn new(dir: &Path) -> Arc<DirObjects> {
        fs::create_dir_all(dir.join("objects")).expect("it can be made");
        Arc::new(DirObjects {
            dir: dir.to_owned(),
            temp_files: AtomicU64::new(0),
        })
    }

    /// Has requests get no answer from now on.
    pub fn hang(&self) {
        fs::write(self.dir.join(HANGS), "").expect("it can be written");
    }

    /// Has requests fail at once from now on.
    pub fn refuse(&self) {
        fs::write(self.dir.join(REFUSES), "").expect("it can be written");
    }

    /// Has requests denied from now on.
    pub fn deny(&self) {
        fs::write(self.dir.join(DENIES), "").expect("it can be written");
    }

    /// The files of the objects whose keys contain a text.
    pub fn objects(&self, text: &str) -> Vec<PathBuf> {
        let keys = self.keys().expect("it can be listed");
        let keys = keys.into_iter().filter(|key| key.contains(text));
        keys.map(|key| self.path(&key)).collect()
    }

    /// Slashes are none of a file name.
    fn path(&self, key: &str) -> PathBuf {
        self.dir.join("objects").join(key.replace('/', "%"))
    }

    fn keys(&self) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(self.dir.join("objects"))? {
            let name = entry?.file_name().to_string_lossy().replace('%', "/");
            if !name.ends_with(TEMP) {
                keys.push(name);
            }
        }
        keys.sort();
        Ok(keys)
    }

    fn request<T>(
        &self,
        deadline: Instant,
        request: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, ObjectError> {
        while self.dir.join(HANGS).exists() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ObjectErrorKind::TimedOut.into());
            }
            thread::sleep(left.min(Duration::from_millis(10)));
        }
        if self.dir.join(REFUSES).exists() {
            return Err(ObjectError::new(ObjectErrorKind::Other, "refused"));
        }
        if self.dir.join(DENIES).exists() {
            return Err(ObjectErrorKind::Denied.into());
        }
        request().map_err(|error| {
            let kind = match error.kind() {
                ErrorKind::NotFound => ObjectErrorKind::NotFound,
                ErrorKind::AlreadyExists => ObjectErrorKind::AlreadyExists,
                _ => ObjectErrorKind::Other,
            };
            ObjectError::new(kind, error)
        })
    }

    /// Writes a file that is no object yet.
    fn write(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let number = self.temp_files.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}{TEMP}", std::process::id());
        let path = self.dir.join("objects").join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }
}

impl ObjectStore for DirObjects {
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<ObjectPage, ObjectError> {
        self.request(deadline, || {
            let mut objects = Vec::new();
            for key in self.keys()? {
                if !key.starts_with(prefix) || after.is_some_and(|after| *key <= *after) {
                    continue;
                }
                let file = fs::metadata(self.path(&key))?;
                objects.push(ListedObject {
                    key,
                    size: file.len(),
                    modified: file.modified()?,
                });
            }
            Ok(ObjectPage {
                objects,
                is_last: true,
            })
        })
    }

    fn read(
        &self,
        reads: &[RangeRead],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<Vec<u8>, ObjectError>),
    ) {
        for (n, RangeRead { key, range }) in reads.iter().enumerate() {
            let read = || {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                File::open(self.path(key))?.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes)
            };
            done(n, self.request(deadline, read));
        }
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, ObjectError> {
        self.request(deadline, || fs::read(self.path(key)))
    }

    fn put_new(
        &self,
        key: &str,
        bytes: &Arc<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), ObjectError> {
        self.request(deadline, || {
            let temp = self.write(bytes)?;
            let linked = fs::hard_link(&temp, self.path(key));
            fs::remove_file(temp)?;
            linked
        })
    }

    fn set(&self, key: &str, bytes: &[u8], deadline: Instant) -> Result<(), ObjectError> {
        self.request(deadline, || fs::rename(self.write(bytes)?, self.path(key)))
    }

    fn remove(
        &self,
        keys: &[String],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<(), ObjectError>),
    ) {
        for (n, key) in keys.iter().enumerate() {
            let remove = || match fs::remove_file(self.path(key)) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
            done(n, self.request(deadline, remove));
        }
    }
}
