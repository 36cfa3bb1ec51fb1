//! An open segment file, and stretches of its bytes by `pread` or through a map. It knows files and
//! positions, not rows.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::path::Path;

use memmap2::Mmap;

use super::reader::{Unreadable, read_at};
use crate::sys;

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    map: Option<Mmap>,
}

impl Source {
    pub(crate) fn open(path: &Path, mmap: bool) -> io::Result<Source> {
        let file = File::open(path)?;
        // An empty file cannot be mapped, and there is nothing in it to read.
        let map = if mmap && file.metadata()?.len() > 0 {
            Some(sys::map(&file)?)
        } else {
            None
        };
        Ok(Source { file, map })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// The bytes of one stretch of the file, from the map or read into `scratch`.
    pub(crate) fn bytes<'a>(
        &'a self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Unreadable> {
        if let Some(map) = &self.map {
            let begin = usize::try_from(offset).ok();
            let end = begin.and_then(|begin| begin.checked_add(len));
            return begin
                .zip(end)
                .and_then(|(begin, end)| map.get(begin..end))
                .ok_or_else(|| Unreadable::Truncated(format!("nothing to read at {offset}")));
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let scratch = &mut scratch[..len];
        read_at(&self.file, scratch, offset)?;
        Ok(scratch)
    }

    /// Reads one stretch of the file into several buffers, which together are as long as it. One
    /// system call takes 1024 buffers at most.
    pub(crate) fn scatter(
        &self,
        mut offset: u64,
        mut buffers: &mut [IoSliceMut<'_>],
    ) -> Result<(), Unreadable> {
        // Drops empty buffers at the front, so that "nothing left" is an empty slice.
        IoSliceMut::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            match rustix::io::preadv(&self.file, buffers, offset) {
                Ok(0) => {
                    return Err(Unreadable::Truncated(format!(
                        "nothing to read at {offset}"
                    )));
                }
                Ok(read) => {
                    IoSliceMut::advance_slices(&mut buffers, read);
                    offset += read as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Unreadable::Io(error.into())),
            }
        }
        Ok(())
    }
}
