//! [`DeviceArena`]: slots for the rows of the memory tier on a device, copied without the tier's lock.

use std::sync::{Arc, Mutex};

use tch::{Device, Kind, TchError, Tensor};
use torchcache_store::events::Deferring;

use super::slots::{Pins, SlotStates, Slots};
use crate::device::{self, Stream};
use crate::sync::lock;
use crate::tensor::raw;
use crate::tensor::rows::RowCopies;

/// Slots for rows of one length, in a tensor.
///
/// The device does what is queued on one stream in order. So a slot is full as soon as the copy of its row
/// is queued, and a pin of it may end as soon as all reads are.
#[derive(Debug)]
pub(crate) struct DeviceArena {
    /// `[rows, row_bytes]`. In a lock since a `Tensor` is not `Sync`.
    rows: Mutex<Tensor>,
    states: SlotStates,
    /// The stream on which libtorch uses the memory again once it is freed. `None` if unknown.
    stream: Option<Stream>,
    order: Arc<StreamOrder>,
}

impl DeviceArena {
    /// Allocates slots for `rows` rows.
    ///
    /// # Errors
    ///
    /// No memory on the device.
    pub(super) fn new(
        rows: u32,
        row_bytes: usize,
        order: Arc<StreamOrder>,
    ) -> Result<Self, TchError> {
        // Tests use Vulkan as a device whose rows are on the CPU.
        let device = match order.device {
            Device::Vulkan if cfg!(test) => Device::Cpu,
            device => device,
        };
        let shape = [i64::from(rows), row_bytes as i64];
        // What used the memory before may not be done, on this stream or on an unknown one.
        let allocate = || Tensor::f_empty(shape, (Kind::Uint8, device));
        let memory = order.in_order(allocate)?;
        Ok(DeviceArena {
            rows: Mutex::new(memory),
            states: SlotStates::new(rows as usize),
            stream: order.current_stream(),
            order,
        })
    }

    /// The rows of all slots.
    pub(crate) fn tensor(&self) -> Tensor {
        lock(&self.rows).shallow_clone()
    }

    pub(crate) fn order(&self) -> &Arc<StreamOrder> {
        &self.order
    }

    /// Marks a slot as full: a copy to it was queued. `false` where it is not empty.
    pub(crate) fn mark_full(&self, slot: usize) -> bool {
        let is_empty = self.states.begin_filling(slot);
        if is_empty {
            self.states.end_filling(slot);
        }
        is_empty
    }
}

impl Drop for DeviceArena {
    fn drop(&mut self) {
        self.order.end_use(self.stream);
    }
}

impl Slots for DeviceArena {
    fn states(&self) -> &SlotStates {
        &self.states
    }
}

/// Rows on a device that are neither emptied nor overwritten until this is dropped.
pub(crate) type PinnedDeviceRows = Pins<DeviceArena>;

impl PinnedDeviceRows {
    /// The order of copies of these rows, all of which are on one device. `None` without a row.
    pub(crate) fn order(&self) -> Option<&Arc<StreamOrder>> {
        self.chunks().first().map(|chunk| chunk.order())
    }

    /// Whether the rows are on this device.
    pub(crate) fn is_on(&self, device: Device) -> bool {
        self.order().is_some_and(|order| order.device == device)
    }

    /// Adds copies of rows to places in `to`, to be queued in their [order](Self::order) while these are pinned.
    pub(crate) fn copy_to(
        &self,
        copies: &mut RowCopies,
        to: &Tensor,
        places: impl IntoIterator<Item = (usize, i64)>,
    ) {
        let mut by_chunk = vec![(Vec::new(), Vec::new()); self.chunks().len()];
        for (row, place) in places {
            let (chunk, slot) = self.place(row);
            by_chunk[chunk].0.push(slot as i64);
            by_chunk[chunk].1.push(place);
        }
        for (chunk, (slots, places)) in self.chunks().iter().zip(by_chunk) {
            copies.add((&chunk.tensor(), slots), (to, places));
        }
    }

    /// A copy of the rows, on their device.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated.
    pub(crate) fn copy(&self) -> Result<Tensor, TchError> {
        let first = self.chunks().first();
        let first = first.ok_or_else(|| TchError::Shape("expected rows on a device".into()))?;
        let rows = first.tensor();
        let shape = [self.len() as i64, rows.size()[1]];
        let copy = Tensor::f_empty(shape, (Kind::Uint8, rows.device()))?;
        let mut copies = RowCopies::default();
        self.copy_to(&mut copies, &copy, (0..self.len()).zip(0..));
        first.order.queue(copies)?;
        Ok(copy)
    }
}

/// Queues the copies of a tier's rows on one device, so that they are done in order.
///
/// Those that are queued on one stream are. A program that changes the current stream of a thread, which tch
/// cannot, queues them on several: before the first one on another stream, or on an unknown one, all others are done.
/// Streams are compared by their handles: one that the program destroys may have that of a later one, so that its work
/// must be done before.
#[derive(Debug)]
pub(crate) struct StreamOrder {
    device: Device,
    /// The work that may not be done yet. Locked while work is queued.
    last: Mutex<Option<QueuedWork>>,
}

#[derive(Debug)]
struct QueuedWork {
    /// `None` if unknown.
    stream: Option<Stream>,
}

impl StreamOrder {
    pub(super) fn new(device: Device) -> Self {
        StreamOrder {
            device,
            last: Mutex::new(None),
        }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Queues copies on the current stream, after the work of earlier calls.
    ///
    /// # Errors
    ///
    /// Memory that cannot be allocated, and errors of earlier work on another stream.
    pub(crate) fn queue(&self, copies: RowCopies) -> Result<(), TchError> {
        copies.queue_by(|queue| self.in_order(queue))
    }

    /// Has `queue` queue work on the current stream, after the work of earlier calls.
    ///
    /// # Errors
    ///
    /// Those of `queue`, and of earlier work on another stream.
    fn in_order<R>(&self, queue: impl FnOnce() -> Result<R, TchError>) -> Result<R, TchError> {
        let current = self.current_stream();
        let mut last = Deferring::new(lock(&self.last));
        self.finish(&mut last, current)?;
        *last = Some(QueuedWork { stream: current });
        queue()
    }

    /// Waits for work on another stream than the one on which libtorch uses memory again that is freed next.
    fn end_use(&self, freed_on: Option<Stream>) {
        // Where it fails, so does each later use of the device.
        let _ = self.finish(&mut lock(&self.last), freed_on);
    }

    /// Waits for work that may not be done before what is queued on `next`.
    fn finish(&self, last: &mut Option<QueuedWork>, next: Option<Stream>) -> Result<(), TchError> {
        let is_in_order = |last: &QueuedWork| last.stream.is_some() && last.stream == next;
        if last.as_ref().is_some_and(|last| !is_in_order(last)) {
            self.synchronize()?;
            *last = None;
        }
        Ok(())
    }

    fn current_stream(&self) -> Option<Stream> {
        match self.device {
            Device::Cuda(index) => device::current_stream(index),
            _ => None,
        }
    }

    fn synchronize(&self) -> Result<(), TchError> {
        match self.device {
            Device::Cuda(index) => raw::synchronize(index),
            _ => Ok(()),
        }
    }
}
