//! Runs a kernel.

use std::ops::Range;

use crate::error::{Error, Fault};
use crate::global::GlobalAccesses;
use crate::instruction::{Access, Binary, Comparison, Operation, Slot, Space, Width};
use crate::kernel::{Grid, Kernel};
use crate::memory::{Denied, Memory};
use crate::shared::SharedMemory;

/// Instructions of a thread between two barriers: a chunk of BLAKE3 takes some ten thousand.
const MOST_INSTRUCTIONS: u32 = 1 << 26;

impl Kernel {
    /// Runs all blocks. After an error, `memory` has what was written before it.
    ///
    /// # Errors
    ///
    /// [`Error::Launch`] if the grid or the number or sizes of `parameters` do not fit, and [`Error::Fault`] if a
    /// thread does what is undefined or depends on the order of threads.
    pub fn run(
        &self,
        grid: Grid,
        parameters: &[u64],
        memory: &mut impl Memory,
    ) -> Result<(), Error> {
        self.run_blocks(grid, 0..grid.blocks, parameters, memory)
    }

    /// Runs some blocks of a launch that may be too large to be run as a whole.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn run_blocks(
        &self,
        grid: Grid,
        blocks: Range<u32>,
        parameters: &[u64],
        memory: &mut impl Memory,
    ) -> Result<(), Error> {
        let mut initial = self.initial(grid, parameters)?;
        let mut slots = Vec::new();
        let mut accesses = GlobalAccesses::default();
        for index in blocks.start..blocks.end.min(grid.blocks) {
            initial[self.special.block as usize] = index.into();
            slots.clear();
            for thread in 0..grid.threads {
                initial[self.special.thread as usize] = thread.into();
                slots.extend_from_slice(&initial);
            }
            let block = Block {
                kernel: self,
                index,
                shared: SharedMemory::new(self.shared_bytes),
                accesses: &mut accesses,
                memory: &mut *memory,
            };
            block.run(&mut slots, initial.len())?;
        }
        Ok(())
    }

    /// What all threads of a launch start with.
    fn initial(&self, grid: Grid, parameters: &[u64]) -> Result<Vec<u64>, Error> {
        let refuse = |problem| {
            Err(Error::Launch {
                kernel: self.name.clone(),
                problem,
            })
        };
        let most = self.max_threads.unwrap_or(1024);
        let Grid { blocks, threads } = grid;
        if blocks == 0 || blocks > i32::MAX as u32 || threads == 0 || threads > most {
            return refuse(format!(
                "{blocks} blocks of {threads} threads, expected 1 to {} of 1 to {most}",
                i32::MAX
            ));
        }
        let (expected, found) = (self.parameters.len(), parameters.len());
        if expected != found {
            return refuse(format!("{found} parameters, expected {expected}"));
        }
        let mut slots = self.slots.clone();
        for (index, (parameter, &value)) in self.parameters.iter().zip(parameters).enumerate() {
            if parameter.bytes == 4 && value > u32::MAX.into() {
                return refuse(format!("parameter {index} is {value}, expected 4 bytes"));
            }
            slots[parameter.slot as usize] = value;
        }
        slots[self.special.threads as usize] = threads.into();
        slots[self.special.blocks as usize] = blocks.into();
        Ok(slots)
    }
}

struct Block<'a, M> {
    kernel: &'a Kernel,
    index: u32,
    shared: SharedMemory,
    accesses: &'a mut GlobalAccesses,
    memory: &'a mut M,
}

/// Where a thread stops.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    /// At a barrier, after which this instruction is the next.
    Barrier(usize),
    End,
}

