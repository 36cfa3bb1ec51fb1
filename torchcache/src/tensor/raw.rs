//! Tensors as raw memory: their bytes, and the state that distinguishes one from another. And
//! TorchScript modules behind a type parameter.
//!
//! All other modules use tensors through libtorch's checked calls.

#![expect(
    unsafe_code,
    reason = "tensor memory is only reachable through a raw pointer, and so is a module behind a type parameter"
)]

use std::any::TypeId;
use std::ffi::{CStr, c_void};
use std::marker::PhantomData;

use tch::{CModule, Device, Kind, TchError, Tensor, TrainableCModule};
use torchcache_store::schema::ElementKind;

use crate::device::DeviceRows;

/// The bytes of `tensor`, which must be strided, contiguous and on the CPU.
///
/// # Errors
///
/// A tensor that is not, and errors of libtorch.
pub(crate) fn view(tensor: &Tensor) -> Result<&[u8], TchError> {
    let mut state = TensorState::new();
    if state.read(tensor) {
        if let Some(bytes) = state.bytes() {
            return Ok(bytes);
        }
        // A tensor without elements has no memory.
        if state.is_strided() && tensor.device() == Device::Cpu && tensor.numel() == 0 {
            return Ok(&[]);
        }
    }
    Err(TchError::Shape(
        "expected a strided, contiguous CPU tensor".into(),
    ))
}

/// The number of the CUDA device that has the elements of `tensor`, if it is strided and has any.
pub(crate) fn cuda_device(tensor: &Tensor) -> Option<usize> {
    let mut state = TensorState::new();
    let is_strided = state.read(tensor) && state.is_strided() && state.pointer() != 0;
    is_strided.then(|| state.cuda_device()).flatten()
}

/// The rows of `tensor`, its slices along the first dimension, if each is contiguous on a CUDA device and nothing
/// is pending.
pub(crate) fn device_rows(tensor: &Tensor) -> Option<DeviceRows<'_>> {
    let mut state = TensorState::new();
    state.read(tensor).then(|| state.device_rows()).flatten()
}

/// The bytes of `tensor` as one row, if it is contiguous on a CUDA device and nothing is pending.
pub(crate) fn device_bytes(tensor: &Tensor) -> Option<DeviceRows<'_>> {
    let mut state = TensorState::new();
    state.read(tensor).then(|| state.device_bytes()).flatten()
}

/// Has the processor fetch the memory around `bytes[at]`, which is read soon. Does nothing beyond the end,
/// and on processors other than x86-64.
pub(crate) fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the pointer is that of a reference, and each x86-64 processor has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}

/// A new contiguous CPU tensor, all of whose bytes `write` sets.
///
/// # Errors
///
/// Errors of libtorch, such as memory that cannot be allocated.
pub(crate) fn tensor(
    shape: &[i64],
    kind: Kind,
    write: impl FnOnce(&mut [u8]),
) -> Result<Tensor, TchError> {
    written(shape, kind, write).map(|(tensor, ())| tensor)
}

/// As [`tensor`], with what `write` returns.
///
/// # Errors
///
/// As for [`tensor`].
pub(crate) fn written<R>(
    shape: &[i64],
    kind: Kind,
    write: impl FnOnce(&mut [u8]) -> R,
) -> Result<(Tensor, R), TchError> {
    let tensor = Tensor::f_empty(shape, (kind, Device::Cpu))?;
    let result = write_new(&tensor, shape, kind, write)?;
    Ok((tensor, result))
}

/// As [`tensor`], in page-locked memory for copies to and from a CUDA device; `false` where that cannot be had.
///
/// # Errors
///
/// As for [`tensor`].
pub(crate) fn page_locked(
    shape: &[i64],
    kind: Kind,
    device: Device,
    write: impl FnOnce(&mut [u8]),
) -> Result<(Tensor, bool), TchError> {
    let locked = allocate_page_locked(shape, kind, device).ok();
    let is_locked = locked.is_some();
    let tensor = match locked {
        Some(locked) => locked,
        None => Tensor::f_empty(shape, (kind, Device::Cpu))?,
    };
    write_new(&tensor, shape, kind, write)?;
    Ok((tensor, is_locked))
}

