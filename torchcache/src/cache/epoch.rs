//! [`Epoch`]: when a call began, between two calls that remove rows.

/// The time between two calls of `clear` or `remove`, in each tier. A call takes it before its lookup; what it
/// brings in a later one is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) memory: u64,
    pub(crate) store: u64,
}