impl<M: Memory> Block<'_, M> {
    /// Runs the threads, which have `length` slots each.
    fn run(mut self, slots: &mut [u64], length: usize) -> Result<(), Error> {
        let mut start = 0;
        loop {
            let mut first = None;
            for (thread, slots) in (0..).zip(slots.chunks_exact_mut(length)) {
                let mut at = start;
                let stop = self.run_thread(thread, slots, &mut at);
                let stop = stop.and_then(|stop| match *first.get_or_insert(stop) == stop {
                    true => Ok(stop),
                    false => Err(Fault::Divergence),
                });
                if let Err(fault) = stop {
                    return Err(self.error(thread, at, fault));
                }
            }
            match first {
                Some(Stop::Barrier(next)) => start = next,
                Some(Stop::End) | None => return Ok(()),
            }
            self.shared.barrier();
        }
    }

    fn error(&self, thread: u32, at: usize, fault: Fault) -> Error {
        let (line, text) = self.kernel.lines[at].clone();
        Error::Fault {
            kernel: self.kernel.name.clone(),
            block: self.index,
            thread,
            line,
            text,
            fault,
        }
    }

    /// Runs a thread from the instruction `at` to a barrier or its end. `at` is left at the last instruction.
    fn run_thread(
        &mut self,
        thread: u32,
        slots: &mut [u64],
        at: &mut usize,
    ) -> Result<Stop, Fault> {
        let instructions = &self.kernel.instructions;
        let mut next = *at;
        for _ in 0..MOST_INSTRUCTIONS {
            *at = next;
            next += 1;
            let instruction = &instructions[*at];
            let get = |slot: Slot| slots[slot as usize];
            if let Some(guard) = instruction.guard
                && (get(guard.predicate) != 0) != guard.expected
            {
                continue;
            }
            let (to, value) = match instruction.operation {
                Operation::Binary {
                    function,
                    width,
                    to,
                    from: [a, b],
                } => (to, binary(function, width, get(a), get(b))?),
                Operation::Funnel {
                    left,
                    to,
                    from: [low, high],
                    by,
                } => {
                    let (both, by) = (get(high) << 32 | get(low), get(by) % 32);
                    let value = if left { both << by >> 32 } else { both >> by };
                    (to, Width::Bits32.truncate(value))
                }
                Operation::Compare {
                    comparison,
                    flip,
                    to,
                    from: [a, b],
                } => {
                    let is_true = compare(comparison, get(a) ^ flip, get(b) ^ flip);
                    (to, is_true.into())
                }
                Operation::Select {
                    to,
                    from: [a, b],
                    predicate,
                } => (to, if get(predicate) != 0 { get(a) } else { get(b) }),
                Operation::Not { width, to, from } => (to, width.truncate(!get(from))),
                Operation::Move { width, to, from } => (to, width.truncate(get(from))),
                Operation::Load { space, access } => {
                    self.load(thread, slots, space, &access)?;
                    continue;
                }
                Operation::Store { space, access } => {
                    self.store(thread, slots, space, &access)?;
                    continue;
                }
                Operation::Branch { target } => {
                    next = target;
                    continue;
                }
                Operation::Barrier => return Ok(Stop::Barrier(next)),
                Operation::Return => return Ok(Stop::End),
            };
            slots[to as usize] = value;
        }
        Err(Fault::Endless)
    }

    fn load(
        &mut self,
        thread: u32,
        slots: &mut [u64],
        space: Space,
        access: &Access,
    ) -> Result<(), Fault> {
        let address = address(slots, access)?;
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..access.bytes()];
        match space {
            Space::Shared => self.shared.read(thread, address, bytes)?,
            Space::Global => {
                let read = self.memory.read(address, bytes);
                read.map_err(|denied| fault(denied, false, address, bytes.len()))?;
                self.accesses.add(false, address, bytes.len())?;
            }
        }
        let elements = bytes.chunks_exact(access.element.into());
        for (&to, element) in access.values().iter().zip(elements) {
            let mut value = [0; 8];
            value[..element.len()].copy_from_slice(element);
            slots[to as usize] = u64::from_le_bytes(value);
        }
        Ok(())
    }

    fn store(
        &mut self,
        thread: u32,
        slots: &[u64],
        space: Space,
        access: &Access,
    ) -> Result<(), Fault> {
        let address = address(slots, access)?;
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..access.bytes()];
        let elements = bytes.chunks_exact_mut(access.element.into());
        for (&from, element) in access.values().iter().zip(elements) {
            let value = slots[from as usize].to_le_bytes();
            element.copy_from_slice(&value[..element.len()]);
        }
        match space {
            Space::Shared => self.shared.write(thread, address, bytes),
            Space::Global => {
                let written = self.memory.write(address, bytes);
                written.map_err(|denied| fault(denied, true, address, bytes.len()))?;
                self.accesses.add(true, address, bytes.len())
            }
        }
    }
}

fn fault(denied: Denied, write: bool, address: u64, bytes: usize) -> Fault {
    match denied {
        Denied::OutOfBounds => Fault::OutOfBounds {
            write,
            address,
            bytes,
        },
        Denied::Uninitialized => Fault::Uninitialized { address, bytes },
    }
}

fn address(slots: &[u64], access: &Access) -> Result<u64, Fault> {
    let address = slots[access.base as usize].wrapping_add_signed(access.offset);
    let bytes = access.bytes();
    match address.is_multiple_of(bytes as u64) {
        true => Ok(address),
        false => Err(Fault::Misaligned { address, bytes }),
    }
}

#[inline]
fn binary(function: Binary, width: Width, a: u64, b: u64) -> Result<u64, Fault> {
    // Shifts by the width or more leave nothing.
    let shift = |shifted: fn(u64, u32) -> u64| match b < width.bits().into() {
        true => shifted(a, b as u32),
        false => 0,
    };
    let value = match function {
        Binary::Add => a.wrapping_add(b),
        Binary::Subtract => a.wrapping_sub(b),
        Binary::Multiply => a.wrapping_mul(b),
        Binary::MultiplyWide => return Ok(a * b),
        Binary::Divide => a.checked_div(b).ok_or(Fault::DivisionByZero)?,
        Binary::Remainder => a.checked_rem(b).ok_or(Fault::DivisionByZero)?,
        Binary::Minimum => a.min(b),
        Binary::Maximum => a.max(b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::ShiftLeft => shift(|a, b| a << b),
        Binary::ShiftRight => shift(|a, b| a >> b),
    };
    Ok(width.truncate(value))
}

fn compare(comparison: Comparison, a: u64, b: u64) -> bool {
    match comparison {
        Comparison::Equal => a == b,
        Comparison::NotEqual => a != b,
        Comparison::Less => a < b,
        Comparison::LessOrEqual => a <= b,
        Comparison::Greater => a > b,
        Comparison::GreaterOrEqual => a >= b,
    }
}