/// A new contiguous tensor in page-locked memory.
fn allocate_page_locked(shape: &[i64], kind: Kind, device: Device) -> Result<Tensor, TchError> {
    let length = shape.iter().product::<i64>();
    let tensor = Tensor::f_empty([length], (kind, Device::Cpu))?;
    // tch can only lock a copy. That of a view has memory for all that the view spans, and only the first and the
    // last element are copied.
    let ends = match length {
        0 | 1 => tensor,
        _ => tensor.f_as_strided([2], [length - 1], None)?,
    };
    // Not `f_pin_memory`, which logs that the device is deprecated; without it, it may not be CUDA's.
    let pinned = ends.f_internal_pin_memory(device)?;
    pinned.f_as_strided([length], [1], None)?.f_view(shape)
}

/// Has `write` set all bytes of a contiguous CPU tensor of this shape and kind that was just allocated.
fn write_new<R>(
    tensor: &Tensor,
    shape: &[i64],
    kind: Kind,
    write: impl FnOnce(&mut [u8]) -> R,
) -> Result<R, TchError> {
    let length = shape
        .iter()
        .try_fold(kind.elt_size_in_bytes(), |bytes, &size| {
            bytes.checked_mul(usize::try_from(size).ok()?)
        });
    let too_large = || TchError::Shape(format!("expected fewer elements than {shape:?}"));
    let length = length.ok_or_else(too_large)?;
    if length == 0 {
        return Ok(write(&mut []));
    }
    let pointer = non_null(tensor)?;
    // SAFETY: the callers have just had libtorch allocate the storage. The tensor, or the view that
    // `allocate_page_locked` returns, is contiguous and has as many elements of this size as the shape
    // says, and libtorch checks that the storage has all elements of a view: so it has `length` bytes from
    // `pointer`. No other reference to it exists yet, and no copy to or from it is queued, so the slice is
    // the only access while `write` runs. Foreign code allocated the storage, so the compiler cannot assume that
    // any of it is uninitialised.
    Ok(write(unsafe {
        std::slice::from_raw_parts_mut(pointer, length)
    }))
}

/// Queues a copy of a tensor in page-locked memory to one of its shape on a device, without waiting for it.
/// libtorch does not use that memory again before the copy is done. It takes the tensor, so that nothing writes
/// to it until then.
///
/// # Errors
///
/// Errors of libtorch.
pub(crate) fn queue_copy(to: &Tensor, from: Tensor) -> Result<(), TchError> {
    unsafe extern "C" {
        fn aoti_torch_copy_(
            to: *mut torch_sys::C_tensor,
            from: *mut torch_sys::C_tensor,
            non_blocking: i32,
        ) -> i32;
    }
    // SAFETY: libtorch's C interface takes pointers to its tensors, as `torch_sys` does; these are live, and
    // are not kept. libtorch checks shapes, and returns an error for what it throws.
    let error = unsafe { aoti_torch_copy_(to.as_ptr().cast_mut(), from.as_ptr().cast_mut(), 1) };
    if error == 0 {
        return Ok(());
    }
    // The same copy by a call that returns libtorch's text.
    let copied = to.shallow_clone().f_copy_(&from);
    copied.map_err(|error| {
        let (size, device) = (from.size(), to.device());
        TchError::Torch(format!(
            "a tensor of shape {size:?} could not be copied to {device:?}: {error}"
        ))
    })
}

/// Waits for all work that was queued on a CUDA device.
///
/// # Errors
///
/// Those of the work.
pub(crate) fn synchronize(device: usize) -> Result<(), TchError> {
    // SAFETY: it takes no pointer; libtorch checks the number of the device.
    unsafe { torch_sys::cuda::atc_synchronize(device as i64) };
    take_error().map_or(Ok(()), Err)
}

fn non_null(tensor: &Tensor) -> Result<*mut u8, TchError> {
    let pointer = tensor.data_ptr().cast::<u8>();
    if pointer.is_null() {
        return Err(TchError::Shape("tensor without storage".into()));
    }
    Ok(pointer)
}

/// A module of TorchScript.
#[derive(Debug)]
pub(crate) enum Script<'m> {
    Loaded(&'m CModule),
    Trainable(&'m TrainableCModule),
}

/// `module` as a module of TorchScript, where that is its type.
pub(crate) fn script<M>(module: &M) -> Option<Script<'_>> {
    let pointer = std::ptr::from_ref(module);
    // A `nn::Func` may borrow what it captures.
    let found = typeid::of::<M>();
    if found == TypeId::of::<CModule>() {
        // SAFETY: `M` is `CModule`: a type without lifetimes is the only one with its id, also where
        // lifetimes are erased. The reference lives as long as that to `module`.
        return Some(Script::Loaded(unsafe { &*pointer.cast::<CModule>() }));
    }
    if found == TypeId::of::<TrainableCModule>() {
        // SAFETY: as above.
        let trainable = unsafe { &*pointer.cast::<TrainableCModule>() };
        return Some(Script::Trainable(trainable));
    }
    None
}

