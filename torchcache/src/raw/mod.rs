//! What is reached through raw pointers: the memory of tensors, what tells them apart, and the rows
//! of the memory tier. The one file of this crate with `unsafe`.
//!
//! Everything else handles tensors through libtorch's own checked calls.

#![expect(
    unsafe_code,
    reason = "tensor memory is only reachable through a raw pointer, and rows of the memory tier \
              are shared one by one"
)]

use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use memmap2::{MmapMut, MmapRaw};
use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::RowValues;
use torchcache_store::schema::ElementKind;

use crate::plain;

/// The bytes of `tensor`, which must be a plain contiguous CPU tensor.
///
/// # Errors
///
/// A tensor that is not plain, contiguous and on the CPU, and whatever libtorch says.
pub(crate) fn view(tensor: &Tensor) -> Result<&[u8], TchError> {
    let mut glance = Glance::none();
    if glance.at(tensor) {
        if let Some(bytes) = glance.bytes() {
            return Ok(bytes);
        }
        // Without elements there is no memory to point to.
        if tensor.numel() == 0 && tensor.device() == Device::Cpu && plain::is_plain(tensor) {
            return Ok(&[]);
        }
    }
    Err(TchError::Shape(
        "expected a plain contiguous CPU tensor".into(),
    ))
}

/// A new contiguous CPU tensor whose bytes `write` gives: all of them.
///
/// # Errors
///
/// Whatever libtorch says, memory that cannot be had above all.
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
    let elements = shape.iter().product::<i64>() as usize;
    let length = elements * kind.elt_size_in_bytes();
    let result = if length == 0 {
        write(&mut [])
    } else {
        let pointer = non_null(&tensor)?;
        // SAFETY: libtorch has just made the tensor, contiguous and with as many elements of this
        // size as the shape says (a product that overflows is refused by it), so `length` bytes
        // from `pointer` are its storage. Nobody else knows it yet, so the slice is the only access
        // while `write` runs. The storage was allocated by foreign code, so that the compiler cannot take
        // any of it for uninitialised.
        write(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
    };
    Ok((tensor, result))
}

fn non_null(tensor: &Tensor) -> Result<*mut u8, TchError> {
    let pointer = tensor.data_ptr().cast::<u8>();
    if pointer.is_null() {
        return Err(TchError::Shape("tensor without storage".into()));
    }
    Ok(pointer)
}

/// What tells a tensor from another one, or from itself before it was changed, short of its
/// elements. Taken on every call for every weight, so by libtorch's plain getters: tch's own put
/// shapes and strides into vectors, and take four times as long.
#[derive(Debug)]
pub(crate) struct Glance<'t> {
    tensor: PhantomData<&'t Tensor>,
    requires_grad: bool,
    rank: usize,
    /// Version, data pointer, layout and rank, then shape and strides.
    words: [i64; HEAD + 2 * RANK],
    /// The words of a tensor of more dimensions.
    more: Vec<i64>,
}

/// The words before the shape.
const HEAD: usize = 4;

/// Tensors seldom have more dimensions.
const RANK: usize = 6;

impl<'t> Glance<'t> {
    /// Nothing looked at yet.
    pub(crate) fn none() -> Self {
        Glance {
            tensor: PhantomData,
            requires_grad: false,
            rank: 0,
            words: [0; HEAD + 2 * RANK],
            more: Vec::new(),
        }
    }

    /// Looks at a tensor; `false` where it is undefined. Once for each glance: handing one out
    /// instead would copy what was just written, which takes longer than to write it.
    pub(crate) fn at(&mut self, tensor: &'t Tensor) -> bool {
        // Inference tensors keep no version: they cannot change outside inference mode either.
        let version = tensor.f_internal_version().unwrap_or(0);
        let raw = tensor.as_ptr().cast_mut();
        // SAFETY: `raw` is the live C++ tensor of `tensor`, and this does not change it. It is the
        // function that tch's own getter calls.
        let pointer = unsafe { torch_sys::at_data_ptr(raw) };
        if pointer.is_null() {
            // Asking a layout without one block of memory left an error, which the next fallible
            // call would take for its own.
            let _ = tensor.f_internal_version();
            if !tensor.defined() {
                return false;
            }
        }
        // SAFETY: as above. `at_shape` and `at_stride` write `at_dim` numbers each, for which there
        // is room.
        unsafe {
            self.requires_grad = torch_sys::at_requires_grad(raw) != 0;
            self.rank = torch_sys::at_dim(raw);
            let rank = self.rank;
            let words = if rank > RANK {
                self.more = vec![0; HEAD + 2 * rank];
                &mut self.more[..]
            } else {
                &mut self.words
            };
            let pending = torch_sys::c_generated::atg_is_conj(raw)
                | torch_sys::c_generated::atg_is_neg(raw) << 1;
            words[0] = version;
            words[1] = pointer as i64;
            words[2] = layout(
                torch_sys::at_scalar_type(raw),
                torch_sys::at_device(raw),
                pending,
            );
            words[3] = rank as i64;
            torch_sys::at_shape(raw, words[HEAD..].as_mut_ptr());
            if !pointer.is_null() {
                torch_sys::at_stride(raw, words[HEAD + rank..].as_mut_ptr());
            }
        }
        true
    }

