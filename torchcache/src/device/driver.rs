//! CUDA's driver and libtorch's streams, found at run time; and the launches of the kernels.
//!
//! Kernels run on libtorch's current stream. Their memory is that of tensors, and libtorch's allocator gives
//! memory that is freed to later work of the same stream only: a tensor that this call allocated may be
//! dropped as soon as the launch is queued. Others are the caller's, who waits for the results. A table of addresses must
//! not be freed on another stream before the kernel has read it. Where an error ends the wait for digests early, or
//! another stream uses the memory of a tensor again, queued kernels read other values, as queued operations of libtorch
//! do: no digest of them is used, and memory of the device stays mapped while kernels run.
//!
//! The default streams of all threads have one handle, by which libtorch knows streams: it gives memory that is freed on
//! one of them to the others as well. They count as unknown here, and no kernel runs on them.
//!
//! As in tch, a shared reference to a tensor is enough to write its elements: the type does not say who else reads them.

#![expect(
    unsafe_code,
    reason = "functions of C that are found at run time have no safe interface"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::{from_ref, null, null_mut};
use std::sync::{Arc, LazyLock};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::background;

use Parameter::{U32, U64};

use super::plan::{self, BLOCK_THREADS, FACTORS, MAX_LINE_BYTES, MAX_PIECE_BYTES, VALUE_BYTES};

/// Opens a library only if it is loaded. As Linux has it; no other system has CUDA.
const RTLD_NOLOAD: c_int = 4;

/// A stream of a device, by its handle: what is queued on one runs in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream(Handle);

/// The handle of the default stream, `CU_STREAM_LEGACY`, which is also 0.
const LEGACY: Handle = 1;

/// The handle of the default stream of each thread, `CU_STREAM_PER_THREAD`.
const PER_THREAD: Handle = 2;

/// An object of the driver. Only the driver uses it as a pointer.
type Handle = usize;

/// The stream of a CUDA device that libtorch queues the work of this thread on. `None` where it is unknown: if it is the
/// default stream of this thread, whose handle other streams have as well, and if libtorch has no CUDA or no such device.
pub(crate) fn current_stream(device: usize) -> Option<Stream> {
    let get = (*CURRENT_STREAM)?;
    let mut stream = 0;
    // SAFETY: `CURRENT_STREAM` is the function of this type. It writes one pointer, and returns an error for
    // what it throws.
    let error = unsafe { get(device.try_into().ok()?, &raw mut stream) };
    if error != 0 || stream == PER_THREAD {
        return None;
    }
    Some(Stream(if stream == LEGACY { 0 } else { stream }))
}

type CurrentStream = unsafe extern "C" fn(i32, *mut Handle) -> i32;

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

/// Declares the functions of the driver, as `cuda.h` does.
macro_rules! driver {
    ($($name:ident = $symbol:literal($($argument:ty),*);)*) => {
        #[derive(Debug)]
        struct Driver {
            $($name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Driver {
            fn functions_of(library: &Library) -> Option<Self> {
                Some(Driver {
                    // SAFETY: the driver's function of this name has this type.
                    $($name: *unsafe { library.get($symbol) }.ok()?,)*
                })
            }
        }
    };
}

driver! {
    init = "cuInit"(c_uint);
    get_device = "cuDeviceGet"(*mut c_int, c_int);
    retain_context = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    push_context = "cuCtxPushCurrent_v2"(Handle);
    pop_context = "cuCtxPopCurrent_v2"(*mut Handle);
    load_module = "cuModuleLoadData"(*mut Handle, *const c_char);
    get_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    error_name = "cuGetErrorName"(c_int, *mut *const c_char);
}

impl Driver {
    /// The driver of this machine. `None` without one, or with one that is too old.
    fn find() -> Option<&'static Self> {
        static DRIVER: LazyLock<Option<Driver>> = LazyLock::new(|| {
            // SAFETY: this is NVIDIA's driver, which libtorch loads as well before it has a CUDA device.
            let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_LAZY | RTLD_LOCAL) };
            let library = library.ok()?;
            let driver = Driver::functions_of(&library)?;
            // Never closed, so that the functions stay.
            std::mem::forget(library);
            Some(driver)
        });
        DRIVER.as_ref()
    }

    fn check(&self, function: &'static str, code: c_int) -> Result<(), DriverError> {
        if code == 0 {
            return Ok(());
        }
        let mut name = null();
        // SAFETY: it writes one pointer, or returns an error.
        let is_known = unsafe { (self.error_name)(code, &raw mut name) } == 0 && !name.is_null();
        let name = match is_known {
            // SAFETY: the driver's text ends with a zero byte, and is never freed.
            true => unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned(),
            false => "an error without a name".to_owned(),
        };
        Err(DriverError {
            function,
            name,
            code,
        })
    }

    /// Loads a module for the current context.
    fn load(&self, ptx: &CStr) -> Result<Handle, DriverError> {
        let mut module = 0;
        // SAFETY: it writes one handle, or returns an error. The text ends with a zero byte.
        let code = unsafe { (self.load_module)(&raw mut module, ptx.as_ptr()) };
        self.check("cuModuleLoadData", code)?;
        Ok(module)
    }

    /// Makes a context current on this thread until the result is dropped.
    fn enter(&self, context: Handle) -> Result<Entered<'_>, DriverError> {
        // SAFETY: the driver has returned the context, which is never released.
        let code = unsafe { (self.push_context)(context) };
        self.check("cuCtxPushCurrent", code)?;
        Ok(Entered(self))
    }
}