/// The shape of a tensor. That of tch panics where libtorch has none, as for nested tensors.
///
/// # Errors
///
/// A tensor that is undefined or has no shape.
pub(crate) fn shape(tensor: &Tensor) -> Result<Vec<i64>, TchError> {
    let raw = tensor.as_ptr().cast_mut();
    // SAFETY: `raw` is the live C++ tensor of `tensor`, which these do not change. `at_shape` writes
    // `at_dim` numbers.
    let shape = unsafe {
        if torch_sys::at_defined(raw) == 0 {
            return Err(TchError::Shape("undefined tensor".into()));
        }
        let mut shape = vec![0; torch_sys::at_dim(raw)];
        torch_sys::at_shape(raw, shape.as_mut_ptr());
        shape
    };
    take_error().map_or(Ok(shape), Err)
}

/// The error that the calls of `torch_sys` on this thread left, which the next fallible call of tch
/// would return as its own.
fn take_error() -> Option<TchError> {
    unsafe extern "C" {
        fn free(pointer: *mut c_void);
    }
    // SAFETY: the pointer is null, or that of a text which libtorch's wrapper allocated with `malloc`,
    // ended with a NUL and gave up. It is freed once, after the last use.
    unsafe {
        let text = torch_sys::get_and_reset_last_err();
        if text.is_null() {
            return None;
        }
        let error = TchError::Torch(CStr::from_ptr(text).to_string_lossy().into_owned());
        free(text.cast());
        Some(error)
    }
}

/// The devices that autocast is set for apart, by libtorch's numbers: the CPU, and CUDA.
const AUTOCAST_DEVICES: [i8; 2] = [0, 1];

// The functions that the wrapper in torch-sys calls. It calls them through others that log a
// deprecation on every call.
unsafe extern "C" {
    #[link_name = "_ZN2at8autocast19is_autocast_enabledEN3c1010DeviceTypeE"]
    fn is_autocast_enabled(device: i8) -> bool;
    #[link_name = "_ZN2at8autocast20set_autocast_enabledEN3c1010DeviceTypeEb"]
    fn set_autocast_enabled(device: i8, enabled: bool);
    #[link_name = "_ZN2at8autocast18get_autocast_dtypeEN3c1010DeviceTypeE"]
    fn get_autocast_dtype(device: i8) -> i8;
}

/// The kind, as libtorch's number, that autocast computes in on each of its devices, if it is on there.
pub(crate) fn autocast_kinds() -> [Option<i8>; 2] {
    // SAFETY: these read settings of this thread, and throw for unknown devices only.
    AUTOCAST_DEVICES
        .map(|device| unsafe { is_autocast_enabled(device).then(|| get_autocast_dtype(device)) })
}

/// Whether this thread records gradients.
pub(crate) fn grad_mode() -> bool {
    // SAFETY: these read and write a setting of this thread, and take no pointer.
    unsafe {
        let enabled = torch_sys::at_grad_set_enabled(0);
        torch_sys::at_grad_set_enabled(enabled);
        enabled != 0
    }
}

/// The settings of libtorch on this thread that closures of tch change while they run: `no_grad`,
/// `with_grad`, `autocast`. These closures do not restore them when a panic unwinds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ThreadSettings {
    grad_mode: bool,
    autocast: [bool; 2],
    autocast_nesting: i32,
}

impl ThreadSettings {
    /// The present settings.
    pub(crate) fn read() -> Self {
        // SAFETY: these read and write settings of this thread, and take no pointer.
        let autocast_nesting = unsafe {
            let _ = torch_sys::at_autocast_increment_nesting();
            torch_sys::at_autocast_decrement_nesting()
        };
        ThreadSettings {
            grad_mode: grad_mode(),
            autocast: autocast_kinds().map(|kind| kind.is_some()),
            autocast_nesting,
        }
    }