    /// Everything but whether it requires grad, as numbers. The data pointer is null, and strides
    /// are zeros, where the layout has no one block of memory.
    pub(crate) fn words(&self) -> &[i64] {
        match self.rank {
            0..=RANK => &self.words[..HEAD + 2 * self.rank],
            _ => &self.more,
        }
    }

    /// Where the data is.
    pub(crate) fn pointer(&self) -> i64 {
        self.words()[1]
    }

    pub(crate) fn requires_grad(&self) -> bool {
        self.requires_grad
    }

    pub(crate) fn is_scalar(&self) -> bool {
        self.rank == 0
    }

    /// The bytes of the tensor, if they are its values, one after the other in memory of the CPU.
    pub(crate) fn bytes(&self) -> Option<&'t [u8]> {
        const CPU: i32 = -1;
        let &[_, pointer, here, _, ref extents @ ..] = self.words() else {
            return None;
        };
        let kind = ElementKind::of_code((here >> 32) as u8)?;
        if pointer == 0 || here != layout((here >> 32) as i32, CPU, 0) {
            return None;
        }
        let (shape, strides) = extents.split_at(self.rank);
        let mut elements = 1;
        for (&extent, &stride) in shape.iter().zip(strides).rev() {
            if extent != 1 && stride != elements {
                return None;
            }
            elements *= extent;
        }
        let length = elements as usize * kind.size();
        // SAFETY: the tensor is borrowed since it was glanced at, so its storage is alive for as long
        // as the slice. It has a data pointer, which only layouts of one block of memory have, on the
        // CPU; its strides say that its `elements` elements lie there without a gap. The storage was
        // allocated by foreign code, so that the compiler cannot take any of it for uninitialised. A
        // concurrent write by another thread through an alias would be a race in the caller's own
        // code, as with any read of a tensor; this crate does not write to what it views.
        Some(unsafe { std::slice::from_raw_parts(pointer as *const u8, length) })
    }
}

/// Kind, device, and pending conjugation (1) or negation (2): then the bytes are not the values.
fn layout(kind: i32, device: i32, pending: i32) -> i64 {
    i64::from(kind) << 32 | i64::from(device as u16) << 8 | i64::from(pending)
}

/// Rows of one length in memory of their own, between threads that fill, read and empty them.
///
/// No lock guards a row; the state of its slot does. It is empty, or one thread is filling it, or
/// it is full and any number of [`Pins`] hold it as it is. What the state does not allow is refused
/// and not waited for, so nobody is ever held up.
pub(crate) struct Shelf {
    memory: MmapRaw,
    row_bytes: usize,
    states: Box<[AtomicU32]>,
}

const EMPTY: u32 = 0;
/// Each pin adds one.
const FULL: u32 = 1;
const FILLING: u32 = u32::MAX;

/// From this size on, a shelf asks for huge pages: as many faults fewer when it is filled.
const HUGE_PAGE: usize = 2 << 20;