/// While this lives, a context is current on its thread; then the one from before is again.
struct Entered<'d>(&'d Driver);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut context = 0;
        // SAFETY: it writes one handle.
        unsafe { (self.0.pop_context)(&raw mut context) };
    }
}

/// An error of the driver.
#[derive(Debug, thiserror::Error)]
#[error("{function} returned {name} ({code})")]
pub(super) struct DriverError {
    function: &'static str,
    name: String,
    code: c_int,
}

/// Why the device did not do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Mostly memory that cannot be allocated.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// A fault of work that was queued before.
    #[error("results could not be copied from the device: {0}")]
    Fault(#[source] TchError),
    #[error("libtorch has no current stream for the device")]
    NoStream,
    #[error("one launch cannot have so many rows")]
    TooLarge,
    #[error("memory was moved since its lines were recorded")]
    Moved,
}

/// Rows of bytes in the memory of a CUDA device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceRows<'t> {
    device: usize,
    address: u64,
    rows: u64,
    row_bytes: u64,
    stride: u64,
    owner: PhantomData<&'t Tensor>,
}

impl<'t> DeviceRows<'t> {
    /// `rows` rows of `row_bytes` bytes, each `stride` bytes after the one before.
    ///
    /// # Safety
    ///
    /// They are in the storage of a tensor on that CUDA device, which lives for `'t`.
    pub(crate) unsafe fn new(
        device: usize,
        address: u64,
        rows: u64,
        row_bytes: u64,
        stride: u64,
    ) -> Self {
        DeviceRows {
            device,
            address,
            rows,
            row_bytes,
            stride,
            owner: PhantomData,
        }
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> u64 {
        self.rows
    }

    /// A row, by its number.
    pub(crate) fn row(&self, number: u64) -> Span<'t> {
        assert!(number < self.rows, "row {number} of {}", self.rows);
        Span {
            device: self.device,
            address: self.address + number * self.stride,
            bytes: self.row_bytes,
            owner: PhantomData,
        }
    }

    /// The first rows, at most `count`.
    pub(super) fn take(self, count: u64) -> Self {
        DeviceRows {
            rows: self.rows.min(count),
            ..self
        }
    }

    /// The rows one after another, each cut into pieces of at most `bytes` bytes.
    pub(crate) fn pieces(self, bytes: u64) -> impl Iterator<Item = Span<'t>> {
        let rows = (0..self.rows).map(move |number| self.row(number));
        rows.flat_map(move |row| {
            let begins = (0..row.bytes).step_by(bytes as usize);
            begins.map(move |begin| Span {
                address: row.address + begin,
                bytes: bytes.min(row.bytes - begin),
                ..row
            })
        })
    }
}