    /// Sets them as they were read.
    pub(crate) fn restore(self) {
        let nesting = Self::read().autocast_nesting;
        // SAFETY: as in `read`, and for the devices as in `autocast_kinds`.
        unsafe {
            torch_sys::at_grad_set_enabled(self.grad_mode.into());
            for (device, enabled) in AUTOCAST_DEVICES.into_iter().zip(self.autocast) {
                set_autocast_enabled(device, enabled);
            }
            for _ in self.autocast_nesting..nesting {
                if torch_sys::at_autocast_decrement_nesting() == 0 {
                    torch_sys::at_autocast_clear_cache();
                }
            }
        }
    }
}

/// How often the tensor was written, as far as libtorch counts. Inference tensors have no version; they
/// cannot change outside inference mode either.
pub(crate) fn version(tensor: &Tensor) -> i64 {
    tensor.f_internal_version().unwrap_or(0)
}

/// What distinguishes a tensor from another one, or from itself before a change, except for its
/// elements. Read on every call for every weight, so by libtorch's own getters: those of tch allocate
/// vectors for shapes and strides, and take four times as long.
#[derive(Debug)]
pub(crate) struct TensorState<'t> {
    tensor: PhantomData<&'t Tensor>,
    requires_grad: bool,
    is_strided: bool,
    rank: usize,
    /// Version, data pointer, layout and rank, then shape and strides.
    fields: [i64; HEAD + 2 * RANK],
    /// The fields of a tensor of more dimensions than `RANK`.
    more_fields: Vec<i64>,
}

/// The number of fields before the shape.
const HEAD: usize = 4;

/// Few tensors have more dimensions.
const RANK: usize = 6;

impl<'t> TensorState<'t> {
    /// An empty state, to be [read](Self::read).
    pub(crate) fn new() -> Self {
        TensorState {
            tensor: PhantomData,
            requires_grad: false,
            is_strided: false,
            rank: 0,
            fields: [0; HEAD + 2 * RANK],
            more_fields: Vec::new(),
        }
    }

    /// Reads the state of a tensor; `false` where it is undefined. To be called once: returning a new
    /// state instead would copy it, which takes longer than reading it.
    pub(crate) fn read(&mut self, tensor: &'t Tensor) -> bool {
        let version = version(tensor);
        let raw = tensor.as_ptr().cast_mut();
        // SAFETY: `raw` is the live C++ tensor of `tensor`, and these do not change it. They are the
        // functions that tch's own getters call. `at_shape` and `at_stride` write `at_dim` numbers
        // each, and `fields` holds twice as many after its head.
        let pointer = unsafe {
            if torch_sys::at_defined(raw) == 0 {
                return false;
            }
            let pointer = torch_sys::at_data_ptr(raw);
            self.requires_grad = torch_sys::at_requires_grad(raw) != 0;
            self.rank = torch_sys::at_dim(raw);
            let rank = self.rank;
            let fields = if rank > RANK {
                self.more_fields = vec![0; HEAD + 2 * rank];
                &mut self.more_fields[..]
            } else {
                &mut self.fields
            };
            let pending = torch_sys::c_generated::atg_is_conj(raw)
                | torch_sys::c_generated::atg_is_neg(raw) << 1;
            fields[0] = version;
            fields[1] = pointer as i64;
            fields[2] = layout_field(
                torch_sys::at_scalar_type(raw),
                torch_sys::at_device(raw),
                pending,
            );
            fields[3] = rank as i64;
            torch_sys::at_shape(raw, fields[HEAD..].as_mut_ptr());
            torch_sys::at_stride(raw, fields[HEAD + rank..].as_mut_ptr());
            pointer
        };
        // Only strided tensors have a data pointer, a shape and strides; those of others are zeros, or
        // mean nothing.
        let has_all = take_error().is_none();
        let shape = &self.fields()[HEAD..][..self.rank];
        // On the meta device there is no memory.
        let has_memory = !pointer.is_null() || shape.contains(&0);
        self.is_strided = has_all && (has_memory || is_zero_tensor(tensor));
        true
    }

    /// Whether the tensor is strided memory of a kind with a name in tch.
    pub(crate) fn is_strided(&self) -> bool {
        let kind = (self.fields()[2] >> 32) as u8;
        self.is_strided && ElementKind::from_code(kind).is_some_and(ElementKind::is_of_tensors)
    }

    /// Version, data pointer, layout, rank, shape and strides. The pointer is null where the layout has no
    /// single block of memory.
    pub(crate) fn fields(&self) -> &[i64] {
        match self.rank {
            0..=RANK => &self.fields[..HEAD + 2 * self.rank],
            _ => &self.more_fields,
        }
    }

