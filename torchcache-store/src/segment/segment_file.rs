//! An open segment file: ranges of its bytes, by `pread` or through a memory map. It knows positions,
//! not rows.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSliceMut};

use super::error::SegmentError;
use crate::fs::{Directory, File, Mapped, read_exact};

/// An open segment file.
pub(crate) struct SegmentFile {
    file: Box<dyn File>,
    map: Option<Mapped>,
    /// Whether a memory map was requested. Not every file system has them.
    pub(crate) mmap: bool,
}

impl SegmentFile {
    pub(crate) fn open(dir: &dyn Directory, name: &OsStr, mmap: bool) -> io::Result<SegmentFile> {
        let file = dir.open(name)?;
        let map = if mmap { file.map()? } else { None };
        Ok(SegmentFile { file, map, mmap })
    }

    pub(crate) fn file(&self) -> &dyn File {
        &*self.file
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// A range of the file's bytes, from the map or read into `scratch`.
    pub(crate) fn bytes<'a>(
        &'a self,
        offset: u64,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], SegmentError> {
        if let Some(map) = &self.map {
            let begin = usize::try_from(offset).ok();
            let end = begin.and_then(|begin| begin.checked_add(len));
            return begin
                .zip(end)
                .and_then(|(begin, end)| (**map).as_ref().get(begin..end))
                .ok_or_else(|| SegmentError::Truncated(format!("nothing to read at {offset}")));
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let scratch = &mut scratch[..len];
        read_at(self.file(), scratch, offset)?;
        Ok(scratch)
    }

    /// Fills several buffers with consecutive bytes of the file. One system call takes at most 1024
    /// buffers.
    pub(crate) fn scatter(
        &self,
        mut offset: u64,
        mut buffers: &mut [IoSliceMut<'_>],
    ) -> Result<(), SegmentError> {
        // Drops empty buffers at the front, so that "nothing left" is an empty slice.
        IoSliceMut::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            match self.file.read_at(buffers, offset) {
                Ok(0) => {
                    return Err(SegmentError::Truncated(format!(
                        "nothing to read at {offset}"
                    )));
                }
                Ok(read) => {
                    IoSliceMut::advance_slices(&mut buffers, read);
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SegmentError::Io(error)),
            }
        }
        Ok(())
    }
}

/// Fills `out` with the bytes of a file from `offset` on.
pub(super) fn read_at(file: &dyn File, out: &mut [u8], offset: u64) -> Result<(), SegmentError> {
    let end = offset + out.len() as u64;
    read_exact(file, out, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            SegmentError::Truncated(format!("nothing to read at {end}"))
        }
        _ => SegmentError::Io(error),
    })
}

impl fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentFile")
            .field("file", &self.file)
            .field("is_mapped", &self.is_mapped())
            .finish_non_exhaustive()
    }
}
