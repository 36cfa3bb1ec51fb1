//! The functions that fuzzers call: they take any bytes, and panic if a guarantee does not hold. The
//! fuzzers are in `tests/fuzz/`; a test runs their seeds through the same functions.

mod admin;
mod footer;
mod input;
mod manifest;
mod operations;
pub mod reference;
mod segment;

pub use footer::run as footer;
pub use manifest::run as manifest;
pub use operations::run as operations;
pub use segment::run as segment;

/// A function that any bytes may be given to.
pub type FuzzTarget = fn(&[u8]);

/// Every target, by its name and that of the folder with its inputs.
pub const TARGETS: [(&str, FuzzTarget); 4] = [
    ("segment", segment),
    ("footer", footer),
    ("manifest", manifest),
    ("operations", operations),
];