    /// How often the tensor was written, as far as libtorch counts.
    pub(crate) fn version(&self) -> i64 {
        self.fields()[0]
    }

    /// The data pointer.
    pub(crate) fn pointer(&self) -> i64 {
        self.fields()[1]
    }

    /// Whether kind, device, shape and strides are those of another tensor.
    pub(crate) fn has_layout_of(&self, other: &TensorState<'_>) -> bool {
        self.fields()[2..] == other.fields()[2..]
    }

    pub(crate) fn requires_grad(&self) -> bool {
        self.requires_grad
    }

    pub(crate) fn is_scalar(&self) -> bool {
        self.rank == 0
    }

    /// The number of elements of a slice along the first dimension; of a vector, of all of it.
    pub(crate) fn row_elements(&self) -> usize {
        let shape = &self.fields()[HEAD..][..self.rank];
        let row = if self.rank > 1 { &shape[1..] } else { shape };
        row.iter().product::<i64>() as usize
    }

    /// The extents of the tensor, if it is strided memory of any device and nothing is pending.
    pub(crate) fn extents(&self) -> Option<Extents<'_>> {
        let &[_, pointer, layout, _, ref extents @ ..] = self.fields() else {
            return None;
        };
        let kind = ElementKind::from_code((layout >> 32) as u8)?;
        if !kind.is_of_tensors() {
            return None;
        }
        if pointer == 0 || !self.is_strided || layout & PENDING != 0 {
            return None;
        }
        let (shape, strides) = extents.split_at(self.rank);
        Some(Extents {
            size: kind.size(),
            shape,
            strides,
        })
    }

    /// The elements of the tensor, if they are strided memory of the CPU and nothing is pending.
    pub(crate) fn elements(&self) -> Option<StridedElements<'_>> {
        Some(StridedElements {
            tensor: PhantomData,
            extents: self.extents().filter(|_| self.is_on_cpu())?,
            pointer: self.pointer() as *const u8,
        })
    }

    /// Whether the tensor is on the CPU.
    pub(crate) fn is_on_cpu(&self) -> bool {
        const CPU: i32 = -1;
        self.fields()[2] & DEVICE == layout_field(0, CPU, 0)
    }

    /// The number of the CUDA device that the tensor is on.
    fn cuda_device(&self) -> Option<usize> {
        let device = (self.fields()[2] & DEVICE) >> 8;
        // Of others the number is negative.
        (device as u16 as i16).try_into().ok()
    }

    /// See [`device_rows`].
    fn device_rows(&self) -> Option<DeviceRows<'t>> {
        let (device, extents) = (self.cuda_device()?, self.extents()?);
        let mut dimensions = extents.dimensions();
        let (rows, stride) = dimensions.next()?;
        // The stride of a single row may be any number.
        let stride = if rows > 1 { stride } else { 0 };
        let (elements, _) = extents.without_gaps(dimensions.rev())?;
        let bytes = |elements: i64| elements as u64 * extents.size as u64;
        // SAFETY: the tensor is borrowed since its state was read, so its storage lives as long as the rows. It
        // is strided memory of the device: libtorch checks that the element at every index within the shape is
        // inside the storage, no stride is negative, and those of a row have no gaps.
        Some(unsafe {
            DeviceRows::new(
                device,
                self.pointer() as u64,
                rows as u64,
                bytes(elements as i64),
                bytes(stride),
            )
        })
    }

    /// See [`device_bytes`].
    fn device_bytes(&self) -> Option<DeviceRows<'t>> {
        let (device, extents) = (self.cuda_device()?, self.extents()?);
        let (elements, _) = extents.without_gaps(extents.dimensions().rev())?;
        let bytes = (elements * extents.size) as u64;
        // SAFETY: as in `device_rows`, where the only row is all elements, without gaps.
        Some(unsafe { DeviceRows::new(device, self.pointer() as u64, 1, bytes, bytes) })
    }

    /// Whether it has one dimension.
    pub(crate) fn is_vector(&self) -> bool {
        self.rank == 1
    }

    /// The bytes of the tensor, if it is contiguous on the CPU and nothing is pending.
    pub(crate) fn bytes(&self) -> Option<&'t [u8]> {
        let extents = self.extents()?;
        let (bytes, _) = self.dense(extents.dimensions().rev())?;
        Some(bytes)
    }

    /// The bytes of the tensor in the order of its memory, where that has nothing else and nothing is
    /// pending; and how many of them a row has: a slice along the outermost dimension in memory, or all of
    /// a vector.
    pub(crate) fn memory(&self) -> Option<(&'t [u8], usize)> {
        let extents = self.extents()?;
        let dense = self.dense(extents.dimensions().rev());
        let (bytes, rows) = dense.or_else(|| self.dense(extents.by_stride()))?;
        Some((bytes, bytes.len() / rows.max(1)))
    }

    /// How many elements [`memory`](Self::memory) is, and how many of them a row has, of a tensor on any
    /// device.
    pub(crate) fn dense_elements(&self) -> Option<(usize, usize)> {
        let extents = self.extents()?;
        let (elements, rows) = extents
            .without_gaps(extents.dimensions().rev())
            .or_else(|| extents.without_gaps(extents.by_stride()))?;
        Some((elements, elements / rows.max(1)))
    }

    /// The bytes of the tensor, if the elements of its dimensions, from the innermost one, are on the CPU
    /// without gaps; and the number of rows.
    fn dense(&self, dimensions: impl Iterator<Item = (i64, i64)>) -> Option<(&'t [u8], usize)> {
        let StridedElements {
            pointer, extents, ..
        } = self.elements()?;
        let (elements, rows) = extents.without_gaps(dimensions)?;
        let length = elements * extents.size;
        // SAFETY: the tensor is borrowed since its state was read, so its storage lives as long as the
        // slice. It has a data pointer, which only layouts with one block of memory have, on the
        // CPU; its strides say that its `elements` elements are there without gaps. Foreign code
        // allocated the storage, so the compiler cannot assume that any of it is uninitialised. A
        // concurrent write through an alias would be a race in the caller's own code, as with any
        // read of a tensor; this crate does not write to tensors that it views.
        let bytes = unsafe { std::slice::from_raw_parts(pointer, length) };
        Some((bytes, rows))
    }
}