impl Shelf {
    /// Room for `rows` rows. The system gives memory to those that are filled.
    ///
    /// # Errors
    ///
    /// Address space that cannot be had.
    pub(crate) fn new(rows: usize, row_bytes: usize) -> io::Result<Self> {
        let length = rows.checked_mul(row_bytes).ok_or(ErrorKind::OutOfMemory)?;
        let memory = MmapMut::map_anon(length.max(1))?;
        #[cfg(target_os = "linux")]
        if length >= HUGE_PAGE {
            // Without them it works as well.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(Shelf {
            memory: memory.into(),
            row_bytes,
            states: (0..rows).map(|_| AtomicU32::new(EMPTY)).collect(),
        })
    }

    /// Has the system give memory to empty rows before they are filled, which is most of what filling
    /// them would take. What they hold by then stays.
    pub(crate) fn populate(&self, rows: Range<usize>) {
        let length = rows.len() * self.row_bytes;
        #[cfg(target_os = "linux")]
        if length > 0 {
            // A kernel before 5.14 does not know how: then filling does it.
            let begin = rows.start * self.row_bytes;
            let how = memmap2::Advice::PopulateWrite;
            let _ = self.memory.advise_range(how, begin, length);
        }
    }

    /// How many rows there is room for.
    pub(crate) fn rows(&self) -> usize {
        self.states.len()
    }

    /// How many bytes a row has.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Copies a row into an empty slot; `false` where the slot is not empty.
    pub(crate) fn fill(&self, slot: usize, row: &[u8]) -> bool {
        assert_eq!(row.len(), self.row_bytes, "a row of another shelf");
        let state = &self.states[slot];
        if state
            .compare_exchange(EMPTY, FILLING, Acquire, Relaxed)
            .is_err()
        {
            return false;
        }
        // SAFETY: the slot lies within the mapping, which was made for `states.len()` rows. Its
        // state was just taken from empty to filling, which one thread can do; until it is full,
        // nobody else reads or writes these bytes. The source does not overlap: `Pins` give out
        // full slots only, and this one is being filled.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), self.slot(slot), row.len()) };
        state.store(FULL, Release);
        true
    }

    /// Lets the slot be filled anew; `false` while somebody fills or pins it.
    pub(crate) fn empty(&self, slot: usize) -> bool {
        match self.states[slot].compare_exchange(FULL, EMPTY, AcqRel, Relaxed) {
            Ok(_) => true,
            Err(state) => state == EMPTY,
        }
    }

    /// Whether somebody fills or pins the slot.
    pub(crate) fn is_pinned(&self, slot: usize) -> bool {
        !matches!(self.states[slot].load(Relaxed), EMPTY | FULL)
    }

    fn pin(&self, slot: usize) -> bool {
        let more = |state: u32| (FULL..FILLING - 1).contains(&state).then(|| state + 1);
        self.states[slot]
            .fetch_update(Acquire, Relaxed, more)
            .is_ok()
    }

    fn unpin(&self, slot: usize) {
        self.states[slot].fetch_sub(1, Release);
    }

    fn slot(&self, slot: usize) -> *mut u8 {
        self.memory.as_mut_ptr().wrapping_add(slot * self.row_bytes)
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("rows", &self.rows())
            .field("row_bytes", &self.row_bytes)
            .finish_non_exhaustive()
    }
}

/// Rows on shelves that stay as they are for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    shelves: Vec<Arc<Shelf>>,
    /// Which of them, and the slot there.
    rows: Vec<(u32, u32)>,
}

impl Pins {
    /// Pins a row beside the others; `false` where the slot holds none.
    pub(crate) fn add(&mut self, shelf: &Arc<Shelf>, slot: u32) -> bool {
        if !shelf.pin(slot as usize) {
            return false;
        }
        // There are few shelves, and the last one is likely the same.
        let known = self.shelves.iter().rposition(|it| Arc::ptr_eq(it, shelf));
        let number = known.unwrap_or_else(|| {
            self.shelves.push(shelf.clone());
            self.shelves.len() - 1
        });
        self.rows.push((number as u32, slot));
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

impl RowValues for Pins {
    fn row(&self, row: usize) -> &[u8] {
        let (shelf, slot) = self.rows[row];
        let shelf = &self.shelves[shelf as usize];
        // SAFETY: the slot lies within the mapping, which `shelf` keeps. It was full when it was
        // pinned, and a pinned slot is neither emptied nor filled, so these bytes are initialised
        // and do not change until `self`, which the slice borrows from, is dropped.
        unsafe { std::slice::from_raw_parts(shelf.slot(slot as usize), shelf.row_bytes) }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for &(shelf, slot) in &self.rows {
            self.shelves[shelf as usize].unpin(slot as usize);
        }
    }
}

#[cfg(test)]
mod tests;
