//! Whether each register is written before it is read, whichever way the branches go.

use crate::instruction::{Instruction, Operation, Slot};

/// A set of slots.
#[derive(Clone, PartialEq)]
struct Slots {
    bits: Vec<u64>,
}

impl Slots {
    fn contains(&self, slot: Slot) -> bool {
        self.bits[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    fn insert(&mut self, slot: Slot) {
        self.bits[slot as usize / 64] |= 1 << (slot % 64);
    }

    /// Keeps what both have; whether there was more.
    fn intersect(&mut self, other: &Self) -> bool {
        let mut has_shrunk = false;
        for (bits, other) in self.bits.iter_mut().zip(&other.bits) {
            has_shrunk |= *bits & !other != 0;
            *bits &= other;
        }
        has_shrunk
    }
}

/// The first instruction that may read one of the slots `registers` before it is written.
pub(crate) fn first_undefined(
    instructions: &[Instruction],
    slots: usize,
    registers: impl Iterator<Item = Slot>,
) -> Option<usize> {
    let mut initial = Slots {
        bits: vec![u64::MAX; slots.div_ceil(64)],
    };
    for slot in registers {
        initial.bits[slot as usize / 64] &= !(1 << (slot % 64));
    }
    // What is written on every way to each instruction; `None` where no way was followed yet.
    let mut before: Vec<Option<Slots>> = vec![None; instructions.len()];
    let mut pending = vec![(0, initial)];
    while let Some((mut at, mut written)) = pending.pop() {
        loop {
            let is_news = match &mut before[at] {
                Some(known) => {
                    let has_shrunk = known.intersect(&written);
                    written.clone_from(known);
                    has_shrunk
                }
                unknown => {
                    *unknown = Some(written.clone());
                    true
                }
            };
            if !is_news {
                break;
            }
            let Instruction { guard, operation } = &instructions[at];
            if guard.is_none() {
                operation
                    .targets()
                    .into_iter()
                    .for_each(|slot| written.insert(slot));
            }
            if let Operation::Branch { target } = *operation {
                pending.push((target, written.clone()));
            }
            let is_end = matches!(operation, Operation::Branch { .. } | Operation::Return);
            if is_end && guard.is_none() {
                break;
            }
            at += 1;
        }
    }
    before
        .iter()
        .zip(instructions)
        .position(|(written, instruction)| {
            let guard = instruction.guard.map(|guard| guard.predicate);
            let mut sources = instruction.operation.sources().into_iter().chain(guard);
            written
                .as_ref()
                .is_some_and(|written| sources.any(|slot| !written.contains(slot)))
        })
}
