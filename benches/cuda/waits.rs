//! Counts how often libtorch waits for a device: each blocking copy from it, or from pageable memory to it, is
//! one wait.
//!
//! This program defines the functions of the CUDA runtime that wait, and exports them (`build.rs`), so that
//! the loader binds libtorch's calls to them.

#![expect(
    unsafe_code,
    reason = "functions of C that take the place of others of their name"
)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static WAITS: AtomicU64 = AtomicU64::new(0);

/// The waits during `run`.
pub(crate) fn count(run: impl FnOnce()) -> u64 {
    let before = WAITS.load(Relaxed);
    run();
    WAITS.load(Relaxed) - before
}

/// The function of this name in the libraries that were loaded after this program.
fn next(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero byte.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// `cudaErrorNotSupported`, where a library calls a function that no library has.
const NOT_SUPPORTED: c_int = 801;

macro_rules! counted {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        /// Counts the call and passes it on.
        ///
        /// # Safety
        ///
        /// As of the runtime's function.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            WAITS.fetch_add(1, Relaxed);
            let name = concat!(stringify!($name), "\0");
            let name = CStr::from_bytes_with_nul(name.as_bytes()).expect("one zero byte");
            let Some(function) = next(name) else { return NOT_SUPPORTED };
            // SAFETY: `cuda_runtime_api.h` declares the function of this name with this type, and its
            // arguments are the caller's.
            unsafe {
                let function: unsafe extern "C" fn($($type),*) -> c_int =
                    std::mem::transmute(function);
                function($($argument),*)
            }
        }
    )*};
}

counted! {
    cudaStreamSynchronize(stream: *mut c_void);
    cudaEventSynchronize(event: *mut c_void);
    cudaDeviceSynchronize();
    cudaMemcpy(to: *mut c_void, from: *const c_void, bytes: usize, direction: c_int);
}