/// Bytes in the memory of a CUDA device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'t> {
    device: usize,
    address: u64,
    bytes: u64,
    owner: PhantomData<&'t Tensor>,
}

/// Device, address and length of memory that may be freed by now.
type MemoryPlace = (usize, u64, u64);

impl Span<'_> {
    fn place(&self) -> MemoryPlace {
        (self.device, self.address, self.bytes)
    }
}

/// Adds an entry to a table that a kernel reads.
fn add_entry(table: &mut Vec<u8>, first: u64, second: u64) {
    table.extend(first.to_le_bytes());
    table.extend(second.to_le_bytes());
}

/// Lines of memory of a device, in the order in which they are to be summed up.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Address and length of each.
    table: Vec<u8>,
    count: u64,
    /// The memory that has them.
    memory: Vec<MemoryPlace>,
}

impl Lines {
    /// Adds lines of some memory, from where each begins to where it ends.
    ///
    /// # Panics
    ///
    /// If one is not in the memory, or longer than [`MAX_LINE_BYTES`].
    pub(crate) fn add(&mut self, memory: Span<'_>, lines: impl IntoIterator<Item = Range<u64>>) {
        for line in lines {
            let Range { start, end } = line;
            assert!(
                start <= end && end <= memory.bytes && end - start <= MAX_LINE_BYTES,
                "bytes {line:?} of {}",
                memory.bytes
            );
            add_entry(&mut self.table, memory.address + start, end - start);
            self.count += 1;
        }
        self.memory.push(memory.place());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds lines that are all of some memory.
    pub(crate) fn add_all(&mut self, memory: Span<'_>) {
        let begins = (0..memory.bytes).step_by(MAX_LINE_BYTES as usize);
        let lines = begins.map(|begin| begin..memory.bytes.min(begin + MAX_LINE_BYTES));
        self.add(memory, lines);
    }
}

/// The table of [`Lines`], on their device.
#[derive(Debug)]
pub(super) struct LineTable {
    table: DeviceBuffer,
    count: u64,
    memory: Arc<[MemoryPlace]>,
}

impl LineTable {
    pub(super) fn upload(device: usize, lines: &Lines) -> Result<Self, DeviceError> {
        Ok(LineTable {
            table: DeviceBuffer::upload(device, &lines.table)?,
            count: lines.count,
            memory: lines.memory.as_slice().into(),
        })
    }

    pub(super) fn share(&self) -> Self {
        let table = self.table.tensor.shallow_clone();
        LineTable {
            table: DeviceBuffer::from_tensor(self.table.device, table),
            count: self.count,
            memory: self.memory.clone(),
        }
    }
}

/// New memory of a device.
#[derive(Debug)]
pub(super) struct DeviceBuffer {
    device: usize,
    tensor: Tensor,
    bytes: u64,
}

impl DeviceBuffer {
    fn from_tensor(device: usize, tensor: Tensor) -> Self {
        DeviceBuffer {
            device,
            bytes: tensor.numel() as u64,
            tensor,
        }
    }

    pub(super) fn new(device: usize, bytes: u64) -> Result<Self, DeviceError> {
        let options = (Kind::Uint8, Device::Cuda(device));
        let tensor = Tensor::f_empty([bytes as i64], options)?;
        Ok(Self::from_tensor(device, tensor))
    }

    /// Copies bytes from the host, without waiting for work that is queued where memory can be page-locked.
    pub(super) fn upload(device: usize, bytes: &[u8]) -> Result<Self, DeviceError> {
        let on = Device::Cuda(device);
        let bytes = Tensor::f_from_slice(bytes)?;
        // libtorch uses pinned memory again only after the copies that were queued from it.
        // Not by `f_pin_memory`, which logs that its argument is deprecated.
        let tensor = match bytes.f_internal_pin_memory(on) {
            Ok(pinned) => pinned.f_to_device_(on, Kind::Uint8, true, false)?,
            Err(_) => bytes.f_to_device(on)?,
        };
        Ok(Self::from_tensor(device, tensor))
    }

