//! A tensor of a kind that tch does not know, a write that libtorch does not notice, autocast without a
//! GPU, and the fake CUDA device. The only file of this package with `unsafe`.

#![expect(
    unsafe_code,
    reason = "tch has no safe way to name an unknown kind, to write past libtorch, or to set autocast; \
              the fake CUDA device is C++"
)]

use std::ffi::{CStr, c_void};

use tch::{Device, Kind, Tensor};

/// libtorch's code of unsigned 16-bit integers.
const UINT16: i32 = 27;

/// Four rows of two `uint16`s.
pub(crate) fn of_unknown_kind() -> Tensor {
    let data = [1u16; 8];
    let shape = [4i64, 2];
    // SAFETY: the element size, count and shape are those of `data`, which libtorch copies; the
    // returned pointer has no other owner.
    let tensor = unsafe {
        Tensor::from_ptr(torch_sys::at_tensor_of_data(
            data.as_ptr().cast(),
            shape.as_ptr(),
            shape.len(),
            size_of::<u16>(),
            UINT16,
        ))
    };
    assert!(tensor.defined());
    tensor
}

/// Writes one float in host memory through a raw pointer: no version counter moves.
pub(crate) fn write(tensor: &mut Tensor, position: usize, value: f32) {
    assert_eq!(
        (tensor.device(), tensor.kind(), tensor.is_contiguous()),
        (Device::Cpu, Kind::Float, true)
    );
    assert!(position < tensor.numel());
    // SAFETY: the tensor is contiguous, so that its elements lie one after another from the data
    // pointer on, and the position is within them; they are floats in host memory, and nothing
    // else uses them during the call.
    unsafe { tensor.data_ptr().cast::<f32>().add(position).write(value) };
}

/// Runs a closure under autocast. That of tch does nothing without a GPU.
pub(crate) fn autocast<R>(run: impl FnOnce() -> R) -> R {
    // SAFETY: these read and write a setting of this thread, and take no pointer.
    let before = unsafe { torch_sys::at_autocast_set_enabled(1) } & 1;
    let result = run();
    // SAFETY: as above.
    unsafe { torch_sys::at_autocast_set_enabled(before) };
    result
}

/// Whether this thread runs under autocast.
pub(crate) fn is_autocast() -> bool {
    // SAFETY: it reads a setting of this thread, and takes no pointer.
    (unsafe { torch_sys::at_autocast_is_enabled() }) & 1 == 1
}

/// Copies between host and device since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Copies {
    pub(crate) to_device: u64,
    pub(crate) bytes_to_device: u64,
    pub(crate) from_device: u64,
    pub(crate) bytes_from_device: u64,
}

/// A function of the fake CUDA device. `None` without it.
fn fake_cuda(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero byte.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}

/// The copies that the fake CUDA device counted. `None` without it.
pub(crate) fn copies() -> Option<Copies> {
    let symbol = fake_cuda(c"fake_cuda_copies")?;
    // SAFETY: `tests/fake_cuda` defines the function of this name with this type.
    let count: extern "C" fn(*mut Copies) =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut Copies)>(symbol) };
    let mut copies = Copies::default();
    // It writes four integers of 64 bits, the fields.
    count(&mut copies);
    Some(copies)
}

/// While this lives, the fake CUDA device has a limited number of bytes left.
#[derive(Debug)]
#[must_use]
pub(crate) struct DeviceMemoryLimit(());

impl DeviceMemoryLimit {
    /// Leaves the device so many bytes from now on.
    pub(crate) fn leave(bytes: u64) -> Self {
        leave_device_memory(bytes);
        DeviceMemoryLimit(())
    }
}

impl Drop for DeviceMemoryLimit {
    fn drop(&mut self) {
        leave_device_memory(u64::MAX);
    }
}

fn leave_device_memory(bytes: u64) {
    set_fake_cuda(c"fake_cuda_leave", bytes);
}

/// Leaves so many bytes of memory that can be pinned for the fake CUDA device.
pub(crate) fn leave_pinned_memory(bytes: u64) {
    set_fake_cuda(c"fake_cuda_leave_pinned", bytes);
}

/// Sets the stream of this thread on the fake CUDA device.
pub(crate) fn set_stream(number: u64) {
    set_fake_cuda(c"fake_cuda_set_stream", number);
}

/// Calls a function of the fake CUDA device that takes a number.
fn set_fake_cuda(name: &CStr, number: u64) {
    let symbol = fake_cuda(name).expect("the fake CUDA device");
    // SAFETY: `tests/fake_cuda` defines the functions of these names with this type.
    let set: extern "C" fn(u64) =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(u64)>(symbol) };
    set(number);
}

/// How often the host waited since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Waits {
    /// For a copy to the device.
    pub(crate) copies: u64,
    /// For all work on the device.
    pub(crate) synchronizations: u64,
}

/// How often the host waited for the fake CUDA device.
pub(crate) fn waits() -> Waits {
    let symbol = fake_cuda(c"fake_cuda_waits").expect("the fake CUDA device");
    // SAFETY: `tests/fake_cuda` defines the function of this name with this type.
    let count: extern "C" fn(*mut Waits) =
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut Waits)>(symbol) };
    let mut waits = Waits::default();
    // It writes two integers of 64 bits, the fields.
    count(&mut waits);
    waits
}

/// Reads the first float of a tensor on the host, wherever it is: of a fake CUDA device's, this ends the
/// process.
pub(crate) fn read_on_host(tensor: &Tensor) -> f32 {
    assert_eq!(tensor.kind(), Kind::Float);
    assert!(tensor.numel() > 0 && copies().is_some());
    // SAFETY: the memory of the fake device is mapped, for the first element at least, and aligned.
    // Unless it may be read, the process ends here.
    unsafe { tensor.data_ptr().cast::<f32>().read_volatile() }
}
