//! Administration of caches in a simulated object store, with faults at each request, and with other processes that do the
//! same or read meanwhile.

mod common;
mod compacting;
mod faults;
mod listing;
mod properties;
mod pruning;
mod transfers;
