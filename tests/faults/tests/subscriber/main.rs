//! A log subscriber that calls stores: no lock of a store is held while an event is emitted, and the
//! flusher thread waits for nothing. The faults are caused on the caller's thread and on the flusher's.

mod callers;
mod case;
mod closing;
mod flusher;
mod log;