    /// Copies the bytes to the host, after the work that is queued.
    pub(super) fn download(&self) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = vec![0; self.bytes as usize];
        self.tensor
            .f_copy_data_u8(&mut bytes, self.bytes as usize)
            .map_err(DeviceError::Fault)?;
        Ok(bytes)
    }

    /// The bytes as words of 64 bits.
    pub(super) fn into_words(self) -> Result<Tensor, DeviceError> {
        Ok(self.tensor.f_view_dtype(Kind::Int64)?)
    }

    /// Its memory as rows.
    pub(super) fn rows(&self, row_bytes: u64) -> DeviceRows<'_> {
        DeviceRows {
            device: self.device,
            address: self.address(),
            rows: self.bytes.checked_div(row_bytes).unwrap_or(0),
            row_bytes,
            stride: row_bytes,
            owner: PhantomData,
        }
    }

    fn address(&self) -> u64 {
        self.tensor.data_ptr().addr() as u64
    }

    /// The address of `count` values of `value_bytes` bytes after the first `skipped` ones.
    fn values(&self, skipped: u64, count: u64, value_bytes: u64) -> u64 {
        assert!(
            skipped + count <= self.bytes / value_bytes,
            "{count} values of {value_bytes} bytes after {skipped} in {} bytes",
            self.bytes
        );
        self.address() + skipped * value_bytes
    }
}

/// The kernels of `kernels.cu`, compiled to PTX.
const PTX: &CStr = text(concat!(include_str!("kernels.ptx"), "\0"));

/// A module that is compiled in no time. The driver keeps compiled modules: with the version of the crate, it compiles this
/// one where it compiles `PTX`.
const EMPTY_PTX: &CStr = text(concat!(
    ".version 8.0\n.target sm_60\n.address_size 64\n.visible .entry nothing() { ret; }\n// torchcache ",
    env!("CARGO_PKG_VERSION"),
    "\n\0"
));

const fn text(ptx: &str) -> &CStr {
    match CStr::from_bytes_with_nul(ptx.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("expected text that ends with a zero byte"),
    }
}

/// The kernels, loaded for one device.
#[derive(Debug)]
pub(super) struct Kernels {
    driver: &'static Driver,
    device: usize,
    /// The context of the device that libtorch uses as well.
    context: Handle,
    blake3_chunks: Handle,
    blake3_nodes: Handle,
    blake3_pieces: Handle,
    copy_rows: Handle,
    line_sums: Handle,
}

impl Kernels {
    /// Has the driver compile the kernels for a device, which takes up to some seconds. `None` where there is no
    /// driver, or no way to learn libtorch's stream. Calls nothing of libtorch.
    pub(super) fn load(device: usize) -> Option<Result<Self, DriverError>> {
        CURRENT_STREAM.as_ref()?;
        Some(Self::load_by(Driver::find()?, device))
    }

    fn load_by(driver: &'static Driver, device: usize) -> Result<Self, DriverError> {
        let (mut number, mut context) = (0, 0);
        // SAFETY: each writes one number or handle, or returns an error.
        unsafe {
            driver.check("cuInit", (driver.init)(0))?;
            let code = (driver.get_device)(&raw mut number, device as c_int);
            driver.check("cuDeviceGet", code)?;
            let code = (driver.retain_context)(&raw mut context, number);
            driver.check("cuDevicePrimaryCtxRetain", code)?;
        }
        let _entered = driver.enter(context)?;
        // The driver loads its compiler for the first module. The compiler ends in an exit hook as well, which must not
        // run while it compiles.
        driver.load(EMPTY_PTX)?;
        background::join_at_exit();
        let module = driver.load(PTX)?;
        let function = |name: &CStr| {
            let mut function = 0;
            // SAFETY: it writes one handle, or returns an error. The name ends with a zero byte.
            let code = unsafe { (driver.get_function)(&raw mut function, module, name.as_ptr()) };
            driver.check("cuModuleGetFunction", code)?;
            Ok::<_, DriverError>(function)
        };
        Ok(Kernels {
            driver,
            device,
            context,
            blake3_chunks: function(c"blake3_chunks")?,
            blake3_nodes: function(c"blake3_nodes")?,
            blake3_pieces: function(c"blake3_pieces")?,
            copy_rows: function(c"copy_rows")?,
            line_sums: function(c"line_sums")?,
        })
    }

