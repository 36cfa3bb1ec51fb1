//! What parsing and running return instead of a result.

use thiserror::Error;

/// Why a PTX file could not be parsed, or a kernel not be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The file has something that the interpreter does not know.
    #[error("line {line}: {problem}: `{text}`")]
    Syntax {
        /// Counted from one.
        line: usize,
        /// The statement.
        text: String,
        /// What is unknown or wrong.
        problem: &'static str,
    },
    /// No kernel of the file has the name.
    #[error("no kernel is named {name}; the file has {}", known.join(", "))]
    NoKernel {
        /// The name that was asked for.
        name: String,
        /// The names of all kernels.
        known: Vec<String>,
    },
    /// The launch does not fit the kernel.
    #[error("{kernel} cannot be launched: {problem}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// Which number is wrong, and what was expected.
        problem: String,
    },
    /// A thread did what is undefined or depends on the order of threads.
    #[error("{kernel}, block {block}, line {line}: thread {thread} {fault}: `{text}`")]
    Fault {
        /// The kernel.
        kernel: String,
        /// The index of the block.
        block: u32,
        /// The index of the thread in its block.
        thread: u32,
        /// The line of the instruction, counted from one.
        line: usize,
        /// The instruction.
        text: String,
        /// What the thread did.
        fault: Fault,
    },
}

/// What a thread did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Fault {
    /// Global memory that was not passed to the launch, or shared memory that the kernel does not have.
    #[error("{} {bytes} bytes out of bounds at {address:#x}", if *.write { "writes" } else { "reads" })]
    OutOfBounds {
        write: bool,
        address: u64,
        bytes: usize,
    },
    /// The address is no multiple of the size of the access.
    #[error("accesses {bytes} bytes at {address:#x}, which is misaligned")]
    Misaligned { address: u64, bytes: usize },
    /// The memory has no value yet.
    #[error("reads {bytes} bytes at {address:#x}, which were never written")]
    Uninitialized { address: u64, bytes: usize },
    /// Another thread wrote the bytes, or read what this one writes, since the last barrier.
    #[error("races with thread {other} for shared memory at {address:#x}")]
    SharedRace { address: u64, other: u32 },
    /// Bytes of global memory are written twice in a launch, or read and written.
    #[error("{} global memory at {address:#x} that this launch has accessed", if *.write { "writes" } else { "reads" })]
    GlobalRace { write: bool, address: u64 },
    /// The threads of a block do not reach the same barriers, or end before one.
    #[error("leaves the barriers that thread 0 reaches")]
    Divergence,
    /// A quotient or remainder of zero.
    #[error("divides by zero")]
    DivisionByZero,
    /// No barrier and no end after very many instructions.
    #[error("does not reach a barrier or its end")]
    Endless,
}
