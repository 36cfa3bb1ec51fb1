//! Faults for tests of the store: a file system in memory that loses what was not synced, an object store in
//! memory, calls that fail, child processes that are killed, and the functions that fuzzers call. The tests are in
//! `tests/`; those of whole modules in `torchcache-soak`.

#![deny(missing_docs)]

pub mod cases;
pub mod compaction;
pub mod dir_objects;
pub mod faulty;
pub mod fuzzed;
pub mod memory;
pub mod objects;
pub mod process;
pub mod roles;
pub mod rows;
pub mod sim;
mod sys;