    pub(super) fn device(&self) -> usize {
        self.device
    }

    /// Queues the digests of rows, from the one numbered `first` on.
    pub(super) fn hash_rows(
        &self,
        rows: &DeviceRows<'_>,
        digests: &DeviceBuffer,
        first: u64,
    ) -> Result<(), DeviceError> {
        let &DeviceRows {
            rows: count,
            row_bytes,
            stride,
            ..
        } = rows;
        self.assert_device([rows.device, digests.device]);
        let levels = plan::row_digest_levels(count, row_bytes).ok_or(DeviceError::TooLarge)?;
        let mut joined: Option<DeviceBuffer> = None;
        for level in &levels {
            let values = count * level.groups;
            let (buffer, out) = match level.groups {
                1 => (None, digests.values(first, count, VALUE_BYTES)),
                _ => {
                    let buffer = DeviceBuffer::new(self.device, values * VALUE_BYTES)?;
                    let out = buffer.values(0, values, VALUE_BYTES);
                    (Some(buffer), out)
                }
            };
            // SAFETY: these are the parameters of the kernels. They read the rows, or the values of the launch
            // before, and write `values` values.
            unsafe {
                match &joined {
                    None => {
                        let parameters = [
                            U64(rows.address),
                            U64(count),
                            U64(row_bytes),
                            U64(stride),
                            U32(level.width),
                            U64(out),
                        ];
                        self.launch(self.blake3_chunks, level.blocks, parameters)?;
                    }
                    Some(joined) => {
                        let values = joined.values(0, count * level.nodes, VALUE_BYTES);
                        let parameters = [
                            U64(values),
                            U64(count),
                            U64(level.nodes),
                            U32(level.width),
                            U64(out),
                        ];
                        self.launch(self.blake3_nodes, level.blocks, parameters)?;
                    }
                }
            }
            joined = buffer;
        }
        Ok(())
    }