/// Where the elements of a strided tensor lie in memory, in the order of their indices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extents<'s> {
    /// Of an element, in bytes.
    size: usize,
    shape: &'s [i64],
    strides: &'s [i64],
}

impl<'s> Extents<'s> {
    /// The number of elements.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// The size of an element in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How many elements before this one are in memory, from the data pointer on.
    ///
    /// # Panics
    ///
    /// If there are not more than `index` elements.
    pub(crate) fn offset(&self, index: usize) -> i64 {
        let (mut rest, mut offset) = (index as i64, 0);
        for (&extent, &stride) in self.shape.iter().zip(self.strides).rev() {
            offset += rest % extent * stride;
            rest /= extent;
        }
        assert_eq!(rest, 0, "element {index} of {:?}", self.shape);
        offset
    }

    /// The extent and stride of each dimension.
    fn dimensions(&self) -> impl DoubleEndedIterator<Item = (i64, i64)> + use<'s> {
        self.shape.iter().copied().zip(self.strides.iter().copied())
    }

    /// From the innermost dimension in memory.
    fn by_stride(&self) -> impl Iterator<Item = (i64, i64)> + use<'s> {
        let mut dimensions: Vec<_> = self.dimensions().collect();
        dimensions.sort_by_key(|&(_, stride)| stride);
        dimensions.into_iter()
    }

    /// The number of elements and of rows, if the elements of the dimensions, from the innermost one, lie
    /// without gaps.
    fn without_gaps(&self, dimensions: impl Iterator<Item = (i64, i64)>) -> Option<(usize, usize)> {
        let (mut elements, mut outermost, mut is_vector) = (1, 1, true);
        for (extent, stride) in dimensions.filter(|&(extent, _)| extent != 1) {
            if stride != elements {
                return None;
            }
            is_vector = elements == 1 && (self.shape.len() == 1 || self.shape[0] == 1);
            outermost = extent;
            elements *= extent;
        }
        let rows = if is_vector { 1 } else { outermost as usize };
        Some((elements as usize, rows))
    }
}

/// The elements of a strided tensor in host memory, in the order of their indices.
#[derive(Debug)]
pub(crate) struct StridedElements<'s> {
    tensor: PhantomData<&'s Tensor>,
    pointer: *const u8,
    extents: Extents<'s>,
}

impl<'s> StridedElements<'s> {
    /// The number of elements.
    pub(crate) fn count(&self) -> usize {
        self.extents.count()
    }

    /// The size of an element in bytes.
    pub(crate) fn size(&self) -> usize {
        self.extents.size
    }

