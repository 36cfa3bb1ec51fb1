//! Everything that can happen to a cache, caused on purpose, and every row checked afterwards.
//!
//! Each file of `scenarios` causes one kind of fault, many times over, and returns a [`Tally`]: how
//! often it was caused, how often the store was as promised afterwards, how many rows were looked
//! at, and how many of them were wrong or lost. The tests run each scenario in a short form, the
//! program `soak` in a long one, together with those of whole modules.

#![deny(missing_docs)]

pub mod children;
pub mod faulty;
pub mod fuzzed;
mod log;
mod program;
pub mod rows;
pub mod scenarios;
pub mod sim;
mod sys;
pub mod tally;

use peak_alloc::PeakAlloc;

/// Every allocation of the process, counted.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

pub use program::main;
pub use scenarios::{Part, Role, STORE, Scenario, survives};
pub use tally::Tally;
