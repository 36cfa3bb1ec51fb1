//! All `unsafe` code of the crate: mapping a file, and the C library's exit hook.

#![expect(unsafe_code, reason = "neither mmap nor atexit has a safe interface")]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole segment file for reading.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is sound as long as nobody changes the file below it. Segments are
    // never written to after they got their name, and no code of this crate shortens one.
    // A change from outside can at worst show other bytes (every row is copied out first; the
    // copy is what is checked, and decompressed) or, if the file is shortened, end the process
    // with SIGBUS; `Config::mmap` says so to whoever turns it on.
    unsafe { Mmap::map(file) }
}

/// Registers `hook` to run when the process ends by returning from `main` or by `exit`.
/// Returns whether the C library took it.
pub(crate) fn at_exit(hook: extern "C" fn()) -> bool {
    // SAFETY: `hook` is a function with the signature that `atexit` wants, it lives as long
    // as the program, and it must not unwind, which `exit::hook` ensures.
    unsafe { libc::atexit(hook) == 0 }
}
