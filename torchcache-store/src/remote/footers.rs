//! Footers of remote segments on the local disk, so that opening a cache again costs one listing. Each is a file
//! of the bytes that end the object. It is checked like them: a file that is damaged or missing costs a request.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::name::ObjectName;
use crate::catalog::directory;
use crate::fs::temp_file::{SUFFIX, TempFile, remove_stale};
use crate::fs::{Directory, FileSystem, file_names, read_exact, remove_if_present};
use crate::segment::Footer;

/// The end of the names of files, which takes the place of that of the objects.
const FOOTER_SUFFIX: &str = ".footer";

#[derive(Debug)]
pub(super) struct FooterFiles {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
}

impl FooterFiles {
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> FooterFiles {
        FooterFiles { fs, dir }
    }

    fn open(&self, create: bool) -> io::Result<Arc<dyn Directory>> {
        directory::open(&*self.fs, &self.dir, create)
    }

    /// The footer of an object of `size` bytes, if there is a sound file of it.
    pub(super) fn load(&self, name: &ObjectName, size: u64) -> Option<Footer> {
        let dir = self.open(false).ok()?;
        let file_name = file_name(name);
        let file = dir.open(file_name.as_ref()).ok()?;
        // The name bounds the length, and the length the memory.
        if file.metadata().ok()?.len != name.tail_bytes() {
            return None;
        }
        let mut tail = vec![0; name.tail_bytes() as usize];
        read_exact(&*file, &mut tail, 0).ok()?;
        let footer = Footer::from_tail(&tail, size);
        if footer.is_err() {
            // Another one takes its place.
            let _ = remove_if_present(&*dir, &file_name);
        }
        footer.ok()
    }

    /// Keeps the bytes that end an object. Without room or permission for it, they are read again.
    pub(super) fn keep(&self, name: &ObjectName, tail: &[u8]) {
        let written = || TempFile::written(self.open(true)?, tail, None)?.publish(&file_name(name));
        let _: io::Result<PathBuf> = written();
    }

    /// Removes the files of objects that `is_kept` does not know, and what kills left of writing them.
    pub(super) fn retain(&self, is_kept: impl Fn(&ObjectName) -> bool) {
        let Ok(dir) = self.open(false) else { return };
        let is_gone = |file: &str| object_name(file).is_some_and(|name| !is_kept(&name));
        for file in file_names(&*dir, is_gone).unwrap_or_default() {
            let _ = remove_if_present(&*dir, file);
        }
        let _ = remove_stale(&*dir, |_, _| Ok(()));
    }
}

fn file_name(name: &ObjectName) -> String {
    name.to_string().replace(SUFFIX, FOOTER_SUFFIX)
}

/// The object that a file is of.
fn object_name(file_name: &str) -> Option<ObjectName> {
    let name = file_name.strip_suffix(FOOTER_SUFFIX)?;
    ObjectName::parse(&format!("{name}{SUFFIX}"))
}

/// Whether a file name is that of a footer.
pub(super) fn is_footer(file_name: &str) -> bool {
    object_name(file_name).is_some()
}
