//! The locks and threads of the queue, the index and the flusher: those of the standard library, or of
//! the model checker that tries how they may interleave (`--cfg shuttle`).

#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard},
    thread, thread_local,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard},
    thread, thread_local,
};
