//! A tensor of a kind that tch does not know, a write that libtorch does not notice, autocast without a
//! GPU, and the fake CUDA device. The only file of this package with `unsafe`.

#![expect(
    unsafe_code,
    reason = "tch has no safe way to name an unknown kind, to write past libtorch, or to set autocast; \
              the fake CUDA device is C++"
)]

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};
use torchcache_ptx::{Grid, HostMemory, Module};

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

/// While this lives, no memory can be page-locked for the fake CUDA device.
#[derive(Debug)]
#[must_use]
pub(crate) struct NoPageLockedMemory(());

impl NoPageLockedMemory {
    pub(crate) fn start() -> Self {
        set_fake_cuda(c"fake_cuda_leave_pinned", 0);
        NoPageLockedMemory(())
    }
}

impl Drop for NoPageLockedMemory {
    fn drop(&mut self) {
        set_fake_cuda(c"fake_cuda_leave_pinned", u64::MAX);
    }
}

/// While this lives, some copies from the fake CUDA device fail.
#[derive(Debug)]
#[must_use]
pub(crate) struct FailingCopies(());

impl FailingCopies {
    /// Those of these numbers, counted from now on.
    pub(crate) fn start(numbers: Range<u64>) -> Self {
        fail_downloads(numbers);
        FailingCopies(())
    }

    /// Runs a closure whose copies are none of these.
    pub(crate) fn exempt<R>(run: impl FnOnce() -> R) -> R {
        set_fake_cuda(c"fake_cuda_exempt", 1);
        let result = run();
        set_fake_cuda(c"fake_cuda_exempt", 0);
        result
    }

    /// How many failed.
    pub(crate) fn count(&self) -> u64 {
        // SAFETY: `fake_cuda.cpp` defines it so.
        let count: extern "C" fn() -> u64 = unsafe { fake_function(c"fake_cuda_failed_downloads") };
        count()
    }
}

impl Drop for FailingCopies {
    fn drop(&mut self) {
        fail_downloads(0..0);
    }
}

fn fail_downloads(numbers: Range<u64>) {
    // SAFETY: `fake_cuda.cpp` defines it so.
    let fail: extern "C" fn(u64, u64) = unsafe { fake_function(c"fake_cuda_fail_downloads") };
    fail(numbers.start, numbers.end);
}

/// While this lives, the thread has another stream on the fake CUDA device than that of number 0.
#[derive(Debug)]
#[must_use]
pub(crate) struct CurrentStream(PhantomData<*const ()>);

impl CurrentStream {
    pub(crate) fn set(number: u64) -> Self {
        set_fake_cuda(c"fake_cuda_set_stream", number);
        CurrentStream(PhantomData)
    }
}

impl Drop for CurrentStream {
    fn drop(&mut self) {
        set_fake_cuda(c"fake_cuda_set_stream", 0);
    }
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

/// A function of the fake CUDA device or its driver.
///
/// # Safety
///
/// The function of this name has this type.
unsafe fn fake_function<F: Copy>(name: &CStr) -> F {
    let symbol = fake_cuda(name).expect("the fake CUDA device and its driver");
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: it is a pointer to the function, whose type the caller knows.
    unsafe { std::mem::transmute_copy(&symbol) }
}

/// Kernels that were launched on the fake device since the start of the process.
pub(crate) fn launches() -> u64 {
    // SAFETY: `fake_driver.cpp` defines it so.
    let launches: extern "C" fn() -> u64 = unsafe { fake_function(c"fake_driver_launches") };
    launches()
}

/// Has the fake driver refuse kernels after so many more.
pub(crate) fn refuse_launches_after(more: u64) {
    // SAFETY: as above.
    let refuse: extern "C" fn(u64) = unsafe { fake_function(c"fake_driver_refuse_after") };
    refuse(more);
}

/// Has a kernel of the fake device compute something wrong from the start.
pub(crate) fn break_kernel(name: &CStr) {
    // SAFETY: as above; the name ends with a zero byte.
    let set: extern "C" fn(*const c_char) = unsafe { fake_function(c"fake_driver_break") };
    set(name.as_ptr());
}

/// Whether kernels that the fake driver loads are loaded only when this says otherwise.
pub(crate) fn hold_loading(hold: bool) {
    // SAFETY: as above.
    let set: extern "C" fn(bool) = unsafe { fake_function(c"fake_driver_hold_loading") };
    set(hold);
}

/// How many modules the fake driver loads now.
pub(crate) fn loading() -> u64 {
    // SAFETY: as above.
    let loading: extern "C" fn() -> u64 = unsafe { fake_function(c"fake_driver_loading") };
    loading()
}

/// The contexts that are current on this thread of the fake driver, one over another.
pub(crate) fn contexts() -> u64 {
    // SAFETY: as above.
    let contexts: extern "C" fn() -> u64 = unsafe { fake_function(c"fake_driver_contexts") };
    contexts()
}

/// Has kernels run from the PTX that the fake driver was given. The process ends where one does what it may not.
pub(crate) fn interpret_kernels() {
    type Run = extern "C" fn(*const c_char, *const c_char, u32, u32, *const *const c_void);
    // SAFETY: as above.
    let set: extern "C" fn(Run) = unsafe { fake_function(c"fake_driver_run_with") };
    set(interpret);
}

extern "C" fn interpret(
    ptx: *const c_char,
    name: *const c_char,
    blocks: u32,
    threads: u32,
    parameters: *const *const c_void,
) {
    static MODULE: OnceLock<Module> = OnceLock::new();
    // SAFETY: both texts end with a zero byte and live during the call.
    let [ptx, name] = [ptx, name].map(|text| unsafe { CStr::from_ptr(text) }.to_str().unwrap());
    let module = MODULE.get_or_init(|| Module::parse(ptx).unwrap());
    let kernel = module.kernel(name).unwrap();
    // SAFETY: the launch has the parameters of the kernel.
    let parameters = unsafe { kernel.read_parameters(parameters) };
    // SAFETY: the driver lets the memory of the device be used during a launch, and Rust has no references to it.
    let mut memory = unsafe { HostMemory::new(device_allocations()) };
    let grid = Grid { blocks, threads };
    kernel.run(grid, &parameters, &mut memory).unwrap();
}

/// The memory of the fake device that is allocated.
fn device_allocations() -> Vec<Range<u64>> {
    // SAFETY: `fake_cuda.cpp` defines it so. It writes two numbers for each of as many allocations as there is
    // room for.
    let list: extern "C" fn(*mut u64, usize) -> usize =
        unsafe { fake_function(c"fake_cuda_allocations") };
    let mut bounds = vec![0; 2 * 100_000];
    let count = list(bounds.as_mut_ptr(), bounds.len() / 2);
    assert!(count <= bounds.len() / 2, "{count} allocations");
    let (bounds, _) = bounds[..2 * count].as_chunks();
    bounds.iter().map(|&[begin, end]| begin..end).collect()
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
