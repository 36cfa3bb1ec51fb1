//! CUDA's driver and libtorch's streams, found at run time in what the program has loaded.

#![expect(
    unsafe_code,
    reason = "functions of C that are found at run time have no safe interface"
)]

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::LazyLock;

use libloading::os::unix::{Library, RTLD_LAZY};

/// Opens a library only if it is loaded. As Linux has it; no other system has CUDA.
const RTLD_NOLOAD: c_int = 4;

/// A stream of a device: what is queued on one runs in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream(usize);

/// The stream of a CUDA device that libtorch queues the work of this thread on. `None` if libtorch has no
/// CUDA, or no such device.
pub(crate) fn current_stream(device: usize) -> Option<Stream> {
    let get = (*CURRENT_STREAM)?;
    let mut stream = null_mut();
    // SAFETY: `CURRENT_STREAM` is the function of this type. It writes one pointer, and returns an error for
    // what it throws.
    let error = unsafe { get(device.try_into().ok()?, &raw mut stream) };
    (error == 0).then_some(Stream(stream.addr()))
}

type CurrentStream = unsafe extern "C" fn(i32, *mut *mut c_void) -> i32;

/// libtorch's function, of its C interface. It is loaded in every program that has a tensor on a device.
static CURRENT_STREAM: LazyLock<Option<CurrentStream>> = LazyLock::new(|| {
    // The library is not in the global scope where Python has loaded it, and has another name where it is
    // linked into a larger one.
    // SAFETY: a library that is loaded already runs no code.
    let cuda = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_LAZY | RTLD_NOLOAD) };
    let libraries = cuda.into_iter().chain([Library::this()]);
    libraries.into_iter().find_map(|library| {
        // SAFETY: `torch/csrc/inductor/aoti_torch/c/shim.h` declares it with this type.
        let found = unsafe { library.get::<CurrentStream>("aoti_torch_get_current_cuda_stream") };
        let function = *found.ok()?;
        // Never closed, so that the function stays.
        std::mem::forget(library);
        Some(function)
    })
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_stream_without_a_device() {
        assert_eq!(current_stream(usize::MAX), None);
        if !tch::Cuda::is_available() {
            assert_eq!(current_stream(0), None);
        }
    }
}