    /// The bytes of one element.
    ///
    /// # Panics
    ///
    /// If there are not more than `index` elements.
    pub(crate) fn get(&self, index: usize) -> &'s [u8] {
        let (offset, size) = (self.extents.offset(index), self.size());
        // SAFETY: the tensor is borrowed since its state was read, so its storage lives as long as the
        // slice. It is strided memory of the CPU: libtorch checks that the element at every index
        // within the shape, `offset` elements from the data pointer, is inside the storage, and no
        // stride is negative. For the absence of writes see `TensorState::bytes`.
        unsafe {
            let start = self.pointer.add(offset as usize * size);
            std::slice::from_raw_parts(start, size)
        }
    }
}

/// Whether the tensor is zeros without memory, as automatic differentiation makes them.
fn is_zero_tensor(tensor: &Tensor) -> bool {
    tensor.f_internal_is_zerotensor().unwrap_or(false)
}

/// Kind, device, and a pending conjugation (1) or negation (2), with which the bytes are not the
/// values.
fn layout_field(kind: i32, device: i32, pending: i32) -> i64 {
    i64::from(kind) << 32 | i64::from(device as u16) << 8 | i64::from(pending)
}

/// The bits of the device in a layout.
const DEVICE: i64 = 0xffff << 8;

/// The bits of what is pending.
const PENDING: i64 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;

    fn state(tensor: &Tensor) -> TensorState<'_> {
        let mut state = TensorState::new();
        assert!(state.read(tensor));
        state
    }

    #[test]
    fn only_torchscript_modules_are_scripts() {
        let mut double = |inputs: &[Tensor]| vec![&inputs[0] * 2.0];
        let example = [Tensor::zeros([1, 2], tch::kind::FLOAT_CPU)];
        let traced = CModule::create_by_tracing("M", "forward", &example, &mut double).unwrap();
        let Some(Script::Loaded(found)) = script(&traced) else {
            panic!("a CModule");
        };
        assert!(std::ptr::eq(found, &traced));
        let factor = 2.0f64;
        let borrowing = tch::nn::func(|xs| xs * factor);
        assert!(script(&borrowing).is_none());
        assert!(script(&&traced).is_none(), "a reference is another type");
    }

    #[test]
    fn a_view_is_the_bytes_of_the_elements() {
        let tensor = Tensor::from_slice(&[1i32, -1]);
        assert_eq!(view(&tensor).unwrap(), [1, 0, 0, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn written_bytes_become_elements() {
        let write = |bytes: &mut [u8]| bytes.copy_from_slice(&[0, 0, 0, 0, 7, 0, 0, 0]);
        let made = tensor(&[2], Kind::Int, write).unwrap();
        assert_eq!(Vec::<i32>::try_from(&made).unwrap(), [0, 7]);
    }

    #[test]
    fn empty_tensors_have_no_bytes() {
        let none = tensor(&[0, 3], Kind::Float, |bytes| assert!(bytes.is_empty())).unwrap();
        assert_eq!(none.size(), [0, 3]);
        assert!(view(&none).unwrap().is_empty());
    }

    #[test]
    fn strided_tensors_are_refused() {
        let tensor = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU).tr();
        assert!(view(&tensor).is_err());
    }

    #[test]
    fn only_contiguous_values_have_bytes() {
        let tensor = Tensor::from_slice(&[1i16, 2, 3, 4]).view([2, 2]);
        assert_eq!(state(&tensor).bytes(), Some(view(&tensor).unwrap()));
        let second = tensor.narrow(0, 1, 1);
        assert_eq!(state(&second).bytes(), Some([3, 0, 4, 0].as_slice()));
        assert_eq!(state(&tensor.tr()).bytes(), None);
        assert_eq!(
            state(&Tensor::zeros([0], tch::kind::FLOAT_CPU)).bytes(),
            None
        );
        let complex = Tensor::complex(&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[2f32]));
        assert!(state(&complex).bytes().is_some());
        assert_eq!(state(&complex.conj()).bytes(), None);
        assert_eq!(state(&complex.conj().imag()).bytes(), None);
    }

    #[test]
    fn the_memory_of_a_tensor_has_its_rows() {
        let tensor = Tensor::arange(24, (Kind::Int64, Device::Cpu)).view([2, 3, 4]);
        let all = view(&tensor).unwrap();
        let rows = |tensor: &Tensor| {
            let state = state(tensor);
            let (bytes, row_bytes) = state.memory()?;
            assert_eq!(bytes, all, "{tensor:?}");
            Some(row_bytes / 8)
        };
        assert_eq!(rows(&tensor), Some(12));
        assert_eq!(rows(&tensor.permute([2, 0, 1])), Some(12));
        assert_eq!(rows(&tensor.unsqueeze(0)), Some(12));
        assert_eq!(rows(&tensor.view([24])), Some(24));
        assert_eq!(rows(&tensor.view([1, 24])), Some(24));
        assert_eq!(rows(&tensor.view([24, 1])), Some(1));
        assert_eq!(rows(&tensor.view([1, 6, 4])), Some(4));
        let gaps = [
            tensor.narrow(2, 1, 2),
            tensor.select(1, 2),
            tensor.narrow(1, 0, 1).expand([2, 3, 4], false),
        ];
        assert!(gaps.iter().all(|tensor| rows(tensor).is_none()));
    }

    #[test]
    fn elements_are_found_through_their_strides() {
        let tensor = Tensor::arange(24, (Kind::Int64, Device::Cpu)).view([2, 3, 4]);
        for tensor in [
            tensor.shallow_clone(),
            tensor.permute([2, 0, 1]),
            tensor.narrow(2, 1, 2),
            tensor.select(1, 2),
            tensor.narrow(1, 0, 1).expand([2, 5, 4], false),
        ] {
            let state = state(&tensor);
            let elements = state.elements().unwrap();
            let expected = Vec::<i64>::try_from(tensor.contiguous().view(-1)).unwrap();
            let found = (0..elements.count()).map(|at| elements.get(at).try_into().unwrap());
            assert_eq!(found.map(i64::from_le_bytes).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn the_state_of_a_sparse_tensor_leaves_no_error() {
        let sparse = Tensor::eye(3, tch::kind::FLOAT_CPU).to_sparse(None, None::<i64>, None);
        let state = state(&sparse);
        assert!(state.bytes().is_none());
        assert!(
            Tensor::zeros([1], tch::kind::FLOAT_CPU)
                .f_add_scalar(1)
                .is_ok()
        );
    }

    #[test]
    fn an_undefined_tensor_has_no_state() {
        assert!(!TensorState::new().read(&Tensor::new()));
    }

    #[test]
    fn nested_tensors_have_a_state_but_no_shape() {
        let rows = |values: &[i64]| Tensor::from_slice(values).view([2, 2]);
        let (sizes, strides) = (rows(&[1, 2, 3, 2]), rows(&[2, 1, 2, 1]));
        let offsets = Tensor::from_slice(&[0i64, 2]);
        let elements = Tensor::zeros([8], tch::kind::FLOAT_CPU);
        let nested = elements.internal_nested_view_from_buffer(&sizes, &strides, &offsets);
        assert!(!state(&nested).is_strided() && state(&nested).bytes().is_none());
        assert!(shape(&nested).is_err() && shape(&Tensor::new()).is_err());
        assert_eq!(shape(&sizes).unwrap(), [2, 2]);
        assert!(take_error().is_none());
    }

    #[test]
    fn autocast_is_read_for_each_device() {
        let before = ThreadSettings::read();
        assert_eq!(autocast_kinds(), [None, None]);
        // SAFETY: the CPU is a device of autocast.
        unsafe { set_autocast_enabled(0, true) };
        let ones = Tensor::ones([2, 2], tch::kind::FLOAT_CPU);
        let kind = ones.matmul(&ones).f_kind().unwrap();
        assert_eq!(
            autocast_kinds(),
            [Some(ElementKind::BFloat16.code() as i8), None]
        );
        assert_eq!(kind, Kind::BFloat16);
        before.restore();
        assert_eq!(ThreadSettings::read(), before);
        assert_eq!(ones.matmul(&ones).f_kind().unwrap(), Kind::Float);
    }

    #[test]
    fn the_state_covers_many_dimensions() {
        let fields = |tensor: &Tensor| state(tensor).fields().to_vec();
        let tensor = Tensor::zeros([1, 1, 1, 1, 1, 1, 1, 2, 3], tch::kind::FLOAT_CPU);
        assert_eq!(fields(&tensor).len(), 4 + 2 * 9);
        assert_ne!(fields(&tensor), fields(&tensor.transpose(7, 8)));
        assert_eq!(state(&tensor).bytes().map(<[u8]>::len), Some(24));
    }
}
