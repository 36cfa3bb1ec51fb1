//! A kernel that was parsed.

use crate::instruction::{Instruction, Slot};

/// The size of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks of the launch.
    pub blocks: u32,
    /// Threads of each block.
    pub threads: u32,
}

/// A kernel that can be run.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    /// The most threads of a block, where the PTX says it.
    pub(crate) max_threads: Option<u32>,
    pub(crate) shared_bytes: usize,
    pub(crate) instructions: Vec<Instruction>,
    /// Line and text of each instruction.
    pub(crate) lines: Vec<(usize, String)>,
    /// What a thread starts with: constants in their slots, zeros elsewhere.
    pub(crate) slots: Vec<u64>,
    pub(crate) special: SpecialSlots,
}

#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) slot: Slot,
    pub(crate) bytes: usize,
}

/// The slots of the special registers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SpecialSlots {
    pub(crate) thread: Slot,
    pub(crate) block: Slot,
    pub(crate) threads: Slot,
    pub(crate) blocks: Slot,
}

impl Kernel {
    /// The name of its entry point.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many bytes each parameter has: 4 or 8.
    pub fn parameter_bytes(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.parameters.iter().map(|parameter| parameter.bytes)
    }
}
