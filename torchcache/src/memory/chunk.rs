//! A chunk of a slab, and the slots in it.

use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use crate::keys::Key;
use crate::raw::Shelf;

/// Where a row lies. Once its chunk is dropped it means nothing, whatever takes that chunk's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Where its chunk is among all.
    pub(super) place: u32,
    /// The number of its chunk.
    pub(super) chunk: u32,
    /// The number of its row in the chunk.
    pub(super) index: u32,
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) number: u32,
    pub(super) slab: u32,
    pub(super) rows: Rows,
    /// The key of each occupied slot.
    pub(super) keys: Vec<Option<Key>>,
    /// Rows, counted from the first, that have memory or soon will.
    pub(super) populated: usize,
    /// Slots that were taken and not given back.
    pub(super) taken: usize,
}

/// The rows of a chunk.
#[derive(Debug)]
pub(super) enum Rows {
    Host(Arc<Shelf>),
    Device(Tensor),
}

impl Rows {
    pub(super) fn new(rows: u32, row_bytes: usize, device: Device) -> Result<Self, TchError> {
        if device == Device::Cpu {
            return Ok(Rows::Host(Arc::new(Shelf::new(rows as usize, row_bytes)?)));
        }
        // Tests have rows of a device wherever they run.
        let lies = match device {
            Device::Vulkan if cfg!(test) => Device::Cpu,
            device => device,
        };
        let shape = [i64::from(rows), row_bytes as i64];
        Tensor::f_empty(shape, (Kind::Uint8, lies)).map(Rows::Device)
    }
}

/// The rows of the slots at the positions in `group`, as libtorch wants them.
pub(super) fn index(slots: &[Slot], group: &[i64]) -> Tensor {
    let rows: Vec<i64> = group
        .iter()
        .map(|&slot| i64::from(slots[slot as usize].index))
        .collect();
    Tensor::from_slice(&rows)
}

/// The positions of `slots`, grouped by the chunk they are in.
pub(super) fn by_chunk(slots: &[Slot]) -> Vec<(u32, Vec<i64>)> {
    let mut groups: Vec<(u32, Vec<i64>)> = Vec::new();
    for (position, slot) in slots.iter().enumerate() {
        match groups.iter_mut().find(|(chunk, _)| *chunk == slot.chunk) {
            Some((_, group)) => group.push(position as i64),
            None => groups.push((slot.chunk, vec![position as i64])),
        }
    }
    groups
}