    /// Queues the digests of pieces, none longer than [`MAX_PIECE_BYTES`], from the one numbered `first` on.
    pub(super) fn hash_pieces(
        &self,
        pieces: &[Span<'_>],
        digests: &DeviceBuffer,
        first: u64,
    ) -> Result<(), DeviceError> {
        let blocks = plan::piece_blocks(pieces.len() as u64).ok_or(DeviceError::TooLarge)?;
        let mut table = Vec::with_capacity(16 * pieces.len());
        for piece in pieces {
            self.assert_device([piece.device]);
            assert!(
                piece.bytes <= MAX_PIECE_BYTES,
                "{} bytes in a piece",
                piece.bytes
            );
            add_entry(&mut table, piece.address, piece.bytes);
        }
        let table = DeviceBuffer::upload(self.device, &table)?;
        let count = pieces.len() as u64;
        let out = digests.values(first, count, VALUE_BYTES);
        self.assert_device([digests.device]);
        let parameters = [U64(table.address()), U64(count), U64(out)];
        // SAFETY: these are the parameters of the kernel. It reads the table and the pieces, and writes a digest
        // for each.
        unsafe { self.launch(self.blake3_pieces, blocks, parameters) }
    }

    /// Queues copies of rows of one length, each from the first place to the second one. The rows that are
    /// written must overlap no other.
    pub(super) fn copy_rows(&self, moves: &[(Span<'_>, Span<'_>)]) -> Result<(), DeviceError> {
        let (count, row_bytes) = (
            moves.len() as u64,
            moves.first().map_or(0, |(from, _)| from.bytes),
        );
        let mut table = Vec::with_capacity(16 * moves.len());
        for (from, to) in moves {
            self.assert_device([from.device, to.device]);
            assert!(
                from.bytes == row_bytes && to.bytes == row_bytes,
                "rows of several lengths"
            );
            add_entry(&mut table, from.address, to.address);
        }
        let table = DeviceBuffer::upload(self.device, &table)?;
        let parameters = [U64(table.address()), U64(count), U64(row_bytes)];
        let blocks = plan::copy_blocks(count, row_bytes);
        // SAFETY: these are the parameters of the kernel. It reads the table and the first rows, and writes the
        // second ones.
        unsafe { self.launch(self.copy_rows, blocks, parameters) }
    }

    /// Queues the sums of lines as `line_sums` forms them: 64-bit words, one for every 128 lines. `memory` is that of
    /// [`Lines::add`], in order.
    pub(super) fn sum_lines(
        &self,
        lines: &LineTable,
        memory: &[Span<'_>],
        factors: Span<'_>,
    ) -> Result<DeviceBuffer, DeviceError> {
        for span in memory.iter().chain([&factors]) {
            self.assert_device([span.device, lines.table.device]);
        }
        assert_eq!(factors.bytes, FACTORS as u64 * 8, "bytes of factors");
        let is_recorded = lines
            .memory
            .iter()
            .copied()
            .eq(memory.iter().map(Span::place));
        if !is_recorded {
            return Err(DeviceError::Moved);
        }
        let blocks = plan::line_blocks(lines.count).ok_or(DeviceError::TooLarge)?;
        let sums = DeviceBuffer::new(self.device, u64::from(blocks) * 8)?;
        let parameters = [
            U64(lines.table.address()),
            U64(lines.count),
            U64(factors.address),
            U64(sums.address()),
        ];
        // SAFETY: these are the parameters of the kernel. It reads the table, its lines, which are in `memory`, and
        // the factors, and writes a word for each block.
        unsafe { self.launch(self.line_sums, blocks, parameters) }?;
        Ok(sums)
    }

    fn assert_device<const N: usize>(&self, devices: [usize; N]) {
        assert_eq!(devices, [self.device; N], "memory of another device");
    }

    /// Queues a kernel on libtorch's current stream; none, if there are no blocks.
    ///
    /// # Safety
    ///
    /// The parameters are those that the kernel takes, and it reads and writes only memory of this device that
    /// stays allocated until work that is queued later on the stream.
    unsafe fn launch<const N: usize>(
        &self,
        kernel: Handle,
        blocks: u32,
        parameters: [Parameter; N],
    ) -> Result<(), DeviceError> {
        if blocks == 0 {
            return Ok(());
        }
        let stream = current_stream(self.device).ok_or(DeviceError::NoStream)?;
        let mut parameters = parameters.each_ref().map(Parameter::pointer);
        let _entered = self.driver.enter(self.context)?;
        // SAFETY: the kernel, the context and the stream are of this device. The driver copies the parameters,
        // which are those of the kernel, before it returns.
        let code = unsafe {
            (self.driver.launch)(
                kernel,
                blocks,
                1,
                1,
                BLOCK_THREADS,
                1,
                1,
                0,
                stream.0,
                parameters.as_mut_ptr(),
                null_mut(),
            )
        };
        Ok(self.driver.check("cuLaunchKernel", code)?)
    }
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy)]
enum Parameter {
    U32(u32),
    U64(u64),
}

impl Parameter {
    fn pointer(&self) -> *mut c_void {
        match self {
            U32(number) => from_ref(number).cast_mut().cast(),
            U64(number) => from_ref(number).cast_mut().cast(),
        }
    }
}

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

    fn memory(bytes: u64) -> Span<'static> {
        Span {
            device: 0,
            address: 4_096,
            bytes,
            owner: PhantomData,
        }
    }

    #[test]
    fn all_of_some_memory_is_lines() {
        let mut lines = Lines::default();
        lines.add_all(memory(0));
        assert!(lines.is_empty());
        lines.add_all(memory(130));
        let expected = [4_096, 64, 4_160, 64, 4_224, 2];
        assert_eq!(lines.table, expected.map(u64::to_le_bytes).as_flattened());
        assert_eq!(lines.count, 3);
    }

    #[test]
    fn lines_outside_their_memory_are_refused() {
        for line in [100..131, 131..131, 0..65, 0..u64::MAX] {
            let add = || Lines::default().add(memory(130), [line.clone()]);
            assert!(std::panic::catch_unwind(add).is_err(), "{line:?}");
        }
        Lines::default().add(memory(130), [0..64, 66..130, 130..130]);
    }
}
