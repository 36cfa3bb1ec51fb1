//! Instructions with their operands resolved.
//!
//! A thread has slots: its registers, the constants and parameters of the kernel and the special registers. So
//! every operand is a slot. A value is kept as wide as its register, with zeros above.

/// The index of a slot.
pub(crate) type Slot = u32;

/// How wide a register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Predicate,
    Bits16,
    Bits32,
    Bits64,
}

impl Width {
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::Predicate => 1,
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }

    pub(crate) fn truncate(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - self.bits()))
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) guard: Option<Guard>,
    pub(crate) operation: Operation,
}

/// The predicate, and the value with which the instruction is executed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub(crate) predicate: Slot,
    pub(crate) expected: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Binary {
        function: Binary,
        width: Width,
        to: Slot,
        from: [Slot; 2],
    },
    /// Shifts two words, the low one first.
    Funnel {
        left: bool,
        to: Slot,
        from: [Slot; 2],
        by: Slot,
    },
    Compare {
        comparison: Comparison,
        /// The sign bit of signed numbers: with it inverted they compare as unsigned ones.
        flip: u64,
        to: Slot,
        from: [Slot; 2],
    },
    Select {
        to: Slot,
        from: [Slot; 2],
        predicate: Slot,
    },
    Not {
        width: Width,
        to: Slot,
        from: Slot,
    },
    /// Cuts off the bits above `width`.
    Move {
        width: Width,
        to: Slot,
        from: Slot,
    },
    Load {
        space: Space,
        access: Access,
    },
    Store {
        space: Space,
        access: Access,
    },
    Branch {
        target: usize,
    },
    Barrier,
    Return,
}

impl Operation {
    /// The slots that are read.
    pub(crate) fn sources(&self) -> Vec<Slot> {
        match *self {
            Self::Binary { from, .. } | Self::Compare { from, .. } => from.to_vec(),
            Self::Funnel {
                from: [a, b], by, ..
            } => vec![a, b, by],
            Self::Select {
                from: [a, b],
                predicate,
                ..
            } => vec![a, b, predicate],
            Self::Not { from, .. } | Self::Move { from, .. } => vec![from],
            Self::Load { access, .. } => vec![access.base],
            Self::Store { access, .. } => [access.values(), &[access.base]].concat(),
            Self::Branch { .. } | Self::Barrier | Self::Return => Vec::new(),
        }
    }

    /// The slots that are written.
    pub(crate) fn targets(&self) -> Vec<Slot> {
        match *self {
            Self::Binary { to, .. }
            | Self::Funnel { to, .. }
            | Self::Compare { to, .. }
            | Self::Select { to, .. }
            | Self::Not { to, .. }
            | Self::Move { to, .. } => vec![to],
            Self::Load { access, .. } => access.values().to_vec(),
            Self::Store { .. } | Self::Branch { .. } | Self::Barrier | Self::Return => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    /// The low half of the product.
    Multiply,
    /// The product of two halves of a word, or of two words.
    MultiplyWide,
    Divide,
    Remainder,
    Minimum,
    Maximum,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The kernels take no address of shared memory as a generic one, so that generic addresses are global.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
}

/// Up to four neighbouring elements, from or to a slot each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) base: Slot,
    pub(crate) offset: i64,
    /// Bytes of an element.
    pub(crate) element: u8,
    pub(crate) count: u8,
    pub(crate) values: [Slot; 4],
}

impl Access {
    pub(crate) fn bytes(&self) -> usize {
        usize::from(self.element) * usize::from(self.count)
    }

    pub(crate) fn values(&self) -> &[Slot] {
        &self.values[..usize::from(self.count)]
    }
}
