//! A log subscriber that calls stores: no lock of a store is held while an event is emitted.

mod callers;
mod case;
mod closing;
mod log;
